#include "noded/device/record_walk.h"

#include <cstring>

#include <gtest/gtest.h>

#include "tests/unit/noded/units.h"

namespace reelfs::noded {
namespace {

constexpr std::uint64_t kBlockBytes = 4 * kMiB;

/// A block's bytes, and the walk over them in pieces.
class Block {
 public:
  Block() : bytes_(kBlockBytes) { std::memset(bytes_.data(), 0, bytes_.size()); }

  /// Writes at the end.
  std::uint64_t append(UnitOptions options) {
    options.offset = end_;
    put(options.offset, make_unit(options));
    return end_;
  }
  std::uint64_t append_double(UnitOptions options) {
    options.offset = end_;
    put(options.offset, make_double_unit(options));
    return end_;
  }
  void put(std::uint64_t offset, const Buffer& unit) {
    std::memcpy(bytes_.data() + offset, unit.data(), unit.size());
    end_ = offset + unit.size();
  }
  void flip(std::uint64_t at) { bytes_.span()[at] ^= std::byte{1}; }
  void clear(std::uint64_t from, std::uint64_t bytes) { std::memset(bytes_.data() + from, 0, bytes); }

  RecordWalk walk(RecordWalk::Rules rules = {}, std::uint64_t step = RecordWalk::kLookahead) const {
    if (!rules.segment) rules.segment = SegmentId(1);
    rules.block_bytes = kBlockBytes;
    RecordWalk walk(rules);
    while (!walk.done()) {
      const auto base = round_down(walk.position(), kPageBytes);
      walk.feed(base, bytes_.span().subspan(base, std::min(step, kBlockBytes - base)));
    }
    return walk;
  }

 private:
  Buffer bytes_;
  std::uint64_t end_ = 0;
};

TEST(RecordWalk, AnEmptyBlockEndsAtItsStart) { EXPECT_EQ(Block().walk().end(), 0u); }

TEST(RecordWalk, FindsTheEndBehindTheLastWholeUnit) {
  Block block;
  block.append({.payload_bytes = 100});
  block.append_double({.payload_bytes = 3000});
  block.append({.payload_bytes = wire::kMaxRecordPayload});
  const auto end = block.append({.payload_bytes = 200000});
  const auto walk = block.walk();
  EXPECT_EQ(walk.end(), end);
  EXPECT_EQ(walk.records(), 5u);
  EXPECT_EQ(block.walk({}, kBlockBytes).end(), end);
}

TEST(RecordWalk, CutsATornLastUnit) {
  Block block;
  const auto end = block.append({.payload_bytes = 200000});
  const auto torn_end = block.append({.payload_bytes = 200000});
  block.clear(torn_end - 2 * kPageBytes, 2 * kPageBytes);
  EXPECT_EQ(block.walk().end(), end);
}

TEST(RecordWalk, EndsBeforeAUnitWithAFlippedByte) {
  Block block;
  block.append({});
  const auto end = block.append({});
  block.append({});
  block.append({});
  block.flip(end + 3000);
  EXPECT_EQ(block.walk().end(), end);
}

TEST(RecordWalk, DoesNotTakeRecordsOfTheBlocksEarlierLife) {
  Block block;
  for (int i = 0; i < 4; ++i) block.append({.segment = SegmentId(9)});
  block.put(0, make_unit({.segment = SegmentId(1)}));
  EXPECT_EQ(block.walk().end(), round_up(wire::record_bytes(5000), kPageBytes));
}

TEST(RecordWalk, DoesNotTakeAMisplacedRecord) {
  Block block;
  const auto end = block.append({});
  block.put(end, make_unit({.offset = end + kPageBytes}));
  EXPECT_EQ(block.walk().end(), end);
}

TEST(RecordWalk, DoesNotTakeALowerGenerationBehindAHigher) {
  Block block;
  block.append({.generation = Generation(1)});
  const auto end = block.append({.generation = Generation(3)});
  block.append({.generation = Generation(2)});
  EXPECT_EQ(block.walk().end(), end);
}

TEST(RecordWalk, DoesNotTakeAFencedWritersRecordsBehindTheFence) {
  Block block;
  const auto fence = block.append({.generation = Generation(1)});
  block.append({.generation = Generation(1)});
  EXPECT_EQ(block.walk({.fence_generation = Generation(2), .fence_length = fence}).end(), fence);
  block.put(fence, make_unit({.generation = Generation(2), .offset = fence}));
  EXPECT_GT(block.walk({.fence_generation = Generation(2), .fence_length = fence}).end(), fence);
}

TEST(RecordWalk, GoesOnFromWhatIsKnown) {
  Block block;
  const auto known = block.append({});
  const auto end = block.append({});
  block.flip(2000);
  EXPECT_EQ(block.walk().end(), 0u);
  EXPECT_EQ(block.walk({.start = known}).end(), end);
}

TEST(RecordWalk, EndsAtTheBlocksEnd) {
  Block block;
  std::uint64_t end = 0;
  while (end + round_up(wire::record_bytes(wire::kMaxRecordPayload), kPageBytes) <= kBlockBytes) {
    end = block.append({.payload_bytes = wire::kMaxRecordPayload});
  }
  const auto rest = kBlockBytes - end;
  end = block.append({.payload_bytes = static_cast<std::uint32_t>(rest - 192 - 64)});
  ASSERT_EQ(end, kBlockBytes);
  EXPECT_EQ(block.walk().end(), kBlockBytes);
}

}  // namespace
}  // namespace reelfs::noded
