#include "common/base/assert.h"
#include "common/base/ids.h"
#include "common/config/config.h"
#include "common/observe/log.h"
#include "tests/fuzz/fuzz.h"

namespace reelfs::fuzz {

void run(std::span<const std::byte> input) {
  const std::string_view text(reinterpret_cast<const char*>(input.data()), input.size());
  if (const auto endpoint = rpc::Endpoint::parse(text)) {
    REELFS_ASSERT(rpc::Endpoint::parse(endpoint.value().to_string()).value() == endpoint.value());
  }
  if (const auto id = Uuid::parse(text))
    REELFS_ASSERT(Uuid::parse(id.value().to_string()).value() == id.value());
  (void)config::parse_bytes(text);

  auto file = config::File::parse(text, "fuzz.toml");
  if (!file) {
    REELFS_ASSERT(file.error().code() == Errc::bad_config);
    return;
  }
  auto table = file.value().root();
  std::string name;
  bool adopt = false;
  std::uint32_t workers = 2;
  std::uint64_t bytes = 4096;
  std::chrono::milliseconds timeout(1);
  std::filesystem::path data;
  rpc::Endpoint listen;
  std::vector<std::string> devices;
  std::vector<rpc::Endpoint> indexes;
  rpc::TlsFiles tls;
  LogConfig log;
  table.require("name");
  table.read("name", name);
  table.read("adopt", adopt);
  table.read("workers", workers, {.min = 1, .max = 16});
  table.read_bytes("block_size", bytes, {.min = 4096, .max = 1 << 30});
  table.read_duration("timeout", timeout, {.min = 1, .max = 60'000});
  table.read("data", data);
  table.read("listen", listen);
  table.read("devices", devices);
  table.read("indexes", indexes);
  table.read("tls", tls);
  table.read("log", log);
  REELFS_ASSERT(workers >= 1 && workers <= 16);
  REELFS_ASSERT(bytes >= 4096 && bytes <= 1 << 30);
  REELFS_ASSERT(timeout.count() >= 1 && timeout.count() <= 60'000);
  const auto finished = file.value().finish();
  if (!finished) REELFS_ASSERT(finished.error().code() == Errc::bad_config);
}

std::vector<std::string> seeds() {
  return {
      "name = 'a'\nadopt = true\nworkers = 4\nblock_size = '64M'\ntimeout = '30s'\ndata = 'd'\n"
      "listen = '127.0.0.1:7400'\ndevices = ['x', 'y']\nindexes = ['h:1']\n[tls]\nca = 'a'\ncert = 'b'\nkey "
      "= 'c'\n"
      "[log]\nlevel = 'info'\n",
      "name = 1\nunknown = [1, {a = 2}]\n", "[::1]:7400", "64MiB", "6ba7b810-9dad-11d1-80b4-00c04fd430c8"};
}

}  // namespace reelfs::fuzz
