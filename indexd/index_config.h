#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "common/base/ids.h"
#include "common/base/result.h"
#include "common/base/units.h"
#include "common/observe/log.h"
#include "common/rpc/endpoint.h"
#include "common/rpc/tls.h"

namespace reelfs::indexd {

/// indexd.toml, see indexd(8).
struct IndexConfig {
  Uuid cluster;
  std::string name = "index1";
  std::vector<rpc::Endpoint> listen{{"127.0.0.1", 7400}};
  std::filesystem::path data_dir;
  std::optional<rpc::Endpoint> metrics_listen;  // absent: no metrics endpoint
  std::uint32_t copies = 2;                     // of new channels
  std::uint32_t journal_copies = 3;             // on storage nodes, where there are as many; 0: none
  std::uint64_t block_bytes = 64 * kMiB;
  std::uint64_t compaction_rate = 16 * kMiB;  // bytes per second, an eighth of what one disk writes; 0: none
  std::uint64_t repair_rate = 256 * kMiB;     // bytes per second; see ServiceOptions
  std::chrono::milliseconds repair_delay = std::chrono::minutes(10);  // see ServiceOptions
  bool adopt_blank_devices = false;  // an operator's blank disk is not ours to write to unless he says so
  rpc::TlsFiles tls;
  LogConfig log;

  /// @errors not_found, bad_config naming file and line
  static Result<IndexConfig> load(const std::filesystem::path& path);
  static Result<IndexConfig> parse(std::string_view text, const std::filesystem::path& path);
};

}  // namespace reelfs::indexd
