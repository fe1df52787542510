#pragma once

#include <compare>
#include <cstdint>
#include <map>
#include <span>
#include <vector>

#include "common/base/ids.h"

namespace reelfs::indexd {

/// What may share a segment: data of one channel, with so many copies.
struct CompactionGroup {
  InodeId channel;
  std::uint32_t copies = 0;
  friend auto operator<=>(const CompactionGroup&, const CompactionGroup&) = default;
};

/// A sealed segment in which something lives.
struct SegmentUse {
  SegmentId segment;
  CompactionGroup group;
  std::uint64_t live_bytes = 0;
};

/// Net of copies.
struct CompactionSpace {
  std::uint64_t total_bytes = 0;
  std::uint64_t free_bytes = 0;
  std::uint64_t block_bytes = 0;
  std::uint64_t reserve_bytes = 0;  // that the overwriter wants free, and cannot have where there is less
};

/// What is to be emptied, and when that pays. Pure functions of what they are given.
class CompactionPlan {
 public:
  /// Of a segment more than this lives: it is not even looked at, whatever is short.
  static std::uint64_t most_live(std::uint64_t block_bytes) { return block_bytes / 5 * 4; }
  /// What operators are told of.
  static bool is_mostly_dead(std::uint64_t live_bytes, std::uint64_t block_bytes) {
    return live_bytes < block_bytes / 2;
  }
  static bool is_short(const CompactionSpace& space);
  /// A segment is worth emptying if no more lives in it: hardly any where there is plenty of room, up to
  /// most_live() where it is short.
  static std::uint64_t worth_below(const CompactionSpace& space);
  /// A new segment may be begun for what is moved: recorders have some left.
  static bool may_begin_segment(const CompactionSpace& space);

  /// @param room  bytes that can be put into segments that have been begun, by group
  /// @return what is to be emptied, in this order, the emptiest of each group first; no group of which the
  /// emptying would give back no more blocks than it takes
  static std::vector<SegmentId> choose(const CompactionSpace& space, std::span<const SegmentUse> segments,
                                       const std::map<CompactionGroup, std::uint64_t>& room);
};

}  // namespace reelfs::indexd
