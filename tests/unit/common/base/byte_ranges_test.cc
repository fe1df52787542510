#include "common/base/byte_ranges.h"

#include <random>
#include <vector>

#include <gtest/gtest.h>

namespace reelfs {
namespace {

using List = std::vector<ByteSpan>;

TEST(ByteRanges, JoinsWhatOverlapsOrTouches) {
  ByteRanges ranges(10, 20);
  ranges.add(30, 40);
  ranges.add(20, 25);
  EXPECT_EQ(ranges.list(), (List{{10, 25}, {30, 40}}));
  ranges.add(24, 31);
  EXPECT_EQ(ranges.list(), (List{{10, 40}}));
  ranges.add(5, 5);
  ranges.add(9, 3);
  EXPECT_EQ(ranges.bytes(), 30u);
}

TEST(ByteRanges, AlignsAndCoarsens) {
  ByteRanges ranges(5000, 5001);
  ranges.add(9000, 9001);
  ranges.add(40000, 40960);
  EXPECT_EQ(ranges.aligned(4096).list(), (List{{4096, 12288}, {36864, 40960}}));
  EXPECT_EQ(ranges.aligned(4096, 9100).list(), (List{{4096, 9100}}));
  EXPECT_EQ(ranges.coarser(2).list(), (List{{5000, 9001}, {40000, 40960}}));
  EXPECT_EQ(ranges.coarser(1).list(), (List{{5000, 40960}}));
  EXPECT_EQ(ranges.coarser(3), ranges);
}

TEST(ByteRanges, CoarsensToAtMostAsManyWhereGapsAreEqual) {
  ByteRanges ranges;
  for (std::uint64_t at = 0; at < 100; at += 10) ranges.add(at, at + 1);
  for (std::size_t most = 1; most <= 10; ++most) EXPECT_EQ(ranges.coarser(most).size(), most);
}

/// The same as a set of single bytes, whatever is done.
TEST(ByteRanges, IsASetOfBytes) {
  constexpr std::uint64_t kBytes = 64;
  for (std::uint64_t seed = 1; seed <= 300; ++seed) {
    std::mt19937_64 random(seed);
    const auto random_ranges = [&](std::vector<bool>& model) {
      ByteRanges ranges;
      model.assign(kBytes, false);
      for (int i = 0; i < 12; ++i) {
        const auto begin = random() % kBytes;
        const auto end = begin + random() % (kBytes - begin + 1);
        const bool add = random() % 3 != 0;
        add ? ranges.add(begin, end) : ranges.remove(begin, end);
        for (auto at = begin; at < end; ++at) model[at] = add;
      }
      return ranges;
    };
    const auto expect = [&](const ByteRanges& ranges, auto wanted) {
      std::uint64_t last = 0;
      bool first = true;
      std::vector<bool> seen(kBytes);
      for (const auto& range : ranges) {
        ASSERT_LT(range.begin, range.end);
        ASSERT_TRUE(first || range.begin > last) << "seed " << seed;
        for (auto at = range.begin; at < range.end; ++at) seen[at] = true;
        last = range.end;
        first = false;
      }
      for (std::uint64_t at = 0; at < kBytes; ++at) ASSERT_EQ(seen[at], wanted(at)) << "seed " << seed;
    };
    std::vector<bool> in_a, in_b;
    const auto a = random_ranges(in_a);
    const auto b = random_ranges(in_b);
    expect(a, [&](auto at) -> bool { return in_a[at]; });
    expect(a.common(b), [&](auto at) { return in_a[at] && in_b[at]; });
    expect(a.within(10, 30), [&](auto at) { return in_a[at] && at >= 10 && at < 30; });
    auto both = a;
    both.add(b);
    expect(both, [&](auto at) { return in_a[at] || in_b[at]; });
    auto without = a;
    without.remove(b);
    expect(without, [&](auto at) { return in_a[at] && !in_b[at]; });
  }
}

}  // namespace
}  // namespace reelfs
