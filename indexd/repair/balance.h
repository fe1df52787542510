#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "common/base/ids.h"
#include "indexd/placement/placer.h"
#include "indexd/schema/rows.h"

namespace reelfs::indexd {

/// A sealed segment in which something lives, all of whose copies are within reach and whole.
struct MovableSegment {
  SegmentId segment;
  std::uint64_t length = 0;
  WallNs sealed_ns = 0;
  std::vector<SegmentCopy> copies;
};

/// A copy that is to be somewhere else.
struct CopyMove {
  SegmentId segment;
  std::uint64_t length = 0;
  NodeId from;
  NodeId to;
  DeviceId device;  // the same node: where it is to be there; another one: none, that node chooses
  friend bool operator==(const CopyMove&, const CopyMove&) = default;
};

/// Which copies are to be moved, so that nodes, and the devices of each node, are about equally full, as a
/// share of their blocks. Made of how full they are, then offered what could be moved, then asked.
///
/// Hysteresis: nothing is moved until two nodes, or two devices of a node, are kBegin apart, and then until
/// they are nearer than kEnd. No move makes its target fuller than its source is then, so nothing swings.
/// A move keeps copies on different nodes, and in as many racks as they are in. docs/design/repair.md
class BalancePlan {
 public:
  static constexpr double kBegin = 0.10;
  static constexpr double kEnd = 0.03;

  /// @param nodes  those that are to have copies; of them those count that answer
  /// @param active  they were too far apart before, and copies have been moved since
  BalancePlan(std::span<const NodeLoad> nodes, bool active);

  /// Fills are so far apart that copies are to be moved, if there are any that may be.
  bool wanted() const { return wanted_; }
  /// Between the fullest and the emptiest node, or device of one node: 0 .. 1.
  double spread() const { return spread_; }
  /// "node1 is 71 % full, node3 2 %", of the two that are farthest apart.
  std::string describe() const;

  /// Keeps it where a useful move of it is known. Of many it keeps the newest, which will be there longest.
  void offer(MovableSegment segment);
  /// The most useful moves first: each is between those that are farthest apart once the ones before it are
  /// done. Deterministic.
  std::vector<CopyMove> choose(std::size_t most);

  /// Whether one move is still of use, and keeps what is to be kept. @param nodes  as they are now
  static bool is_useful(const CopyMove& move, const MovableSegment& segment, std::span<const NodeLoad> nodes);

 private:
  struct Bin {
    NodeId node;
    DeviceId device;  // none: all of the node
    std::string name;
    std::string rack;
    std::uint64_t blocks = 0;
    std::uint64_t used = 0;
    bool takes = false;  // copies may be put there
    double level() const;
    double level_with(std::int64_t more) const;
  };
  using Pair = std::pair<std::size_t, std::size_t>;  // of bins: from, to

  static std::vector<Bin> bins_of(std::span<const NodeLoad> nodes);
  static bool are_peers(const Bin& a, const Bin& b);
  static bool may_move(const Bin& from, const Bin& to);
  bool fits(const Bin& from, const Bin& to, const MovableSegment& segment) const;
  std::optional<std::size_t> find(NodeId node, DeviceId device) const;
  void take(const MovableSegment& segment, std::size_t from, std::size_t to);

  std::vector<Bin> bins_;
  std::map<NodeId, std::string> racks_;
  bool wanted_ = false;
  double spread_ = 0;
  Pair farthest_;
  /// By the bin that it would leave, then the newest last.
  std::map<std::size_t, std::map<std::pair<WallNs, SegmentId>, MovableSegment>> offered_;
};

}  // namespace reelfs::indexd
