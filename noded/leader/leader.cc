#include "noded/leader/leader.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <utility>

#include <fmt/format.h>

#include "common/async/timeout.h"
#include "common/observe/log.h"
#include "noded/device/own_descriptors.h"
#include "noded/shm/crash_point.h"

namespace reelfs::noded {
namespace {

using namespace std::chrono_literals;

constexpr std::uint32_t kMinUnfilled = 1024;
constexpr std::uint32_t kMaxUnfilled = 65536;
constexpr Duration kLookAgain = 10ms;
constexpr std::size_t kSlotStep = 256;  // looked at under one lock

spdlog::logger& log() {
  static auto& instance = logger("noded.leader");
  return instance;
}

Error runs_already(const ProcessTable& table) {
  return Error(Errc::exists, "worker " + std::to_string(table.worker().value) + " runs already as process " +
                                 std::to_string(table.process().pid));
}

/// An area that is being adopted: others who want that wait.
class Adopting {
 public:
  Adopting(std::set<std::string>& areas, std::string area, Condition& done)
      : areas_(areas), area_(std::move(area)), done_(done) {
    areas_.insert(area_);
  }
  ~Adopting() {
    areas_.erase(area_);
    done_.notify_all();
  }
  Adopting(const Adopting&) = delete;
  Adopting& operator=(const Adopting&) = delete;

