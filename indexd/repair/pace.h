#pragma once

#include <cstdint>

#include "common/base/clock.h"

namespace reelfs::indexd {

/// What a copy is made for.
enum class CopyUse : std::uint8_t {
  repair,   // a segment has too few, or one of its nodes is being drained
  balance,  // it is moved, so that nodes and devices are about equally full
};

/// When the next piece of a copy may be ordered, so that recorders come first. One for each use in the whole
/// cluster: whoever copies takes from the same rate. A plain state machine.
class RepairPace {
 public:
  /// @param rate  bytes per second, more than 0
  /// @param slower  so many times a piece counts where appends queue up
  RepairPace(std::uint64_t rate, int slower) : rate_(rate), slower_(slower) {}

  /// A piece was copied. @param appends_waiting  on the busiest process of the nodes that took part
  /// @return when its copier goes on
  TimePoint after(TimePoint now, std::uint64_t bytes, std::uint32_t appends_waiting);

 private:
  std::uint64_t rate_;
  int slower_;
  TimePoint used_up_;  // what was copied so far is paid for then
};

}  // namespace reelfs::indexd
