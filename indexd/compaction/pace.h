#pragma once

#include <cstdint>

#include "common/base/clock.h"

namespace reelfs::indexd {

/// How long to rest after a step of moving data, so that those who record and play never notice.
class CompactionPace {
 public:
  struct Step {
    std::uint64_t bytes = 0;
    Duration took{};
    std::uint32_t appends_waiting = 0;  // on the busiest process of the nodes that took part
    bool space_is_short = false;
  };
  /// @param rate  bytes per second, more than 0
  explicit CompactionPace(std::uint64_t rate) : rate_(rate) {}

  /// The rate is kept on the average. A device that is slow, because others use it or by itself, is left
  /// alone four times as long as it was busy; where appends queue up, all goes at an eighth. Where space is
  /// short, the rate is four times as high and queues are not looked at: an emptied segment is what recorders
  /// need.
  Duration rest_after(const Step& step) const;

 private:
  std::uint64_t rate_;
};

}  // namespace reelfs::indexd
