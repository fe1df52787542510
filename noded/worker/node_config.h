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

namespace reelfs::noded {

/// noded.toml, the same for all worker processes of a node. Described in noded(8).
struct NodeConfig {
  Uuid cluster;
  std::string name;
  std::string rack;
  std::vector<rpc::Endpoint> indexes;
  std::vector<rpc::Endpoint> addresses{{"127.0.0.1", 0}};  // an external port is opened on each
  std::uint32_t internal_port = 0;                         // on the loopback address
  std::uint32_t workers = 0;  // one per core where it is left out, and at least two
  std::vector<std::filesystem::path> devices;
  std::filesystem::path state_dir;               // where what was added and removed since is kept
  std::chrono::milliseconds device_limit{3000};  // of one call of a device: then it is out of service
  std::chrono::milliseconds scrub_period =
      std::chrono::hours(14 * 24);  // each copy is verified; 0: when ordered
  std::uint64_t scrub_rate =
      32 * kMiB;  // read from each device in a second at most: a fifth of a disk; 0: none
  std::optional<rpc::Endpoint> metrics_listen;  // of worker 1, the others on the ports above; absent: none
  rpc::TlsFiles tls;
  LogConfig log;

  /// The file of devices added and removed while the node ran.
  std::filesystem::path device_list() const { return state_dir / (name + ".devices.json"); }
};

/// @errors not_found, bad_config naming file and line
Result<NodeConfig> load_node_config(const std::filesystem::path& path);

}  // namespace reelfs::noded
