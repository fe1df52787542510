#include "indexd/retention/plan.h"

#include <algorithm>
#include <random>

#include <gtest/gtest.h>

#include "common/base/units.h"

namespace reelfs::indexd {
namespace {

ChannelUse channel(std::uint64_t number, std::uint64_t used, std::optional<std::uint64_t> quota = {}) {
  ChannelUse use;
  use.channel = InodeId{number};
  use.used_bytes = used;
  use.policy.quota_bytes = quota;
  return use;
}

TEST(RetentionPlan, LeavesAChannelRoomForWhatItRecordsInFiveSeconds) {
  auto use = channel(1, 950, 1000);
  EXPECT_EQ(RetentionPlan::over_quota(use), 0u);
  use.ingest = 10;
  EXPECT_EQ(RetentionPlan::over_quota(use), 0u);
  use.ingest = 15;
  EXPECT_EQ(RetentionPlan::over_quota(use), 25u);
  use.ingest = 1'000'000;  // never more than a tenth
  EXPECT_EQ(RetentionPlan::over_quota(use), 50u);
  use.used_bytes = 2000;
  EXPECT_EQ(RetentionPlan::over_quota(use), 1100u);
  use.policy.overwrite = false;
  EXPECT_EQ(RetentionPlan::over_quota(use), 0u);
  EXPECT_EQ(RetentionPlan::over_quota(channel(1, 5000)), 0u);
}

TEST(RetentionPlan, ReservesAMinuteOfWhatIsRecorded) {
  const SpaceUse space{100 * kGiB, 0, 64 * kMiB};
  EXPECT_EQ(RetentionPlan::reserve(space, {}), 2 * space.block_bytes);
  std::vector channels{channel(1, 0), channel(2, 0), channel(3, 0)};
  channels[0].ingest = channels[1].ingest = kMiB;
  EXPECT_EQ(RetentionPlan::reserve(space, channels), 4 * space.block_bytes + 120 * kMiB);
  channels[2].ingest = kGiB;
  EXPECT_EQ(RetentionPlan::reserve(space, channels), 10 * kGiB);
}

TEST(RetentionPlan, TakesFromWhoUsesMostOfItsShare) {
  const SpaceUse space{1000, 0, 10};
  // Shares: 100, and twice 450.
  std::vector channels{channel(1, 60, 100), channel(2, 250), channel(3, 240)};
  EXPECT_EQ(RetentionPlan::next(space, channels), 0u);
  channels[0].used_bytes = 50;
  EXPECT_EQ(RetentionPlan::next(space, channels), 1u);
  channels[1].policy.overwrite = false;
  EXPECT_EQ(RetentionPlan::next(space, channels), 2u);
  channels[2].nothing_may_go = true;
  EXPECT_EQ(RetentionPlan::next(space, channels), 0u);
  channels[0].used_bytes = 0;
  EXPECT_EQ(RetentionPlan::next(space, channels), std::nullopt);
}

TEST(SteadySpace, IsWhatAllDevicesTellOrNothingNewForAWhile) {
  TimePoint now{};
  SteadySpace space(now);
  EXPECT_FALSE(space.is_steady(100, 0, now)) << "nobody has been heard yet";
  now += std::chrono::seconds(29);
  EXPECT_FALSE(space.is_steady(100, 50, now));
  EXPECT_TRUE(space.is_steady(100, 100, now));
  now += std::chrono::seconds(300);
  EXPECT_FALSE(space.is_steady(100, 50, now)) << "a node may be back in a moment";
  now += SteadySpace::kSettles;
  EXPECT_TRUE(space.is_steady(100, 50, now));
}

/// Who was taken from had most of its share then, and shares only shrink.
TEST(RetentionPlan, NobodyIsTakenFromWhileAnotherHasMore) {
  std::mt19937_64 dice(1);
  const auto part = [](const ChannelUse& use) {
    return static_cast<double>(use.used_bytes) / static_cast<double>(*use.policy.quota_bytes);
  };
  for (int round = 0; round < 200; ++round) {
    const SpaceUse space{1'000'000, 0, 100};
    std::vector<ChannelUse> channels;
    const auto count = 2 + dice() % 6;
    for (std::uint64_t number = 1; number <= count; ++number)
      channels.push_back(channel(number, 200'000 + dice() % 300'000, 10'000 + dice() % 100'000));
    std::vector<bool> was_taken_from(count, false);
    for (int turn = 0; turn < 1000; ++turn) {
      const auto next = RetentionPlan::next(space, channels);
      ASSERT_TRUE(next);
      channels[*next].used_bytes -= 100;
      was_taken_from[*next] = true;
    }
    double most = 0;
    for (const auto& each : channels) most = std::max(most, part(each));
    for (std::size_t index = 0; index < count; ++index) {
      if (!was_taken_from[index]) continue;
      const auto step = 100.0 / static_cast<double>(*channels[index].policy.quota_bytes);
      EXPECT_GE(part(channels[index]) + step + 1e-9, most);
    }
  }
}

}  // namespace
}  // namespace reelfs::indexd
