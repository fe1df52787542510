#pragma once

#include <cstddef>
#include <deque>

#include "common/base/clock.h"

namespace reelfs::indexd {

/// How far apart the arrivals of a channel usually are: the time that seven of eight of the latest pauses do
/// not exceed. A pause that makes up one in eight is usual, be it the 10 s of a slow camera; one that happens
/// now and then is not.
class Cadence {
 public:
  static constexpr std::size_t kRemembered = 64;
  /// Of a time this long one pause is remembered, the longest.
  static constexpr Duration kTogether = std::chrono::seconds(2);

  /// A pause that has ended.
  void note(Duration pause, TimePoint now);
  /// As if it had been so for a while.
  void assume(Duration usual);
  Duration usual() const;

 private:
  std::deque<Duration> pauses_;
  TimePoint newest_begun_;
};

}  // namespace reelfs::indexd
