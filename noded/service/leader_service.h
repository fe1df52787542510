#pragma once

#include "common/async/task.h"
#include "common/base/clock.h"
#include "common/rpc/client.h"
#include "common/rpc/server.h"
#include "common/wire/node.pb.h"
#include "noded/leader/leader.h"

namespace reelfs::noded {

/// Answers followers on the node's internal port. @errors busy: not ready yet
Task<rpc::Response> serve_follower(Leader& leader, const NodeIdentity& identity, rpc::Request request);

struct Joins {
  bool first = false;        // it has attached nothing yet
  bool sees_device = false;  // one of those that the leader waits for
};
/// Asks the leader for the node's areas. @errors unavailable (no leader), busy (not ready yet), those of
/// Leader::join
Task<NodeAreas> join_node(rpc::Client& leader, NodeIdentity identity, Joins joins, Deadline deadline);

/// Pass the index's commands on to the leader.
Task<void> forward_initialise_device(rpc::Client& leader, Uuid cluster, NewDevice device, Deadline deadline);
Task<wire::DeviceInfo> forward_attach_device(rpc::Client& leader, wire::AttachDeviceRequest request,
                                             Deadline deadline);
Task<wire::DeviceInfo> forward_detach_device(rpc::Client& leader, wire::DetachDeviceRequest request,
                                             Deadline deadline);

}  // namespace reelfs::noded