 private:
  std::set<std::string>& areas_;
  const std::string area_;
  Condition& done_;
};

}  // namespace

Leader::Leader(asio::any_io_executor executor, NodeState& state, const Clock& clock, Options options)
    : state_(state), clock_(clock), options_(std::move(options)), group_(std::move(executor)) {}

Task<void> Leader::start() {
  auto load = [configured = options_.devices, file = options_.device_list] {
    use_own_descriptors({});
    return DeviceList::load(configured, file);
  };
  REELFS_CO_TRY(list_, co_await files_.run(std::move(load)));
  for (const auto& removed : list_.removed()) {
    auto& status = places_[removed.path].status;
    status.path = removed.path;
    status.device = removed.device;
    status.state = DeviceStatus::State::removed;
    status.reason = kRemoved;
    status.since_ns = removed.since_ns;
  }
  if (!state_.attached()) {
    if (const auto incarnation = state_.node_is_alive()) {
      took_over_ = true;
      REELFS_CO_TRY(co_await take_over(*incarnation));
    } else {
      REELFS_CO_TRY(co_await make_anew());
    }
  } else {
    // What the leader before us brought up last may be in use by others and not yet be attached here; made
    // anew, it would have two tables.
    took_over_ = true;
    NodeAreas areas;
    areas.incarnation = state_.incarnation;
    areas.devices = device_areas(state_.incarnation);
    REELFS_CO_TRY(co_await attach(std::move(areas)));
  }
  const auto devices = state_.store.devices();
  for (const auto& device : devices) {
    const std::filesystem::path path = device->table().path();
    auto& place = places_[path];
    if (place.status.state == DeviceStatus::State::online) continue;
    DeviceStatus status;
    status.path = path;
    status.state = DeviceStatus::State::online;
    status.device = device->id();
    status.uuid = device->table().uuid();
    set_status(place, std::move(status));
  }
  co_await release_dead();
  co_await bring_up_missing();
  log().info("leading node={} worker={} devices={}", state_.identity.node_name, state_.identity.worker.value,
             state_.store.devices().size());
  co_return ok();
}

asio::awaitable<void> Leader::stop() { co_await group_.stop(); }

Task<void> Leader::make_anew() {
  for (const auto& name : state_.own_areas(state_.names.prefix())) {
    log().info("shared memory of a dead node removed name={}", name);
    remove_shm(name);
  }
  crash_point("leader.removed");
  state_.incarnation = Uuid::random();
  co_await bring_up_missing();
  std::uint32_t blocks = 0;
  for (const auto& device : state_.store.devices()) blocks += device->table().geometry().block_count;
  crash_point("leader.devices");
  const auto& identity = state_.identity;
  REELFS_CO_TRY(auto unfilled,
                UnfilledTable::create(state_.names.unfilled(), identity.cluster, state_.incarnation,
                                      std::clamp(blocks, kMinUnfilled, kMaxUnfilled)));
  state_.unfilled = std::move(unfilled);
  // Last: from here on the shared memory counts as that of a living node.
  REELFS_CO_TRY(auto process, ProcessTable::create(state_.names.process(identity.worker), identity.cluster,
                                                   state_.incarnation, identity.worker, identity.process));
  state_.process = std::move(process);
  crash_point("leader.process");
  state_.store.attach(*state_.process, *state_.unfilled);
  for (const auto& device : state_.store.devices()) note_unfilled(*device);
  co_return ok();
}

void Leader::note_unfilled(Device& device) {
  std::array<BlockSlot, kSlotStep> step;
  std::uint32_t first = 0;
  while (const auto count = device.table().copy_slots(first, step)) {
    for (std::uint32_t i = 0; i < count; ++i) {
      const auto& slot = step[i];
      const auto& descriptor = slot.descriptor;
      if (descriptor.state != BlockState::open || descriptor.fenced == 1 || slot.owner != 0) continue;
      UnfilledTable::Entry entry;
      entry.segment = descriptor.segment;
      entry.length = slot.end;
      entry.device = device.id().value;
      entry.block = first + i;
      state_.unfilled->put(entry);
    }
    first += static_cast<std::uint32_t>(count);
  }
}

Task<void> Leader::take_over(Uuid incarnation) {
  log().info("adopting the shared memory of the running node incarnation={}", incarnation.to_string());
  const auto& identity = state_.identity;
  NodeAreas areas;
  areas.incarnation = incarnation;
  areas.unfilled_shm = state_.names.unfilled();
  areas.process_shm = state_.names.process(identity.worker);
  areas.devices = device_areas(incarnation);
  // Whoever had our number before: its area is kept until its blocks are released, which needs the devices.
  REELFS_CO_TRY(co_await outlive(areas.process_shm));
  if (!ProcessTable::attach(areas.process_shm, identity.cluster, incarnation)) {
    REELFS_CO_TRY(const auto created, ProcessTable::create(areas.process_shm, identity.cluster, incarnation,
                                                           identity.worker, identity.process));
  }
  REELFS_CO_TRY(co_await attach(std::move(areas)));
  const auto patience = Deadline::after(clock_, kPredecessorLimit);
  for (;;) {
    auto released = co_await release_predecessor(identity.worker, identity.process);
    const bool again = !released && released.error().code() == Errc::exists;
    if (!again || patience.left(clock_) <= Duration::zero()) co_return std::move(released);
    co_await sleep_for(kLookAgain);
  }
}

/// Afterwards every device that serves is attached here, so that what dead workers had of it can be released:
/// one that cannot be opened is taken out of service, and begins another life when it answers.
Task<void> Leader::attach(NodeAreas areas) {
  REELFS_CO_TRY(state_.attach(areas));
  co_await state_.settle(clock_, kBringUpLimit);
  for (const auto& area : areas.devices) {
    if (state_.store.find_device(area.device)) continue;
    const auto table = DeviceTable::attach(area.shm_name, state_.identity.cluster, state_.incarnation);
    if (table) {
      table.value()->retire(DeviceHealth::offline, "the worker that leads now could not open it",
                            clock_.wall().time_since_epoch().count());
    }
    log().error("device taken out of service until it can be opened here device={} id={}", area.path.string(),
                area.device.value);
    forget_area(area.device, area.shm_name);
  }
  co_return ok();
}

/// The devices that the running node has brought up and the list names.
std::vector<NodeAreas::DeviceArea> Leader::device_areas(Uuid incarnation) {
  std::vector<NodeAreas::DeviceArea> areas;
  for (const auto& name : state_.own_areas(state_.names.prefix() + "dev-")) {
    auto table = DeviceTable::attach(name, state_.identity.cluster, incarnation);
    if (!table) {
      log().warn("shared memory left alone name={} why=\"{}\"", name, table.error().describe());
      continue;
    }
    // The last leader may have died before it did what the list says.
    if (!list_.contains(table.value()->path())) {
      table.value()->retire(DeviceHealth::removed, kRemoved, clock_.wall().time_since_epoch().count());
    }
    const auto health = table.value()->verdict().health;
    if (health == DeviceHealth::offline || health == DeviceHealth::removed) {
      forget_area(table.value()->device(), name);  // the last leader was about to
      continue;
    }
    NodeAreas::DeviceArea area;
    area.device = table.value()->device();
    area.shm_name = name;
    area.path = table.value()->path();
    area.life = table.value()->life();
    areas.push_back(std::move(area));
  }
  return areas;
}

/// Waits for the process that made the area, where there is one, to end.
Task<void> Leader::outlive(std::string process_shm) {
  const auto patience = Deadline::after(clock_, kPredecessorLimit);
  for (;;) {
    const auto area = ProcessTable::attach(process_shm, state_.identity.cluster, Uuid{});
    if (!area || !is_running(area.value()->process())) co_return ok();
    if (patience.left(clock_) <= Duration::zero()) co_return runs_already(*area.value());
    co_await sleep_for(kLookAgain);
  }
}

/// Where the worker's process shared memory is a dead process's, releases its blocks and makes it anew for
/// the successor.
Task<void> Leader::release_predecessor(WorkerId worker, ProcessIdentity successor) {
  const auto name = state_.names.process(worker);
  const auto& identity = state_.identity;
  const auto present = ProcessTable::attach(name, identity.cluster, state_.incarnation);
  if (present && present.value()->process() == successor) co_return ok();
  if (present && is_running(present.value()->process())) co_return runs_already(*present.value());
  if (present) {
    REELFS_CO_TRY(const bool adopted, co_await adopt(name));
    if (!adopted) co_return runs_already(*present.value());
  }
  REELFS_CO_TRY(auto created,
                ProcessTable::create(name, identity.cluster, state_.incarnation, worker, successor));
  if (worker == identity.worker) {
    state_.process = std::move(created);
    state_.store.attach(*state_.process, *state_.unfilled);
  }
  co_return ok();
}

/// @return whether all is released: not yet, where it runs or calls of it hang
Task<bool> Leader::adopt(std::string process_shm) {
  const auto patience = Deadline::after(clock_, kPredecessorLimit);
  while (adopting_.contains(process_shm)) {
    REELFS_CO_TRY(co_await done_.wait(clock_, patience));
  }
  const Adopting adopting(adopting_, process_shm, done_);
  const auto dead = ProcessTable::attach(process_shm, state_.identity.cluster, state_.incarnation);
  if (!dead) co_return true;
  if (is_running(dead.value()->process())) co_return false;
  REELFS_CO_TRY(const auto adopted, co_await state_.store.adopt(*dead.value()));
  const auto worker = dead.value()->worker();
  const auto pid = dead.value()->process().pid;
  const bool all = adopted.left_out.empty();
  if (all || adopted.blocks > 0) {
    log().info("released what a dead worker had worker={} pid={} blocks={} all={}", worker.value, pid,
               adopted.blocks, all);
  }
  if (!all) {
    give_up_devices(process_shm, worker, adopted.left_out);
    co_return false;
  }
  crash_point("leader.adopted");
  hanging_since_.erase(process_shm);
  remove_shm(process_shm);
  co_return true;
}

/// Takes devices out of service on which calls of a killed worker have not ended for as long as a call may
/// take.
void Leader::give_up_devices(const std::string& process_shm, WorkerId worker,
                             const std::vector<DevicePtr>& devices) {
  const auto now = clock_.now();
  const auto since = hanging_since_.try_emplace(process_shm, now).first->second;
  const auto limit = state_.store.device_call_limit();
  if (now - since < limit) return;
  for (const auto& device : devices) {
    if (!device->in_use_by(worker).value_or(false)) continue;
    device->retire(DeviceHealth::stuck,
                   fmt::format("a call of worker {}, which was killed, has not ended in {:.1f} s",
                               worker.value, std::chrono::duration<double>(limit).count()));
  }
}

asio::awaitable<void> Leader::release_dead() {
  for (const auto& name : state_.own_areas(state_.names.process_prefix())) {
    const auto process = ProcessTable::attach(name, state_.identity.cluster, state_.incarnation);
    if (!process || is_running(process.value()->process())) continue;
    if (const auto released = co_await adopt(name); !released) {
      log().error("blocks of a dead worker not released name={} why=\"{}\"", name,
                  released.error().describe());
    }
  }
}

Task<NodeAreas> Leader::join(Joining joining) {
  if (joining.first) {
    REELFS_CO_TRY(co_await release_predecessor(joining.worker, joining.process));
    log().info("worker joined worker={} pid={}", joining.worker.value, joining.process.pid);
  }
  if (joining.sees_device) look_now_.set();
  NodeAreas areas;
  areas.incarnation = state_.incarnation;
  areas.leader_pid = state_.identity.process.pid;
  areas.process_shm = state_.names.process(joining.worker);
  areas.unfilled_shm = state_.names.unfilled();
  for (const auto& device : state_.store.devices()) {
    NodeAreas::DeviceArea area;
    area.device = device->id();
    area.shm_name = device->table().name();
    area.path = device->table().path();
    area.life = device->table().life();
    areas.devices.push_back(std::move(area));
  }
  for (const auto& [path, place] : places_) {
    if (place.status.state == DeviceStatus::State::offline && !place.busy) areas.awaited.push_back(path);
  }
  co_return areas;
}

}  // namespace reelfs::noded
