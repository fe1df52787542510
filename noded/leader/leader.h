#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "common/async/blocking_pool.h"
#include "common/async/condition.h"
#include "common/async/event.h"
#include "common/async/task.h"
#include "common/async/task_group.h"
#include "common/base/clock.h"
#include "noded/leader/device_list.h"
#include "noded/leader/node_state.h"

namespace reelfs::noded {

/// How long a worker waits for the process that had its number before: one that was killed lives on until the
/// last of its system calls returns.
constexpr Duration kPredecessorLimit = std::chrono::seconds(10);
/// How long a start waits for devices. One that takes longer comes online when it is ready.
constexpr Duration kBringUpLimit = std::chrono::seconds(3);

/// The reason of a device that was removed.
inline constexpr const char* kRemoved = "taken out of service by an administrator";

/// What the one worker that holds the node's internal port does for the others: makes the shared memory or
/// adopts what is there, lets followers in, releases what dead workers had, initialises devices, and takes
/// them in and out of service as they come and go. `stop()` before destroying.
class Leader {
 public:
  struct Options {
    std::vector<std::filesystem::path> devices;  // configured paths
    std::filesystem::path device_list;           // the file of what was added and removed; empty: none
  };
  Leader(asio::any_io_executor executor, NodeState& state, const Clock& clock, Options options);
  Leader(const Leader&) = delete;
  Leader& operator=(const Leader&) = delete;

  /// To be called once, when this worker has become leader. Where another worker of the node lives, or this
  /// one followed before, the shared memory is that of the running node and is adopted; otherwise what is
  /// there is a dead node's and is made anew. Waits up to `kPredecessorLimit` for a process that had our
  /// number and was killed to end.
  /// @errors no_space, io, exists (this worker runs already), unsupported, bad_config (the device list)
  Task<void> start();
  asio::awaitable<void> stop();

  struct Joining {
    WorkerId worker;
    ProcessIdentity process;
    bool first = false;        // it has attached nothing yet
    bool sees_device = false;  // one of those awaited is there
  };
  /// Lets a follower in, and tells a known one what there is.
  /// @errors exists (that worker runs already), no_space, io
  Task<NodeAreas> join(Joining joining);

  /// Releases what dead workers had. To be called now and then, and when a connection broke.
  asio::awaitable<void> release_dead();

  /// Looks at the devices once a second, and at once when a follower saw one. Runs until it is cancelled.
  asio::awaitable<void> watch_devices();
  /// Begins to look at each device: whether it is there, whether one that was not has come back.
  void look_at_devices();
  /// Called when a device came or went.
  void on_change(std::function<void()> callback) { changed_ = std::move(callback); }

  /// Carries out the index's command. Repeating it is safe.
  /// @errors not_found (not a device of the node), exists (initialised with another identity), not_permitted
  /// (not blank), no_space, busy (in use), io
  Task<void> initialise_device(NewDevice device);
  /// To be asked before a device is added or removed by the index's command of this number.
  /// @param command  0: it has none
  /// @errors stale_generation: a later one about the path was heard before
  Result<void> heed(const std::filesystem::path& path, std::uint64_t command);
  /// Makes a path one of the node's devices from now on, and brings it up where it bears our superblock. One
  /// that is a device already is tried again where it does not serve. Repeating it is safe.
  /// @errors not_found, not_permitted (what is there is not ours, in use, or too small), io
  Task<DeviceStatus> add_device(std::filesystem::path path, std::uint64_t block_bytes);
  /// Takes a device out of service until it is added again. Repeating it is safe.
  /// @errors not_found (no device of the node), io, no_space
  Task<DeviceStatus> remove_device(std::filesystem::path path);

  /// The node's devices, as they are now, with those removed.
  std::vector<DeviceStatus> devices() const;

 private:
  /// A path, and what is known of what is there.
  struct Place {
    DeviceStatus status;
    DeviceSight sight;  // when it was brought up
    bool busy = false;  // being looked at
    TimePoint retry_at;
    Duration retry_pause{};
  };
  class Attending;

  Task<void> make_anew();
  Task<void> take_over(Uuid incarnation);
  Task<void> attach(NodeAreas areas);
  std::vector<NodeAreas::DeviceArea> device_areas(Uuid incarnation);
  asio::awaitable<void> bring_up_missing();
  void begin_to_attend(const std::filesystem::path& path);
  asio::awaitable<void> attend(std::filesystem::path path, Attending attending);
  asio::awaitable<BroughtUp> make_ready(std::filesystem::path path);
  asio::awaitable<void> bring_up(std::filesystem::path path);
  void conclude(Place& place, BroughtUp device);
  static void discard(BroughtUp& device);
  void take_away(Device& device, DeviceHealth health, const std::string& reason);
  void forget_area(DeviceId device, const std::string& name);
  Task<void> wait_until_attended(std::filesystem::path path);
  DevicePtr device_at(const Place& place) const;
  Task<void> initialise_and_bring_up(NewDevice device);
  Task<DeviceStatus> try_to_add(std::filesystem::path path, std::uint64_t block_bytes);
  Result<void> admit(const std::filesystem::path& path, const Superblock& superblock);
  void put_in_service(BroughtUp device);
  asio::awaitable<void> write_table(DevicePtr device);
  void note_unfilled(Device& device);
  void set_status(Place& place, DeviceStatus status);
  Task<void> change_list(std::function<void(DeviceList&)> change);
  Task<DeviceStatus> take_out(std::filesystem::path path, DeviceId known);
  Task<bool> adopt(std::string process_shm);
  void give_up_devices(const std::string& process_shm, WorkerId worker,
                       const std::vector<DevicePtr>& devices);
  Task<void> release_predecessor(WorkerId worker, ProcessIdentity successor);
  Task<void> outlive(std::string process_shm);

  NodeState& state_;
  const Clock& clock_;
  const Options options_;
  DeviceList list_;
  bool list_changes_ = false;                                // a change of it is being saved
  std::map<std::filesystem::path, std::uint64_t> commands_;  // the last about each path
  std::map<DeviceId, std::filesystem::path> being_added_;    // ready, and not in the list yet
  std::map<std::filesystem::path, Place> places_;
  std::set<DeviceId> served_;  // at any time
  bool took_over_ = false;     // from a leader before: any device may have served
  Condition done_;  // a place is looked at no more, a change of the list is saved, an area is adopted
  std::set<std::string> adopting_;
  std::map<std::string, TimePoint> hanging_since_;  // calls of dead processes, by their areas
  std::function<void()> changed_ = [] {};
  Event look_now_;
  BlockingPool files_{1, "devicelist"};
  TaskGroup group_;
};

}  // namespace reelfs::noded
