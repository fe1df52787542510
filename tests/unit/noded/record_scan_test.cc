#include "noded/scrub/record_scan.h"

#include <cstring>
#include <random>

#include <gtest/gtest.h>

#include "tests/unit/noded/units.h"

namespace reelfs::noded {
namespace {

using List = std::vector<ByteSpan>;

/// A copy's bytes, and the scan over them in pieces.
class Copy {
 public:
  void append(UnitOptions options) {
    options.offset = bytes_.size();
    put(make_unit(options));
  }
  void append_double(UnitOptions options) {
    options.offset = bytes_.size();
    put(make_double_unit(options));
  }
  void put(const Buffer& unit) {
    const auto at = bytes_.size();
    bytes_.resize(at + unit.size());
    std::memcpy(bytes_.data() + at, unit.data(), unit.size());
  }
  void flip(std::uint64_t at) { bytes_[at] ^= std::byte{1}; }
  std::uint64_t size() const { return bytes_.size(); }
  void cut(std::uint64_t size) { bytes_.resize(size); }
  std::vector<std::byte>& bytes() { return bytes_; }

  RecordScan scan(std::uint64_t start = 0, std::uint64_t step = RecordScan::kLookahead) const {
    RecordScan::Rules rules;
    rules.segment = SegmentId(1);
    rules.length = bytes_.size();
    rules.start = start;
    rules.in_midst = start > 0;
    RecordScan scan(rules);
    while (!scan.done()) {
      const auto base = round_down(scan.position(), kPageBytes);
      scan.feed(base, std::span(bytes_).subspan(base, std::min<std::uint64_t>(step, bytes_.size() - base)));
    }
    return scan;
  }
  ByteRanges bad() const { return scan().bad(); }

 private:
  std::vector<std::byte> bytes_;
};

Copy sample() {
  Copy copy;
  copy.append({.payload_bytes = 100});
  copy.append_double({.payload_bytes = 3000});
  copy.append({.payload_bytes = wire::kMaxRecordPayload});
  copy.append({.payload_bytes = 200000});
  copy.append({.payload_bytes = 5000});
  return copy;
}

TEST(RecordScan, FindsNothingBadInAWholeCopy) {
  const auto copy = sample();
  EXPECT_TRUE(copy.bad().empty());
  EXPECT_TRUE(Copy().bad().empty());
  const auto whole = copy.scan(0, copy.size());
  EXPECT_TRUE(whole.bad().empty());
  EXPECT_EQ(whole.records(), copy.scan().records()) << "in pieces it is the same";
}

TEST(RecordScan, NamesTheChunkThatIsBadAndNoOther) {
  auto copy = sample();
  constexpr std::uint64_t kLarge = 3 * kPageBytes;  // behind one unit of a page and one of two
  const auto header = wire::record_header_bytes(wire::kMaxRecordPayload);
  copy.flip(kLarge + header + 5 * wire::kChunkBytes + 17);
  const auto begin = kLarge + header + 5 * wire::kChunkBytes;
  EXPECT_EQ(copy.bad().list(), (List{{begin, begin + wire::kChunkBytes}}));
}

TEST(RecordScan, WhereAHeaderIsBadGoesOnWithTheNextRecord) {
  auto copy = sample();
  const auto second = kPageBytes + wire::record_bytes(3000);  // in the middle of a page
  copy.flip(second + 40);
  EXPECT_EQ(copy.bad().list(), (List{{second, 3 * kPageBytes}}));
  auto first = sample();
  first.flip(3);
  EXPECT_EQ(first.bad().list(), (List{{0, kPageBytes}}));
}

TEST(RecordScan, APageOfZerosIsMissed) {
  for (std::uint64_t page = 0; page < sample().size() / kPageBytes; ++page) {
    auto copy = sample();
    std::memset(copy.bytes().data() + page * kPageBytes, 0, kPageBytes);
    const auto bad = copy.bad();
    EXPECT_FALSE(bad.within(page * kPageBytes, (page + 1) * kPageBytes).empty()) << page;
  }
}

TEST(RecordScan, EveryBitThatCountsIsMissed) {
  std::mt19937_64 random(1);
  const auto good = sample();
  const auto records = good.scan().records();
  for (int i = 0; i < 400; ++i) {
    auto copy = good;
    const auto at = random() % copy.size();
    copy.flip(at);
    const auto bad = copy.bad();
    if (records.within(at, at + 1).empty()) continue;  // padding: nobody reads it
    ASSERT_FALSE(bad.within(at, at + 1).empty()) << at;
  }
}

TEST(RecordScan, AMisplacedRecordDoesNotCount) {
  auto copy = sample();
  std::memmove(copy.bytes().data(), copy.bytes().data() + kPageBytes, kPageBytes);
  EXPECT_FALSE(copy.bad().within(0, kPageBytes).empty());
}

TEST(RecordScan, WhatATornUnitLeftBehindTheEndIsNotDamage) {
  Copy copy;
  copy.append({.payload_bytes = 100});
  copy.append_double({.payload_bytes = 5000});
  copy.cut(kPageBytes +
           2 * kPageBytes);  // the first of two records is whole, of the second there is the begin
  EXPECT_TRUE(copy.bad().empty());
  copy.append({.generation = Generation(2), .payload_bytes = 100});
  EXPECT_TRUE(copy.bad().empty()) << "another writer went on there";
  copy.flip(kPageBytes + wire::record_bytes(5000) + 3);
  EXPECT_TRUE(copy.bad().empty());
  Copy whole;
  whole.append({.payload_bytes = 100});
  whole.append_double({.payload_bytes = 3000});
  whole.append({.payload_bytes = 100});
  whole.flip(kPageBytes + wire::record_bytes(3000) + 3);
  EXPECT_FALSE(whole.bad().empty()) << "the same writer did";
}

TEST(RecordScan, FromTheMidstCallsBadWhatItCannotKnow) {
  const auto copy = sample();
  const auto start = 3 * kPageBytes + 10 * kPageBytes;  // within the largest record
  const auto scan = copy.scan(start);
  ASSERT_EQ(scan.bad().size(), 1u);
  EXPECT_EQ(scan.bad().list()[0].begin, start);
  const auto next = 3 * kPageBytes + round_up(wire::record_bytes(wire::kMaxRecordPayload), kPageBytes);
  EXPECT_EQ(scan.bad().list()[0].end, next);
  EXPECT_EQ(scan.records(), copy.scan().records().within(next, copy.size()));
}

}  // namespace
}  // namespace reelfs::noded
