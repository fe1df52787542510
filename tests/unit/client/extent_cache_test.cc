#include "client/extent_cache.h"

#include <map>
#include <random>
#include <vector>

#include <gtest/gtest.h>

namespace reelfs::client {
namespace {

Extent extent(std::uint64_t offset, std::uint64_t length, std::uint64_t segment) {
  return {offset, length, SegmentId(segment), 64, 0};
}

TEST(ExtentCache, KnowsNothingAtFirst) {
  const ExtentCache cache;
  EXPECT_EQ(cache.first_unknown(0, 10), 0u);
  EXPECT_EQ(cache.first_unknown(10, 10), std::nullopt);
}

TEST(ExtentCache, AHoleIsKnownToo) {
  ExtentCache cache;
  cache.insert(100, 200, {});
  EXPECT_EQ(cache.first_unknown(100, 200), std::nullopt);
  EXPECT_TRUE(cache.extents(100, 200).empty());
  EXPECT_EQ(cache.first_unknown(99, 200), 99u);
  EXPECT_EQ(cache.first_unknown(150, 201), 200u);
}

TEST(ExtentCache, ExtentsThatReachIntoTheRangeAreFound) {
  ExtentCache cache;
  cache.insert(50, 300, {extent(0, 100, 1), extent(150, 10, 2), extent(290, 100, 3)});
  const auto found = cache.extents(60, 300);
  ASSERT_EQ(found.size(), 3u);
  EXPECT_EQ(found[0], extent(0, 100, 1));
  EXPECT_EQ(found[2], extent(290, 100, 3));
  EXPECT_EQ(cache.extents(100, 150).size(), 0u);
  EXPECT_EQ(cache.extents(159, 160).size(), 1u);
}

TEST(ExtentCache, RangesGrowTogether) {
  ExtentCache cache;
  cache.insert(0, 10, {});
  cache.insert(20, 30, {});
  EXPECT_EQ(cache.first_unknown(0, 30), 10u);
  cache.insert(10, 20, {});
  EXPECT_EQ(cache.first_unknown(0, 30), std::nullopt);
  cache.insert(5, 100, {});
  EXPECT_EQ(cache.first_unknown(0, 101), 100u);
}

TEST(ExtentCache, ANewerVersionMakesEverythingUnknown) {
  ExtentCache cache;
  cache.note_version(7);
  cache.insert(0, 10, {extent(0, 10, 1)});
  cache.note_version(6);
  cache.note_version(7);
  EXPECT_EQ(cache.first_unknown(0, 10), std::nullopt);
  cache.note_version(8);
  EXPECT_EQ(cache.first_unknown(0, 10), 0u);
  EXPECT_TRUE(cache.extents(0, 10).empty());
}

TEST(ExtentCache, AgreesWithAnArrayOfFlags) {
  std::mt19937 random(3);
  for (int round = 0; round < 50; ++round) {
    ExtentCache cache;
    std::vector<bool> known(200);
    for (int step = 0; step < 20; ++step) {
      const auto begin = random() % 190, end = begin + random() % 10 + 1;
      cache.insert(begin, end, {});
      for (auto i = begin; i < end; ++i) known[i] = true;
      for (std::uint64_t from = 0; from < 199; from += 7) {
        const auto to = std::min<std::uint64_t>(200, from + 30);
        std::optional<std::uint64_t> expected;
        for (auto i = from; i < to && !expected; ++i) {
          if (!known[i]) expected = i;
        }
        ASSERT_EQ(cache.first_unknown(from, to), expected) << from << " in round " << round;
      }
    }
  }
}

TEST(ExtentCut, MovesThePayloadOffsetWithTheStart) {
  const Extent whole{100, 50, SegmentId(1), 64, 10};
  EXPECT_EQ(cut(whole, 120, 130), (Extent{120, 10, SegmentId(1), 64, 30}));
  EXPECT_EQ(cut(whole, 0, 1000), whole);
}

}  // namespace
}  // namespace reelfs::client
