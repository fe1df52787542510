#pragma once

#include <cstdint>
#include <unordered_map>
#include <vector>

#include "client/node_pool.h"
#include "common/base/clock.h"
#include "common/base/ids.h"

namespace reelfs::client {

/// Which workers can read which segment, and which of them to ask first.
class SegmentLocations {
 public:
  void learn(SegmentId segment, std::vector<WorkerAddress> workers);
  void forget(SegmentId segment);
  bool known(SegmentId segment) const { return segments_.contains(segment); }

  /// The workers in the order in which to ask them: one of each node before the second of any; the node that
  /// answered last first; nodes that failed a moment ago last; otherwise in turn, so that load spreads over
  /// nodes and workers.
  std::vector<WorkerAddress> order(SegmentId segment, TimePoint now);

  void succeeded(SegmentId segment, NodeId node);
  void failed(NodeId node, TimePoint now);

 private:
  struct Segment {
    std::vector<WorkerAddress> workers;
    NodeId last_good;
  };
  std::unordered_map<SegmentId, Segment> segments_;
  std::unordered_map<NodeId, TimePoint> failures_;
  std::uint64_t turn_ = 0;
};

}  // namespace reelfs::client
