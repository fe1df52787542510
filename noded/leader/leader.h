#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <set>
#include <string>
#include <vector>

#include "common/async/task.h"
#include "common/base/clock.h"
#include "noded/leader/node_state.h"

namespace reelfs::noded {

/// How long a worker waits for the process that had its number before: one that was killed lives on until the
/// last of its system calls returns.
constexpr Duration kPredecessorLimit = std::chrono::seconds(10);

/// What the one worker that holds the node's internal port does for the others: makes the shared memory or
/// adopts what is there, lets followers in, releases what dead workers had, initialises devices.
class Leader {
 public:
  /// @param devices  configured paths
  Leader(NodeState& state, const Clock& clock, std::vector<std::filesystem::path> devices);
  Leader(const Leader&) = delete;
  Leader& operator=(const Leader&) = delete;

  /// To be called once, when this worker has become leader. Where another worker of the node lives, or this
  /// one followed before, the shared memory is that of the running node and is adopted; otherwise what is
  /// there is a dead node's and is made anew. Waits up to `kPredecessorLimit` for a process that had our
  /// number and was killed to end.
  /// @errors no_space, io, exists (this worker runs already), unsupported
  Task<void> start();

  struct Joining {
    WorkerId worker;
    ProcessIdentity process;
    bool first = false;  // it has attached nothing yet
  };
  /// Lets a follower in, and tells a known one what there is.
  /// @errors exists (that worker runs already), no_space, io
  Task<NodeAreas> join(Joining joining);

  /// Releases what dead workers had. To be called now and then, and when a connection broke.
  asio::awaitable<void> release_dead();

  /// Carries out the index's command. Repeating it is safe.
  /// @errors not_found (not a configured device), exists (initialised with another identity), not_permitted
  /// (not blank), no_space, io
  Task<void> initialise_device(NewDevice device);

  /// Configured devices, as they are now.
  const std::vector<DeviceStatus>& devices() const { return statuses_; }

 private:
  Task<void> make_anew();
  Task<void> take_over(Uuid incarnation);
  std::vector<NodeAreas::DeviceArea> device_areas(Uuid incarnation);
  asio::awaitable<void> bring_up_missing();
  Task<void> initialise_and_bring_up(NewDevice device);
  Task<void> adopt(std::string process_shm);
  Task<void> release_predecessor(WorkerId worker, ProcessIdentity successor);
  Task<void> outlive(std::string process_shm);
  void note_unfilled();

  NodeState& state_;
  const Clock& clock_;
  const std::vector<std::filesystem::path> paths_;
  std::vector<DeviceStatus> statuses_;
  std::set<std::filesystem::path> initialising_;
  std::set<std::string> adopting_;
};

}  // namespace reelfs::noded
