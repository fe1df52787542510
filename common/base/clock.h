#pragma once

#include <chrono>

namespace reelfs {

using Duration = std::chrono::nanoseconds;
/// A monotonic moment; only differences mean anything, and only within one host.
using TimePoint = std::chrono::time_point<std::chrono::steady_clock, Duration>;
/// Wall time as files carry it, in nanoseconds since 1970.
using WallTime = std::chrono::time_point<std::chrono::system_clock, Duration>;

/// Where time comes from, so that a simulation can be its own.
class Clock {
 public:
  virtual ~Clock() = default;
  virtual TimePoint now() const = 0;
  virtual WallTime wall() const = 0;
};

/// The machine's clocks.
class SystemClock final : public Clock {
 public:
  TimePoint now() const override { return std::chrono::steady_clock::now(); }
  WallTime wall() const override {
    return std::chrono::time_point_cast<Duration>(std::chrono::system_clock::now());
  }
};

/// When a call must have ended.
struct Deadline {
  TimePoint at;
  static Deadline after(const Clock& clock, Duration duration) { return {clock.now() + duration}; }
  Duration left(const Clock& clock) const { return at - clock.now(); }
};

}  // namespace reelfs
