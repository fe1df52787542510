// Leader's devices: docs/design/node.md, "Devices that come and go".
#include <algorithm>
#include <chrono>
#include <functional>
#include <utility>

#include <boost/asio/this_coro.hpp>
#include <fmt/format.h>

#include "common/async/timeout.h"
#include "common/observe/log.h"
#include "noded/device/own_descriptors.h"
#include "noded/leader/leader.h"

namespace reelfs::noded {
namespace {

using namespace std::chrono_literals;

constexpr Duration kLookPause = 1s;
constexpr Duration kFirstRetry = 2s;  // of a device that could not be used
constexpr Duration kLongestRetry = 60s;
constexpr Duration kAttendLimit = 20s;

spdlog::logger& log() {
  static auto& instance = logger("noded.leader");
  return instance;
}

using State = DeviceStatus::State;

DeviceStatus without_device(std::filesystem::path path, State state, std::string reason) {
  DeviceStatus status;
  status.path = std::move(path);
  status.state = state;
  status.reason = std::move(reason);
  return status;
}

/// What an administrator can do about a device that was not taken.
std::string advice_for(const DeviceStatus& status) {
  if (status.in_use) return "give another device, or add this one again when nobody else uses it";
  if (status.state == State::failed) return "look at the disk and at the node's log, then add it again";
  return "give another device, or clear this one if nothing on it is needed: wipefs, then zeros in its first "
         "and its last megabyte";
}

/// @errors not_found, not_permitted: what was found at the path cannot be added, and what to do
Result<void> check_taken(const DeviceStatus& status, std::uint64_t block_bytes) {
  const auto path = status.path.string();
  switch (status.state) {
    case State::online:
      return ok();
    case State::offline:
      return Error(Errc::not_found, path + ": " + status.reason);
    case State::blank:
      if (plan_geometry(status.bytes, block_bytes)) return ok();
      return Error(Errc::not_permitted,
                   fmt::format("{} is too small: it has {} bytes, one block has {}; give a larger device",
                               path, status.bytes, block_bytes));
    default:
      return Error(Errc::not_permitted,
                   fmt::format("{} is not taken: {}; {}", path, status.reason, advice_for(status)));
  }
}

/// Goes on also where whoever asked for it gives up waiting.
template <class R>
asio::awaitable<R> to_its_end(asio::awaitable<R> work) {
  const bool throws = co_await asio::this_coro::throw_if_cancelled();
  co_await asio::this_coro::throw_if_cancelled(false);
  auto done = co_await std::move(work);
  co_await asio::this_coro::throw_if_cancelled(throws);
  co_return std::move(done);
}

}  // namespace

/// Marks a place as being looked at for as long as this lives.
class Leader::Attending {
 public:
  Attending(Leader& leader, Place& place) : leader_(leader), place_(&place) { place.busy = true; }
  Attending(Attending&& other) noexcept
      : leader_(other.leader_), place_(std::exchange(other.place_, nullptr)) {}
  Attending& operator=(Attending&&) = delete;
  ~Attending() {
    if (place_ == nullptr) return;
    place_->busy = false;
    leader_.done_.notify_all();
  }

