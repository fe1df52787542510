#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <vector>

#include "common/base/ids.h"
#include "indexd/placement/placer.h"
#include "indexd/schema/rows.h"

namespace reelfs::indexd {

/// How a copy stands, as far as its node and its device tell.
enum class CopyStanding : std::uint8_t {
  whole,    // within reach
  leaving,  // the same, on a node that is being drained
  away,     // out of reach, and may come back
  lost,     // out of reach for so long that it is made again, or for ever
};

/// A segment and its copies at one moment.
struct SegmentStanding {
  struct Copy {
    NodeId node;
    CopyStanding standing = CopyStanding::whole;
  };
  SegmentId segment;
  SegmentState state = SegmentState::sealed;
  std::uint64_t length = 0;
  WallNs sealed_ns = 0;
  std::uint32_t wanted = 0;  // copies
  std::vector<Copy> copies;

  /// Copies that can be read now.
  std::uint32_t within_reach() const;
};

/// What is to be done next about a segment's copies.
struct RepairStep {
  enum class Kind : std::uint8_t {
    none,
    finish,  // seal it: a copy is made of sealed ones
    add,     // make a copy
  };
  Kind kind = Kind::none;
  NodeId instead_of;  // add: that copy goes; none: none does
};

/// One of those that wait for their turn.
struct RepairNeed {
  SegmentId segment;
  std::uint64_t length = 0;
  WallNs sealed_ns = 0;
  std::uint32_t within_reach = 0;
  bool leaving_only = false;  // every copy is within reach: it is for a node that is being drained
};

/// What is to be made again, in which order, and where. Pure functions of what they are given.
class RepairPlan {
 public:
  /// Nothing where no copy is within reach, and nothing for copies that may come back.
  static RepairStep next_step(const SegmentStanding& segment);
  /// The fewest copies within reach first, drained nodes last, then the oldest.
  static bool is_more_urgent(const RepairNeed& a, const RepairNeed& b);
  /// The node that a copy is to be made on, and the process that is to make it: one that answers, has room
  /// and no copy of the segment; in another rack than the copies that stay; then the one on which fewest are
  /// being made, then the one with most room.
  /// @param nodes   without those that get nothing new
  /// @param making  copies that are being made, by node
  static std::optional<CopyPlace> choose_place(const SegmentStanding& segment, NodeId instead_of,
                                               std::span<const NodeLoad> nodes,
                                               const std::map<NodeId, std::uint32_t>& making);
};

}  // namespace reelfs::indexd
