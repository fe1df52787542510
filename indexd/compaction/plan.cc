#include "indexd/compaction/plan.h"

#include <algorithm>
#include <cstddef>
#include <utility>

namespace reelfs::indexd {
namespace {

/// Headers, checksums and padding, of recordings: 256 bytes for each 64 KiB at worst. What it really takes is
/// known when a segment's turn comes.
std::uint64_t with_headers(std::uint64_t live_bytes) { return live_bytes + live_bytes / 128; }

std::uint64_t blocks_for(std::uint64_t bytes, std::uint64_t room, std::uint64_t block_bytes) {
  const auto beyond = bytes - std::min(bytes, room);
  return (beyond + block_bytes - 1) / block_bytes;
}

/// How many of these, the emptiest first, give back most blocks; the fewest that do.
std::size_t best_prefix(const std::vector<SegmentUse>& uses, std::uint64_t room, std::uint64_t block_bytes) {
  std::size_t best = 0;
  std::uint64_t best_gain = 0;
  std::uint64_t bytes = 0;
  for (std::size_t count = 1; count <= uses.size(); ++count) {
    bytes += with_headers(uses[count - 1].live_bytes);
    const auto taken = blocks_for(bytes, room, block_bytes);
    if (count <= taken || count - taken <= best_gain) continue;
    best_gain = count - taken;
    best = count;
  }
  return best;
}

}  // namespace

bool CompactionPlan::is_short(const CompactionSpace& space) { return space.free_bytes < space.reserve_bytes; }

std::uint64_t CompactionPlan::worth_below(const CompactionSpace& space) {
  if (is_short(space)) return most_live(space.block_bytes);
  const bool is_plenty = space.free_bytes > space.total_bytes / 10 * 6;
  return is_plenty ? space.block_bytes / 10 : space.block_bytes / 2;
}

bool CompactionPlan::may_begin_segment(const CompactionSpace& space) {
  return space.free_bytes >= 2 * space.block_bytes;
}

std::vector<SegmentId> CompactionPlan::choose(const CompactionSpace& space,
                                              std::span<const SegmentUse> segments,
                                              const std::map<CompactionGroup, std::uint64_t>& room) {
  const auto limit = worth_below(space);
  std::map<CompactionGroup, std::vector<SegmentUse>> groups;
  for (const auto& use : segments) {
    if (use.live_bytes > 0 && use.live_bytes <= limit) groups[use.group].push_back(use);
  }
  std::vector<std::pair<std::uint64_t, std::vector<SegmentId>>> chosen;  // by what lives in the emptiest
  for (auto& [group, uses] : groups) {
    std::sort(uses.begin(), uses.end(), [](const SegmentUse& a, const SegmentUse& b) {
      return std::pair(a.live_bytes, a.segment) < std::pair(b.live_bytes, b.segment);
    });
    const auto begun = room.find(group);
    const auto has_room = begun == room.end() ? 0 : begun->second;
    const auto count = best_prefix(uses, has_room, space.block_bytes);
    if (count == 0) continue;
    std::vector<SegmentId> ids;
    for (std::size_t i = 0; i < count; ++i) ids.push_back(uses[i].segment);
    chosen.emplace_back(uses.front().live_bytes, std::move(ids));
  }
  std::stable_sort(chosen.begin(), chosen.end(),
                   [](const auto& a, const auto& b) { return a.first < b.first; });
  std::vector<SegmentId> order;
  for (const auto& [live_bytes, ids] : chosen) order.insert(order.end(), ids.begin(), ids.end());
  return order;
}

}  // namespace reelfs::indexd
