#include "noded/leader/node_state.h"

#include <algorithm>
#include <cctype>
#include <chrono>
#include <utility>

#include "common/async/timeout.h"
#include "common/observe/log.h"

namespace reelfs::noded {
namespace {

using namespace std::chrono_literals;

constexpr Duration kLookAgain = 5ms;
constexpr Duration kLongestStep = 100ms;  // that counts as waiting

spdlog::logger& log() {
  static auto& instance = logger("noded.device");
  return instance;
}

/// Whether an area's name is one of this node's, not that of a node whose name begins with ours.
bool is_own_area(std::string_view suffix) {
  if (suffix == "unfilled") return true;
  for (const std::string_view kind : {"dev-", "proc-"}) {
    if (!suffix.starts_with(kind)) continue;
    const auto number = suffix.substr(kind.size());
    return !number.empty() &&
           std::all_of(number.begin(), number.end(), [](unsigned char c) { return std::isdigit(c); });
  }
  return false;
}

}  // namespace

NodeState::NodeState(asio::any_io_executor executor, NodeIdentity who, DeviceAccess& devices,
                     SegmentStore& segments)
    : identity(std::move(who)),
      names(identity.cluster, identity.node_name),
      access(devices),
      store(segments),
      group_(std::move(executor)) {}

std::vector<std::string> NodeState::own_areas(const std::string& prefix) const {
  auto areas = list_shm(prefix);
  std::erase_if(areas, [&](const std::string& name) {
    return !is_own_area(std::string_view(name).substr(names.prefix().size()));
  });
  return areas;
}

std::optional<Uuid> NodeState::node_is_alive() const {
  for (const auto& name : own_areas(names.process_prefix())) {
    const auto area = ProcessTable::attach(name, identity.cluster, Uuid{});
    if (area && is_running(area.value()->process())) return area.value()->node_incarnation();
  }
  return std::nullopt;
}

Result<void> NodeState::attach(const NodeAreas& areas) {
  const auto& cluster = identity.cluster;
  if (!attached()) {
    REELFS_TRY(auto unfilled_area, UnfilledTable::attach(areas.unfilled_shm, cluster, areas.incarnation));
    REELFS_TRY(auto process_area, ProcessTable::attach(areas.process_shm, cluster, areas.incarnation));
    incarnation = areas.incarnation;
    unfilled = std::move(unfilled_area);
    process = std::move(process_area);
    store.attach(*process, *unfilled);
  } else if (incarnation != areas.incarnation) {
    return Error(Errc::stale_handle, "the node's shared memory was made anew");
  }
  const auto named = [&](const Device& device) {
    return std::any_of(areas.devices.begin(), areas.devices.end(), [&](const auto& area) {
      return area.device == device.id() && area.life == device.table().life();
    });
  };
  const auto devices = store.devices();
  for (const auto& device : devices) {
    if (!named(*device)) store.drop_device(device->id());
  }
  for (const auto& area : areas.devices) {
    if (store.find_device(area.device) || refused_.contains(area.life)) continue;
    if (attaching_.insert(area.life).second) group_.spawn(attach_device(area));
  }
  return ok();
}

asio::awaitable<void> NodeState::attach_device(NodeAreas::DeviceArea area) {
  auto opened = co_await access.open(area.path, DeviceAccess::Use::shared);
  attaching_.erase(area.life);
  Result<std::unique_ptr<DeviceTable>> table = Error(Errc::not_found);
  if (opened) {
    table = DeviceTable::attach(area.shm_name, identity.cluster, incarnation);
    // Made anew meanwhile: the leader's next answer names it.
    if (table && table.value()->life() != area.life) co_return;
  } else {
    table = opened.error();
  }
  if (!table) {
    // It may be there in a moment, and the leader sees it.
    const bool passing = table.error().code() == Errc::not_found || table.error().code() == Errc::busy;
    if (!passing) refused_.insert(area.life);
    log().warn("device not attached device={} id={} why=\"{}\"", area.path.string(), area.device.value,
               table.error().describe());
    co_return;
  }
  if (store.find_device(area.device)) co_return;
  log().info("device attached device={} id={}", area.path.string(), area.device.value);
  store.add_device(std::move(opened).value(), std::move(table).value());
}

asio::awaitable<void> NodeState::settle(const Clock& clock, Duration limit) {
  auto before = clock.now();
  while (!attaching_.empty() && limit > Duration::zero()) {
    co_await sleep_for(kLookAgain);
    const auto now = clock.now();
    // Where this process itself was stopped for a while, no call had a chance to end.
    limit -= std::min<Duration>(now - before, kLongestStep);
    before = now;
  }
}

asio::awaitable<void> NodeState::stop() { co_await group_.stop(); }

}  // namespace reelfs::noded
