#pragma once

#include <cstdint>

#include "common/base/clock.h"

namespace reelfs::indexd {

/// When the next piece of a copy may be ordered, so that recorders come first. One for the whole cluster:
/// whoever copies takes from the same rate. A plain state machine.
class RepairPace {
 public:
  /// @param rate  bytes per second, more than 0
  explicit RepairPace(std::uint64_t rate) : rate_(rate) {}

  /// A piece was copied. @param appends_waiting  on the busiest process of the nodes that took part: where
  /// they queue up, the piece counts four times
  /// @return when its copier goes on
  TimePoint after(TimePoint now, std::uint64_t bytes, std::uint32_t appends_waiting);

 private:
  std::uint64_t rate_;
  TimePoint used_up_;  // what was copied so far is paid for then
};

}  // namespace reelfs::indexd
