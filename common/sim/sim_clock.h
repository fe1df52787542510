#pragma once

#include "common/base/clock.h"

namespace reelfs::sim {

/// Time that passes when told to.
class SimClock final : public Clock {
 public:
  TimePoint now() const override { return TimePoint(elapsed_); }
  WallTime wall() const override { return WallTime(kWallStart + elapsed_); }
  void advance(Duration duration) { elapsed_ += duration; }

 private:
  static constexpr Duration kWallStart = std::chrono::seconds(1'700'000'000);  // 14 November 2023
  Duration elapsed_ = std::chrono::hours(1);  // so that a moment before the start can be spoken of
};

}  // namespace reelfs::sim
