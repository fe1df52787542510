#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "common/base/ids.h"
#include "common/wire/node.pb.h"
#include "noded/shm/device_table.h"
#include "noded/shm/process_table.h"
#include "noded/shm/unfilled_table.h"

namespace reelfs::noded {

/// What to describe, and what shared memory does not tell of it.
struct DescriptionOrder {
  Uuid cluster;
  Uuid incarnation;                // of the node
  std::vector<std::string> areas;  // names of its shared memory
  std::uint32_t leader_pid = 0;    // 0: there is no leader just now
  std::int64_t wall_ns = 0;        // now
};

/// A node's shared memory, mapped anew, so that it needs nothing of the process that looks at it.
struct MappedAreas {
  std::map<DeviceId, std::unique_ptr<DeviceTable>> devices;
  std::map<WorkerId, std::unique_ptr<ProcessTable>> processes;
  std::unique_ptr<UnfilledTable> unfilled;

  /// What is there of it: areas that go away meanwhile are left out.
  static MappedAreas attach(const DescriptionOrder& order);
};

/// Draws a node as its shared memory has it: walks all block descriptors, a few under each hold of the lock.
/// Figures of different blocks are not of the same instant.
///
/// Takes a second where there are many millions of blocks: not to be called on a loop.
wire::DescribeNodeReply describe_node(const DescriptionOrder& order, const MappedAreas& areas);

}  // namespace reelfs::noded
