#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "common/base/ids.h"
#include "common/wire/node.pb.h"

namespace reelfs::noded {

/// What to describe, and what shared memory does not tell of it.
struct DescriptionOrder {
  Uuid cluster;
  Uuid incarnation;                // of the node
  std::vector<std::string> areas;  // names of its shared memory
  std::uint32_t leader_pid = 0;    // 0: there is no leader just now
  std::int64_t wall_ns = 0;        // now
};

/// Draws a node as its shared memory has it: maps each area anew, so that it needs nothing of the process
/// that asks, and walks all block descriptors, a few under each hold of the lock. Figures of different blocks
/// are not of the same instant. Areas that go away meanwhile are left out.
///
/// Takes a second where there are many millions of blocks: not to be called on a loop.
wire::DescribeNodeReply describe_node(const DescriptionOrder& order);

}  // namespace reelfs::noded