 private:
  Leader& leader_;
  Place* place_;  // places are not erased while they are busy
};

// ---- looking

void Leader::look_at_devices() {
  for (const auto& path : list_.paths()) begin_to_attend(path);
}

asio::awaitable<void> Leader::watch_devices() {
  for (;;) {
    look_at_devices();
    const auto again = Deadline::after(clock_, kLookPause);
    (void)co_await with_timeout(clock_, again, wait_for(look_now_));
  }
}

asio::awaitable<void> Leader::bring_up_missing() {
  const auto patience = Deadline::after(clock_, kBringUpLimit);
  look_at_devices();
  const auto busy = [this] {
    return std::any_of(places_.begin(), places_.end(), [](const auto& entry) { return entry.second.busy; });
  };
  while (busy()) {
    const auto looked = co_await done_.wait(clock_, patience);
    if (!looked) co_return;
  }
}

void Leader::begin_to_attend(const std::filesystem::path& path) {
  auto& place = places_[path];
  if (place.busy) return;
  if (place.status.path.empty()) {
    set_status(place, without_device(path, State::offline, "it is being brought up"));
  }
  group_.spawn(attend(path, Attending(*this, place)));
}

DevicePtr Leader::device_at(const Place& place) const {
  if (!place.status.device) return nullptr;
  auto device = state_.store.find_device(place.status.device);
  return device && device->table().path() == place.status.path.string() ? device : nullptr;
}

asio::awaitable<void> Leader::attend(std::filesystem::path path, Attending /*until it ends*/) {
  const auto looked = co_await state_.access.look(path);
  auto& place = places_.at(path);
  if (!looked || place.status.state == State::removed) co_return;
  const auto& sight = looked.value();
  const bool exchanged = sight.present && place.sight.present && sight != place.sight;
  if (const auto device = device_at(place)) {
    if (!sight.present || exchanged) {
      const auto reason = exchanged ? std::string("another device is at its path") : sight.reason;
      take_away(*device, DeviceHealth::offline, reason);
      auto status = place.status;
      status.state = State::offline;
      status.reason = reason;
      set_status(place, std::move(status));
      co_return;
    }
    if (!place.sight.present) place.sight = sight;
    if (device->usable()) co_return;
    const auto verdict = device->table().verdict();
    if (place.status.state == State::online) {
      auto status = place.status;
      status.state = State::failed;
      status.reason = verdict.reason;
      status.since_ns = verdict.since_ns;
      set_status(place, std::move(status));
    }
    // What hung may answer again. After an I/O error somebody is to look at the device first.
    const bool may_return = verdict.health == DeviceHealth::stuck && device->queue_depth() == 0;
    if (!may_return || clock_.now() < place.retry_at) co_return;
    state_.store.drop_device(device->id());
  } else if (!sight.present) {
    place.sight = DeviceSight();
    place.retry_at = TimePoint();
    const bool told = place.status.state == State::offline && place.status.reason == sight.reason;
    if (told) co_return;
    auto status = without_device(path, State::offline, sight.reason);
    status.device = place.status.device;
    status.uuid = place.status.uuid;
    set_status(place, std::move(status));
    co_return;
  } else {
    const bool waits = place.status.state == State::blank || clock_.now() < place.retry_at;
    if (waits && !exchanged && place.sight.present) co_return;
  }
  place.sight = sight;
  co_await bring_up(path);
}

// ---- bringing up

Result<void> Leader::admit(const std::filesystem::path& path, const Superblock& superblock) {
  const auto exists = [&](const std::string& there) {
    return Error(Errc::exists, fmt::format("it is device {}, which is {} already: a copy of it?",
                                           superblock.device.value, there));
  };
  const auto other = state_.store.find_device(superblock.device);
  if (other && other->table().path() != path.string()) return exists(other->table().path());
  const auto added = being_added_.find(superblock.device);
  if (added != being_added_.end() && added->second != path) return exists(added->second.string());
  return ok();
}

/// With its shared memory, which nobody is told of yet. @pre the place is busy
asio::awaitable<BroughtUp> Leader::make_ready(std::filesystem::path path) {
  auto admitting = [this, path](const Superblock& superblock) { return admit(path, superblock); };
  AdmitDevice admit_device(std::move(admitting));
  auto returning = [this](DeviceId device) { return took_over_ || served_.contains(device); };
  WasAway was_away(std::move(returning));
  co_return co_await bring_up_device(state_.identity, state_.incarnation, path, state_.access,
                                     std::move(admit_device), std::move(was_away));
}

/// @pre the place is busy
asio::awaitable<void> Leader::bring_up(std::filesystem::path path) {
  auto device = co_await make_ready(path);
  auto& place = places_.at(path);
  if (place.status.state == State::removed) {
    discard(device);
  } else {
    conclude(place, std::move(device));
  }
}

/// What was made ready serves from now on; what could not be is known to be like that.
void Leader::conclude(Place& place, BroughtUp device) {
  if (device.table) {
    place.retry_pause = Duration::zero();
    set_status(place, device.status);
    put_in_service(std::move(device));
    return;
  }
  place.retry_pause = std::clamp<Duration>(2 * place.retry_pause, kFirstRetry, kLongestRetry);
  place.retry_at = clock_.now() + place.retry_pause;
  // A call of its earlier life may not have ended: it is what it was.
  const bool still_failed = place.status.state == State::failed && !device.status.device;
  if (still_failed && device.status.state == State::offline) return;
  set_status(place, std::move(device.status));
}

void Leader::discard(BroughtUp& device) {
  if (device.table) remove_shm(device.table->name());
  device.table.reset();
  device.file.reset();
}

void Leader::put_in_service(BroughtUp device) {
  served_.insert(device.status.device);
  state_.store.add_device(std::move(device.file), std::move(device.table));
  group_.spawn(write_table(state_.store.devices().back()));
  if (state_.unfilled) note_unfilled(*state_.store.devices().back());
}

/// Descriptors that were damaged, or are known better now.
asio::awaitable<void> Leader::write_table(DevicePtr device) {
  const auto written = co_await device->persist_all();
  if (!written) {
    log().error("block table not repaired device={} why=\"{}\"", device->table().path(),
                written.error().describe());
  }
}

void Leader::take_away(Device& device, DeviceHealth health, const std::string& reason) {
  const auto id = device.id();
  device.retire(health, reason);
  forget_area(id, device.table().name());
  state_.store.drop_device(id);
}

/// @pre its device is out of service
void Leader::forget_area(DeviceId device, const std::string& name) {
  if (state_.unfilled) {
    for (const auto& entry : state_.unfilled->entries()) {
      if (entry.device == device.value) state_.unfilled->remove(SegmentId(entry.segment));
    }
  }
  remove_shm(name);
}

// ---- what is known

void Leader::set_status(Place& place, DeviceStatus status) {
  const bool same = place.status.state == status.state && place.status.reason == status.reason &&
                    place.status.path == status.path;
  if (status.since_ns == 0 || same) {
    status.since_ns = same ? place.status.since_ns : clock_.wall().time_since_epoch().count();
  }
  place.status = std::move(status);
  if (!same) changed_();
}

std::vector<DeviceStatus> Leader::devices() const {
  std::vector<DeviceStatus> statuses;
  for (const auto& [path, place] : places_) {
    auto status = place.status;
    const auto device = device_at(place);
    if (device && status.state == State::online && !device->usable()) {
      const auto verdict = device->table().verdict();
      status.state = State::failed;
      status.reason = verdict.reason;
      status.since_ns = verdict.since_ns;
    }
    statuses.push_back(std::move(status));
  }
  return statuses;
}

// ---- commands

Task<void> Leader::wait_until_attended(std::filesystem::path path) {
  const auto patience = Deadline::after(clock_, kAttendLimit);
  for (;;) {
    const auto at = places_.find(path);
    if (at == places_.end() || !at->second.busy) co_return ok();
    const auto looked = co_await done_.wait(clock_, patience);
    if (looked) continue;
    if (looked.error().code() != Errc::timed_out) co_return looked.error();
    co_return Error(Errc::busy, path.string() + " does not answer: try again when it does");
  }
}

/// One change at a time: each begins with what the last one left.
Task<void> Leader::change_list(std::function<void(DeviceList&)> change) {
  const auto patience = Deadline::after(clock_, kAttendLimit);
  while (list_changes_) {
    REELFS_CO_TRY(co_await done_.wait(clock_, patience));
  }
  list_changes_ = true;
  auto list = list_;
  change(list);
  auto save = [list] {
    use_own_descriptors({});
    return list.save();
  };
  auto saved = co_await files_.run(std::move(save));
  list_changes_ = false;
  done_.notify_all();
  if (saved) list_ = std::move(list);
  co_return std::move(saved);
}

Task<void> Leader::initialise_device(NewDevice device) {
  REELFS_CO_TRY(co_await wait_until_attended(device.path));
  const auto at = places_.find(device.path);
  if (at == places_.end() || at->second.status.state == State::removed) {
    co_return Error(Errc::not_found,
                    device.path.string() + " is not a device of node " + state_.identity.node_name);
  }
  auto& place = at->second;
  if (place.status.state == State::online) {
    if (place.status.uuid == device.uuid && place.status.device == device.device) co_return ok();
    co_return Error(Errc::exists, device.path.string() + " is initialised as device " +
                                      std::to_string(place.status.device.value));
  }
  const Attending attending(*this, place);
  // A device that is half written is neither blank nor ours.
  auto work = initialise_and_bring_up(std::move(device));
  co_return co_await to_its_end(std::move(work));
}

/// @pre the place is busy
Task<void> Leader::initialise_and_bring_up(NewDevice device) {
  const auto now_ns = clock_.wall().time_since_epoch().count();
  REELFS_CO_TRY(co_await initialise_blank_device(state_.identity, device, now_ns, state_.access));
  co_await bring_up(device.path);
  const auto& status = places_.at(device.path).status;
  if (status.state != State::online) co_return Error(Errc::io, status.reason);
  co_return ok();
}

Result<void> Leader::heed(const std::filesystem::path& path, std::uint64_t command) {
  if (command == 0) return ok();
  auto& last = commands_[path.lexically_normal()];
  if (command < last) {
    return Error(Errc::stale_generation, "a later command about " + path.string() + " was carried out");
  }
  last = command;
  return ok();
}

Task<DeviceStatus> Leader::add_device(std::filesystem::path path, std::uint64_t block_bytes) {
  if (!path.is_absolute()) co_return Error(Errc::invalid, "a device's path begins with /");
  path = path.lexically_normal();
  REELFS_CO_TRY(co_await wait_until_attended(path));
  const bool known = places_.contains(path);
  // In service and not in the list, it would be lost at the next start.
  auto work = try_to_add(path, block_bytes);
  auto added = co_await to_its_end(std::move(work));
  const auto at = places_.find(path);
  const bool forgotten = !added && !known && at != places_.end() && at->second.status.state != State::removed;
  if (forgotten) places_.erase(at);
  if (added) {
    log().info("device added device={} state={}", path.string(),
               added.value().state == State::online ? "online" : "blank");
    changed_();
  }
  co_return std::move(added);
}

/// It serves only once it is in the list: what was written to it before would be out of reach after the next
/// start.
Task<DeviceStatus> Leader::try_to_add(std::filesystem::path path, std::uint64_t block_bytes) {
  auto& place = places_[path];
  const Attending attending(*this, place);
  if (const auto device = device_at(place)) {
    if (device->usable()) co_return place.status;
    take_away(*device, DeviceHealth::offline, "it is being added again");
  }
  const auto before = place.status;
  REELFS_CO_TRY(const auto sight, co_await state_.access.look(path));
  place.sight = sight;
  place.status = without_device(path, State::offline, "it is being added");
  BroughtUp device;
  device.status = without_device(path, State::offline, sight.reason);
  if (sight.present) device = co_await make_ready(path);
  if (place.status.state == State::removed) device.status = place.status;  // meanwhile
  auto taken = check_taken(device.status, block_bytes);
  if (taken && !list_.contains(path)) {
    if (device.table) being_added_[device.status.device] = path;
    std::function<void(DeviceList&)> change = [path](DeviceList& list) { list.add(path); };
    taken = co_await change_list(std::move(change));
    being_added_.erase(device.status.device);
  }
  if (taken) {
    conclude(place, std::move(device));
    co_return place.status;
  }
  discard(device);
  if (list_.contains(path)) {
    conclude(place, std::move(device));
  } else if (place.status.state != State::removed) {
    place.status = before;
  }
  co_return taken.error();
}

Task<DeviceStatus> Leader::remove_device(std::filesystem::path path) {
  path = path.lexically_normal();
  const auto at = places_.find(path);
  if (at == places_.end()) {
    co_return Error(Errc::not_found, path.string() + " is not a device of node " + state_.identity.node_name);
  }
  if (at->second.status.state == State::removed) co_return at->second.status;
  auto work = take_out(std::move(path), at->second.status.device);
  co_return co_await to_its_end(std::move(work));
}

Task<DeviceStatus> Leader::take_out(std::filesystem::path path, DeviceId known) {
  DeviceList::Removed removed;
  removed.path = path;
  removed.device = known;
  removed.since_ns = clock_.wall().time_since_epoch().count();
  std::function<void(DeviceList&)> change = [removed](DeviceList& list) { list.remove(removed); };
  REELFS_CO_TRY(co_await change_list(std::move(change)));
  auto& place = places_[path];  // forgotten meanwhile where adding it failed
  const auto device = device_at(place);
  auto status = place.status;
  status.path = path;
  status.state = State::removed;
  status.reason = kRemoved;
  status.since_ns = 0;
  set_status(place, std::move(status));
  if (device) take_away(*device, DeviceHealth::removed, kRemoved);
  log().info("device removed device={}", path.string());
  co_return place.status;
}

}  // namespace reelfs::noded
