#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "common/async/task_group.h"
#include "common/base/ids.h"
#include "noded/device/device_access.h"
#include "noded/leader/device_bring_up.h"
#include "noded/leader/node_identity.h"
#include "noded/segment/segment_store.h"
#include "noded/shm/process_table.h"
#include "noded/shm/shm_area.h"
#include "noded/shm/unfilled_table.h"

namespace reelfs::noded {

/// The areas that a leader names to a follower.
struct NodeAreas {
  struct DeviceArea {
    DeviceId device;
    std::string shm_name;
    std::filesystem::path path;
    std::uint64_t life = 0;  // of the area: another one is of a device that came back
  };
  Uuid incarnation;
  std::uint32_t leader_pid = 0;
  std::string process_shm;
  std::string unfilled_shm;
  std::vector<DeviceArea> devices;
  std::vector<std::filesystem::path> awaited;  // devices that are not there: who sees one tells the leader
};

/// What a worker has attached of its node, as leader or as follower. `stop()` before destroying.
class NodeState {
 public:
  NodeState(asio::any_io_executor executor, NodeIdentity who, DeviceAccess& devices, SegmentStore& segments);

  bool attached() const { return process != nullptr; }
  /// The incarnation that a living worker of the node has attached; empty where none lives.
  std::optional<Uuid> node_is_alive() const;
  /// Shared memory of this node whose name begins with `prefix`.
  std::vector<std::string> own_areas(const std::string& prefix) const;

  /// Attaches what is not attached yet and lets go of what is not named. Opening a device goes on in the
  /// background: one that hangs is left out. Safe to repeat.
  /// @errors stale_handle: the leader's areas belong to another life of the node than those attached here;
  /// those of ShmArea::attach
  Result<void> attach(const NodeAreas& areas);
  /// Waits until no device is being opened, but not for one that hangs.
  asio::awaitable<void> settle(const Clock& clock, Duration limit);
  asio::awaitable<void> stop();

  const NodeIdentity identity;
  const ShmNames names;
  DeviceAccess& access;
  SegmentStore& store;
  Uuid incarnation;  // of the node's shared memory
  std::unique_ptr<ProcessTable> process;
  std::unique_ptr<UnfilledTable> unfilled;

 private:
  asio::awaitable<void> attach_device(NodeAreas::DeviceArea area);

  std::set<std::uint64_t> attaching_;  // lives
  std::set<std::uint64_t> refused_;    // lives whose devices could not be opened: said once
  TaskGroup group_;
};

}  // namespace reelfs::noded
