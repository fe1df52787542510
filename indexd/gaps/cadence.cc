#include "indexd/gaps/cadence.h"

#include <algorithm>
#include <vector>

namespace reelfs::indexd {

namespace {

constexpr std::size_t kAssumed = 8;  // is unlearnt within seconds where it is wrong

}  // namespace

void Cadence::note(Duration pause, TimePoint now) {
  if (!pauses_.empty() && now - newest_begun_ < kTogether) {
    pauses_.back() = std::max(pauses_.back(), pause);
    return;
  }
  newest_begun_ = now;
  pauses_.push_back(pause);
  if (pauses_.size() > kRemembered) pauses_.pop_front();
}

void Cadence::assume(Duration usual) { pauses_.assign(kAssumed, usual); }

Duration Cadence::usual() const {
  if (pauses_.empty()) return Duration::zero();
  std::vector<Duration> sorted(pauses_.begin(), pauses_.end());
  // One outage soon after the start is to count as little as one later.
  const auto unusual = sorted.size() < 3 ? 0 : std::max<std::size_t>(sorted.size() / 8, 1);
  const auto place = sorted.end() - 1 - static_cast<std::ptrdiff_t>(unusual);
  std::nth_element(sorted.begin(), place, sorted.end());
  return *place;
}

}  // namespace reelfs::indexd
