#include "noded/worker/node_config.h"

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <thread>
#include <utility>

#include "common/config/config.h"
#include "noded/device/superblock.h"

namespace reelfs::noded {
namespace {

constexpr std::uint32_t kMaxWorkers = 1024;
constexpr std::size_t kMaxAddresses = 16;
constexpr std::uint64_t kLongestScrubPeriod = 10ULL * 365 * 86'400'000;  // ms

/// A node's name is part of the names of its shared memory and stands in superblocks.
bool is_node_name(const std::string& name) {
  const auto allowed = [](unsigned char c) {
    return std::isalnum(c) != 0 || c == '-' || c == '_' || c == '.';
  };
  return !name.empty() && name.size() <= kMaxNodeNameBytes && std::all_of(name.begin(), name.end(), allowed);
}

/// The first one is what the node is known by.
std::vector<rpc::Endpoint> read_addresses(config::Table& root) {
  std::vector<rpc::Endpoint> addresses;
  const auto add = [&](const std::vector<std::string>& hosts, rpc::Traffic traffic) {
    for (const auto& host : hosts) addresses.push_back({host, 0, traffic, {}});
  };
  std::string host;
  std::vector<std::string> hosts, client_hosts, copy_hosts;
  root.read("host", host);
  root.read("hosts", hosts);
  root.read("client_hosts", client_hosts);
  root.read("copy_hosts", copy_hosts);
  if (!host.empty()) hosts.insert(hosts.begin(), host);
  add(hosts, rpc::Traffic::any);
  add(client_hosts, rpc::Traffic::clients);
  add(copy_hosts, rpc::Traffic::copies);
  if (addresses.empty()) add({"127.0.0.1"}, rpc::Traffic::any);
  return addresses;
}

Result<void> check_addresses(const std::vector<rpc::Endpoint>& addresses) {
  if (addresses.size() > kMaxAddresses)
    return Error(Errc::bad_config, "more than " + std::to_string(kMaxAddresses) + " addresses");
  for (auto one = addresses.begin(); one != addresses.end(); ++one) {
    if (one->host.empty()) return Error(Errc::bad_config, "an address is empty");
    if (std::any_of(addresses.begin(), one, [&](const auto& other) { return other.host == one->host; }))
      return Error(Errc::bad_config, "address " + one->host + " is named twice");
  }
  return ok();
}

/// A node goes on with the others while one of its workers is started again.
std::uint32_t default_workers() {
  return std::clamp<std::uint32_t>(std::thread::hardware_concurrency(), 2, kMaxWorkers);
}

}  // namespace

Result<NodeConfig> load_node_config(const std::filesystem::path& path) {
  REELFS_TRY(auto file, config::File::load(path));
  auto root = file.root();
  NodeConfig config;
  std::string cluster;
  std::vector<std::string> devices;
  for (const char* key : {"cluster", "name", "indexes", "internal_port"}) root.require(key);
  root.read("cluster", cluster);
  root.read("name", config.name);
  root.read("rack", config.rack);
  root.read("indexes", config.indexes);
  config.addresses = read_addresses(root);
  root.read("internal_port", config.internal_port, {.min = 1, .max = 65535});
  config.workers = default_workers();
  root.read("workers", config.workers, {.min = 1, .max = kMaxWorkers});
  root.read("devices", devices);
  root.read("state_dir", config.state_dir);
  root.read_duration("device_limit", config.device_limit, {.min = 100, .max = 600'000});
  root.read_duration("scrub_period", config.scrub_period, {.min = 0, .max = kLongestScrubPeriod});
  root.read_bytes("scrub_rate", config.scrub_rate, {.min = 0, .max = kTiB});
  rpc::Endpoint metrics;
  root.read("metrics_listen", metrics);
  if (!metrics.host.empty()) config.metrics_listen = metrics;
  root.read("tls", config.tls);
  root.read("log", config.log);
  REELFS_TRY(file.finish());
  const auto where = path.string() + ": ";
  auto uuid = Uuid::parse(cluster);
  if (!uuid) return Error(Errc::bad_config, where + "cluster is not a UUID");
  config.cluster = uuid.value();
  if (!is_node_name(config.name)) {
    return Error(Errc::bad_config, where + "name is to be 1 to 63 of letters, digits, '-', '_' and '.'");
  }
  if (auto sound = check_addresses(config.addresses); !sound)
    return Error(Errc::bad_config, where + sound.error().message());
  if (config.indexes.empty()) return Error(Errc::bad_config, where + "indexes names no index server");
  const auto directory = std::filesystem::absolute(path).parent_path();
  if (config.state_dir.empty()) {
    const char* given = std::getenv("STATE_DIRECTORY");  // systemd.exec(5), "StateDirectory="
    config.state_dir = given != nullptr && *given != '\0' ? std::filesystem::path(given) : directory;
  }
  config.state_dir = directory / config.state_dir;
  for (const auto& device : devices) {
    auto absolute = (directory / device).lexically_normal();
    if (std::find(config.devices.begin(), config.devices.end(), absolute) != config.devices.end()) {
      return Error(Errc::bad_config, where + "device " + device + " is named twice");
    }
    config.devices.push_back(std::move(absolute));
  }
  return config;
}

}  // namespace reelfs::noded
