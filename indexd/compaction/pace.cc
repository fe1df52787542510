#include "indexd/compaction/pace.h"

#include <algorithm>
#include <chrono>

namespace reelfs::indexd {
namespace {

constexpr int kRestForWork = 4;
constexpr std::uint64_t kHasteWhenShort = 4;
/// A recorder keeps a few appends under way by itself.
constexpr std::uint32_t kQueue = 8;
constexpr int kSlowerInQueues = 8;
constexpr Duration kLongest = std::chrono::seconds(10);

}  // namespace

Duration CompactionPace::rest_after(const Step& step) const {
  const auto rate = step.space_is_short ? rate_ * kHasteWhenShort : rate_;
  const auto due = std::chrono::duration<double>(static_cast<double>(step.bytes) / static_cast<double>(rate));
  auto rest = std::chrono::duration_cast<Duration>(due) - step.took;
  rest = std::max(rest, kRestForWork * step.took);
  if (step.appends_waiting > kQueue && !step.space_is_short) rest *= kSlowerInQueues;
  return std::min(rest, kLongest);
}

}  // namespace reelfs::indexd
