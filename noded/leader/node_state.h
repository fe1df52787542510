#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/base/ids.h"
#include "noded/leader/device_bring_up.h"
#include "noded/leader/node_identity.h"
#include "noded/segment/segment_store.h"
#include "noded/shm/process_table.h"
#include "noded/shm/shm_area.h"
#include "noded/shm/unfilled_table.h"

namespace reelfs::noded {

/// What a worker has attached of its node, as leader or as follower.
struct NodeState {
  NodeState(NodeIdentity who, OpenDevice opener, SegmentStore& segments)
      : identity(std::move(who)),
        names(identity.cluster, identity.node_name),
        open_device(std::move(opener)),
        store(segments) {}

  bool attached() const { return process != nullptr; }
  /// The incarnation that a living worker of the node has attached; empty where none lives.
  std::optional<Uuid> node_is_alive() const;
  /// Shared memory of this node whose name begins with `prefix`.
  std::vector<std::string> own_areas(const std::string& prefix) const;

  const NodeIdentity identity;
  const ShmNames names;
  const OpenDevice open_device;
  SegmentStore& store;
  Uuid incarnation;  // of the node's shared memory
  std::unique_ptr<ProcessTable> process;
  std::unique_ptr<UnfilledTable> unfilled;
};

/// The areas that a leader names to a follower.
struct NodeAreas {
  struct DeviceArea {
    DeviceId device;
    std::string shm_name;
    std::filesystem::path path;
  };
  Uuid incarnation;
  std::uint32_t leader_pid = 0;
  std::string process_shm;
  std::string unfilled_shm;
  std::vector<DeviceArea> devices;
};

/// Attaches what is not attached yet. Safe to repeat.
/// @errors stale_handle: the leader's areas belong to another life of the node than those attached here;
/// those of ShmArea::attach;
///         those of opening a device
Result<void> attach_areas(NodeState& state, const NodeAreas& areas);

}  // namespace reelfs::noded
