#include "indexd/repair/pace.h"

#include <chrono>

#include <gtest/gtest.h>

#include "common/base/units.h"

namespace reelfs::indexd {
namespace {

using namespace std::chrono_literals;

TEST(RepairPace, KeepsTheRateWhoeverCopies) {
  RepairPace pace(64 * kMiB, 4);
  const TimePoint start{1h};
  EXPECT_EQ(pace.after(start, 8 * kMiB, 0), start + 125ms);
  EXPECT_EQ(pace.after(start, 8 * kMiB, 8), start + 250ms) << "another copy, at the same time";
  EXPECT_EQ(pace.after(start + 200ms, 8 * kMiB, 0), start + 375ms);
}

TEST(RepairPace, TimeInWhichNothingWasCopiedIsNotMadeUpFor) {
  RepairPace pace(64 * kMiB, 4);
  const TimePoint start{1h};
  pace.after(start, 8 * kMiB, 0);
  EXPECT_EQ(pace.after(start + 10s, 8 * kMiB, 0), start + 10s + 125ms);
}

TEST(RepairPace, RecordersComeFirst) {
  RepairPace pace(64 * kMiB, 4);
  const TimePoint start{1h};
  EXPECT_EQ(pace.after(start, 8 * kMiB, 9), start + 500ms);
}

}  // namespace
}  // namespace reelfs::indexd
