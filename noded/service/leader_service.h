#pragma once

#include "common/async/task.h"
#include "common/base/clock.h"
#include "common/rpc/client.h"
#include "common/rpc/server.h"
#include "noded/leader/leader.h"

namespace reelfs::noded {

/// Answers followers on the node's internal port. @errors busy: not ready yet
Task<rpc::Response> serve_follower(Leader& leader, const NodeIdentity& identity, rpc::Request request);

/// Asks the leader for the node's areas. @errors unavailable (no leader), busy (not ready yet), those of
/// Leader::join
Task<NodeAreas> join_node(rpc::Client& leader, NodeIdentity identity, bool first, Deadline deadline);

/// Passes the index's command on to the leader.
Task<void> forward_initialise_device(rpc::Client& leader, Uuid cluster, NewDevice device, Deadline deadline);

}  // namespace reelfs::noded
