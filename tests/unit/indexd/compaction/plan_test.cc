#include "indexd/compaction/plan.h"

#include <algorithm>
#include <cstdlib>
#include <random>
#include <set>

#include <gtest/gtest.h>

#include "common/base/units.h"
#include "indexd/compaction/pace.h"

namespace reelfs::indexd {
namespace {

constexpr std::uint64_t kBlock = 64 * kMiB;
const CompactionGroup kCam1{InodeId{2}, 2};
const CompactionGroup kCam2{InodeId{3}, 2};

/// A cluster of 100 blocks.
CompactionSpace space(std::uint64_t free_blocks, std::uint64_t reserve_blocks = 2) {
  return {100 * kBlock, free_blocks * kBlock, kBlock, reserve_blocks * kBlock};
}
SegmentUse use(std::uint64_t segment, std::uint64_t live_percent, CompactionGroup group = kCam1) {
  return {SegmentId{segment}, group, kBlock / 100 * live_percent};
}
std::vector<std::uint64_t> numbers(const std::vector<SegmentId>& segments) {
  std::vector<std::uint64_t> numbers;
  for (const auto segment : segments) numbers.push_back(segment.value);
  return numbers;
}

TEST(CompactionPlan, EmptiesTheEmptiestFirst) {
  const std::vector uses{use(1, 30), use(2, 10), use(3, 20)};
  EXPECT_EQ(numbers(CompactionPlan::choose(space(30), uses, {})), (std::vector<std::uint64_t>{2, 3, 1}));
}

TEST(CompactionPlan, DoesNothingThatGivesBackNoMoreThanItTakes) {
  EXPECT_TRUE(CompactionPlan::choose(space(30), std::vector{use(1, 5)}, {}).empty());
  EXPECT_TRUE(CompactionPlan::choose(space(30), std::vector{use(1, 5), use(2, 5, kCam2)}, {}).empty());
  // Two halves with their headers are more than one segment.
  EXPECT_TRUE(CompactionPlan::choose(space(30), std::vector{use(1, 50), use(2, 50)}, {}).empty());
  EXPECT_EQ(CompactionPlan::choose(space(30), std::vector{use(1, 49), use(2, 49)}, {}).size(), 2u);
  // One that has been begun takes it in.
  EXPECT_EQ(CompactionPlan::choose(space(30), std::vector{use(1, 40)}, {{kCam1, kBlock / 2}}).size(), 1u);
  EXPECT_TRUE(CompactionPlan::choose(space(30), std::vector{use(1, 40)}, {{kCam2, kBlock / 2}}).empty());
  // What has another number of copies does not go into the same segment.
  EXPECT_TRUE(
      CompactionPlan::choose(space(30), std::vector{use(1, 10), use(2, 10, {kCam1.channel, 3})}, {}).empty());
}

TEST(CompactionPlan, IsTheMoreEagerTheLessSpaceThereIs) {
  const std::vector uses{use(1, 5),  use(2, 5),  use(3, 45), use(4, 45),
                         use(5, 70), use(6, 70), use(7, 70), use(8, 70)};
  EXPECT_EQ(numbers(CompactionPlan::choose(space(90), uses, {})), (std::vector<std::uint64_t>{1, 2}));
  EXPECT_EQ(numbers(CompactionPlan::choose(space(30), uses, {})), (std::vector<std::uint64_t>{1, 2, 3}));
  EXPECT_EQ(CompactionPlan::choose(space(3, 8), uses, {}).size(), uses.size());
  EXPECT_TRUE(CompactionPlan::may_begin_segment(space(2)));
  EXPECT_FALSE(CompactionPlan::may_begin_segment(space(1)));
}

/// REELFS_SEED=n repeats one.
std::uint64_t first_seed() {
  const auto* const given = std::getenv("REELFS_SEED");
  return given != nullptr ? std::strtoull(given, nullptr, 10) : std::random_device{}();
}

// Against the plainest thing: pack what lives in the chosen segments into blocks.
TEST(CompactionPlan, AlwaysPaysAndMissesNothingThatWould) {
  const auto first = first_seed();
  for (auto seed = first; seed < first + 500; ++seed) {
    SCOPED_TRACE("REELFS_SEED=" + std::to_string(seed));
    std::mt19937_64 random(seed);
    const auto pick = [&](std::uint64_t below) { return random() % below; };
    std::vector<SegmentUse> uses;
    const auto count = pick(30);
    for (std::uint64_t i = 0; i < count; ++i) {
      const CompactionGroup group{InodeId{2 + pick(3)}, static_cast<std::uint32_t>(1 + pick(2))};
      uses.push_back({SegmentId{i + 1}, group, pick(kBlock)});
    }
    std::map<CompactionGroup, std::uint64_t> room;
    for (const auto& each : uses) {
      if (pick(3) == 0) room[each.group] = pick(2 * kBlock);
    }
    const auto now = space(pick(100), pick(20));
    const auto chosen = CompactionPlan::choose(now, uses, room);
    const std::set<SegmentId> set(chosen.begin(), chosen.end());
    ASSERT_EQ(set.size(), chosen.size());
    std::set<CompactionGroup> groups;
    for (const auto& each : uses) groups.insert(each.group);
    for (const auto& group : groups) {
      std::vector<std::uint64_t> worth;
      std::uint64_t moved = 0, freed = 0, most_taken = 0;
      for (const auto& each : uses) {
        if (each.group != group) continue;
        const bool is_worth = each.live_bytes > 0 && each.live_bytes <= CompactionPlan::worth_below(now);
        if (is_worth) worth.push_back(each.live_bytes);
        if (!set.contains(each.segment)) continue;
        ASSERT_TRUE(is_worth);
        most_taken = std::max(most_taken, each.live_bytes);
        moved += each.live_bytes;
        ++freed;
      }
      const auto has_room = room.contains(group) ? room[group] : 0;
      const auto gain = [&](std::uint64_t segments, std::uint64_t bytes) {
        const auto beyond = bytes - std::min(bytes, has_room);
        return static_cast<std::int64_t>(segments) -
               static_cast<std::int64_t>((beyond + kBlock - 1) / kBlock);
      };
      if (freed > 0) {
        EXPECT_GT(gain(freed, moved), 0);
      }
      // Those left out are no emptier than those taken.
      for (const auto& each : uses) {
        if (freed > 0 && each.group == group && each.live_bytes > 0 && !set.contains(each.segment)) {
          EXPECT_GE(each.live_bytes, most_taken);
        }
      }
      // A tenth is more than headers take: whoever gains with that much more is not left out.
      std::sort(worth.begin(), worth.end());
      std::uint64_t bytes = 0;
      for (std::size_t i = 0; i < worth.size(); ++i) {
        bytes += worth[i] + worth[i] / 10;
        EXPECT_GE(gain(freed, moved), gain(i + 1, bytes));
      }
    }
  }
}

TEST(CompactionPace, KeepsTheRateAndGivesWay) {
  using namespace std::chrono_literals;
  const CompactionPace pace(10 * kMiB);
  EXPECT_EQ(pace.rest_after({kMiB, 10ms, 0, false}), 90ms);
  EXPECT_EQ(pace.rest_after({kMiB, 50ms, 0, false}),
            200ms);  // the device is busy: it has four fifths of the time
  EXPECT_EQ(pace.rest_after({kMiB, 10ms, 20, false}), 720ms);
  EXPECT_EQ(pace.rest_after({4 * kMiB, 10ms, 20, true}), 90ms);
  EXPECT_EQ(pace.rest_after({kGiB, 1s, 20, false}), 10s);
}

}  // namespace
}  // namespace reelfs::indexd
