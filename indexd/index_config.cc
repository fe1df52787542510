#include "indexd/index_config.h"

#include <bit>
#include <utility>

#include "common/config/config.h"

namespace reelfs::indexd {

namespace {

Result<IndexConfig> read(config::File file, const std::filesystem::path& path) {
  IndexConfig config;
  auto table = file.root();
  std::string cluster;
  rpc::Endpoint metrics;
  table.require("cluster");
  table.read("cluster", cluster);
  table.read("name", config.name);
  table.read("listen", config.listen);
  table.require("data_dir");
  table.read("data_dir", config.data_dir);
  table.read("metrics_listen", metrics);
  table.read("copies", config.copies, {.min = 1, .max = 4});
  table.read("journal_copies", config.journal_copies, {.min = 0, .max = 4});
  table.read_bytes("block_size", config.block_bytes, {.min = 4 * kMiB, .max = kGiB});
  table.read_bytes("compaction_rate", config.compaction_rate, {.min = 0, .max = kTiB});
  table.read_bytes("repair_rate", config.repair_rate, {.min = kMiB, .max = kTiB});
  table.read_duration("repair_delay", config.repair_delay, {.min = 0, .max = 30LL * 24 * 3600 * 1000});
  table.read("adopt_blank_devices", config.adopt_blank_devices);
  table.read("tls", config.tls);
  table.read("log", config.log);
  REELFS_TRY(file.finish());
  if (config.listen.empty()) return Error(Errc::bad_config, path.string() + ": listen: no address");
  if (!metrics.host.empty()) config.metrics_listen = metrics;
  auto id = Uuid::parse(cluster);
  if (!id) return Error(Errc::bad_config, path.string() + ": cluster: " + id.error().message());
  config.cluster = id.value();
  if (!std::has_single_bit(config.block_bytes)) {
    return Error(Errc::bad_config, path.string() + ": block_size: not a power of two");
  }
  return config;
}

}  // namespace

Result<IndexConfig> IndexConfig::load(const std::filesystem::path& path) {
  REELFS_TRY(auto file, config::File::load(path));
  return read(std::move(file), path);
}

Result<IndexConfig> IndexConfig::parse(std::string_view text, const std::filesystem::path& path) {
  REELFS_TRY(auto file, config::File::parse(text, path));
  return read(std::move(file), path);
}

}  // namespace reelfs::indexd
