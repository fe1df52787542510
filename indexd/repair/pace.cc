#include "indexd/repair/pace.h"

#include <algorithm>
#include <chrono>

namespace reelfs::indexd {
namespace {

/// A recorder keeps a few appends under way by itself.
constexpr std::uint32_t kQueue = 8;

}  // namespace

TimePoint RepairPace::after(TimePoint now, std::uint64_t bytes, std::uint32_t appends_waiting) {
  const std::chrono::duration<double> cost(static_cast<double>(bytes) / static_cast<double>(rate_));
  auto due = std::chrono::duration_cast<Duration>(cost);
  if (appends_waiting > kQueue) due *= slower_;
  used_up_ = std::max(used_up_, now) + due;
  return used_up_;
}

}  // namespace reelfs::indexd
