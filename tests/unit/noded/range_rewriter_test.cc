#include "noded/scrub/range_rewriter.h"

#include <algorithm>
#include <span>

#include <gtest/gtest.h>

#include "tests/unit/noded/scrub_fixture.h"

namespace reelfs::noded {
namespace {

constexpr SegmentId kSegment{5};
// Where the units of a copy begin, see ScrubTest::make_copy.
constexpr std::uint64_t kSecond = kPageBytes;

class RangeRewriterTest : public ScrubTest {
 protected:
  RangeRewriterTest() {
    make_copy(kSegment);
    good = bytes_of(kSegment);
    others[2] = good;
    others[3] = good;
  }
  RangeRewriter rewriter() {
    return {node->store, WorkerId(1),
            [this](RangeRewriter::Wanted wanted, Deadline) { return fetch(std::move(wanted)); }};
  }
  Task<std::shared_ptr<Buffer>> fetch(RangeRewriter::Wanted wanted) {
    asked.push_back(wanted.source.node());
    const auto copy = others.find(wanted.source.node());
    if (copy == others.end()) co_return Error(Errc::unavailable, "nobody is there");
    const std::span<const std::byte> all(copy->second);
    const auto begin = std::min<std::uint64_t>(wanted.range.begin, all.size());
    const auto end = std::min<std::uint64_t>(wanted.range.end, all.size());
    auto bytes = std::make_shared<Buffer>(end - begin);
    std::copy_n(all.begin() + static_cast<std::ptrdiff_t>(begin), end - begin, bytes->data());
    co_return std::move(bytes);
  }
  Result<wire::RewriteRangesReply> rewrite(std::uint64_t offset, std::uint64_t length) {
    return rewrite(offset, length, {2, 3});
  }
  Result<wire::RewriteRangesReply> rewrite(std::uint64_t offset, std::uint64_t length,
                                           const std::vector<std::uint32_t>& nodes) {
    wire::RewriteRangesRequest order;
    order.set_segment(kSegment.value);
    auto& range = *order.add_ranges();
    range.set_offset(offset);
    range.set_length(length);
    for (const auto source : nodes) order.add_sources()->set_node(source);
    auto writer = rewriter();
    return node->run(writer.rewrite(std::move(order), node->soon()));
  }
  std::uint64_t chunk(std::uint32_t number) const {  // of the second record
    return kSecond + wire::record_header_bytes(300000) + number * wire::kChunkBytes;
  }
  static void flip_in(std::vector<std::byte>& bytes, std::uint64_t at) { bytes[at] ^= std::byte{1}; }

  std::vector<std::byte> good;
  std::map<std::uint32_t, std::vector<std::byte>> others;  // copies on other nodes
  std::vector<std::uint32_t> asked;
};

TEST_F(RangeRewriterTest, WritesWhatIsBadInPlaceAndNothingElse) {
  flip(kSegment, chunk(1) + 77);
  const auto reply = rewrite(chunk(1), 100).value();
  EXPECT_EQ(reply.written_bytes(), kPageBytes);
  EXPECT_EQ(reply.bad_size(), 0);
  EXPECT_EQ(bytes_of(kSegment), good);
  EXPECT_EQ(asked, std::vector<std::uint32_t>{2}) << "one was enough";
  EXPECT_EQ(rewrite(chunk(1), 100).value().written_bytes(), 0u) << "again, it finds nothing to do";
  EXPECT_TRUE(node->table().check());
}

TEST_F(RangeRewriterTest, OnlyTheRangesThatAreNamedAreTouched) {
  flip(kSegment, chunk(1) + 77);
  flip(kSegment, chunk(3) + 77);
  ASSERT_TRUE(rewrite(round_down(chunk(1), kPageBytes), 2 * kPageBytes));
  EXPECT_NE(bytes_of(kSegment), good);
  ASSERT_TRUE(rewrite(0, good.size()));
  EXPECT_EQ(bytes_of(kSegment), good);
}

TEST_F(RangeRewriterTest, CopiesThatAreDamagedInDifferentPlacesMakeEachOtherWhole) {
  flip(kSegment, kSecond + 9);  // the header: what follows cannot be told from here
  flip_in(others[2], chunk(2) + 5);
  const auto reply = rewrite(kSecond, 300000, {2}).value();
  EXPECT_EQ(reply.bad_size(), 0) << "chunk 2 was right here";
  EXPECT_EQ(bytes_of(kSegment), good);
  ASSERT_EQ(reply.sources_size(), 1);
  ASSERT_EQ(reply.sources(0).bad_size(), 1) << "the other copy is bad, too, and that is told";
  EXPECT_EQ(reply.sources(0).bad(0).offset(), chunk(2));
}

TEST_F(RangeRewriterTest, ABadSourceIsPassedOver) {
  flip(kSegment, chunk(1) + 77);
  flip_in(others[2], chunk(1) + 78);
  EXPECT_EQ(rewrite(chunk(1), 100).value().bad_size(), 0);
  EXPECT_EQ(asked, (std::vector<std::uint32_t>{2, 3}));
  EXPECT_EQ(bytes_of(kSegment), good);
}

TEST_F(RangeRewriterTest, WhatIsBadEverywhereIsNeverOverwritten) {
  flip(kSegment, chunk(1) + 77);
  const auto damaged = bytes_of(kSegment);
  flip_in(others[2], chunk(1) + 78);
  flip_in(others[3], chunk(1) + 79);
  const auto reply = rewrite(chunk(1), wire::kChunkBytes).value();
  ASSERT_EQ(reply.bad_size(), 1);
  EXPECT_EQ(reply.bad(0).offset(), chunk(1));
  EXPECT_EQ(reply.bad(0).length(), wire::kChunkBytes);
  EXPECT_EQ(reply.written_bytes(), 0u);
  EXPECT_EQ(bytes_of(kSegment), damaged);
}

TEST_F(RangeRewriterTest, ARecordThatIsGoneWithoutATraceIsKnownFromAnotherCopy) {
  const auto second = good.size() - kPageBytes + wire::record_bytes(1000);
  auto half = std::vector<std::byte>(good.end() - kPageBytes, good.end());
  std::fill(half.begin() + static_cast<std::ptrdiff_t>(wire::record_bytes(1000)), half.end(), std::byte{0});
  overwrite(kSegment, good.size() - kPageBytes, half);  // the second of two records: it looks like padding
  ASSERT_NE(bytes_of(kSegment), good);
  EXPECT_EQ(rewrite(second, 100).value().written_bytes(), kPageBytes);
  EXPECT_EQ(bytes_of(kSegment), good);
}

TEST_F(RangeRewriterTest, ASourceThatIsAwayOrShorterIsToldOf) {
  flip(kSegment, good.size() - 2 * kPageBytes + 1);
  others.erase(2);
  others[3].resize(kPageBytes);
  const auto reply = rewrite(good.size() - 2 * kPageBytes, 2 * kPageBytes).value();
  EXPECT_EQ(reply.bad_size(), 1);
  ASSERT_EQ(reply.sources_size(), 2);
  EXPECT_NE(reply.sources(0).failure(), "");
  EXPECT_EQ(reply.sources(1).failure(), "");
  EXPECT_EQ(reply.sources(1).bad_size(), 1);
}

TEST_F(RangeRewriterTest, AWriteThatFailsTakesTheDeviceOutOfService) {
  flip(kSegment, chunk(1) + 77);
  files.hooks.fail_writes = true;
  EXPECT_EQ(rewrite(chunk(1), 100).error().code(), Errc::io);
  EXPECT_FALSE(node->table().serving());
}

TEST_F(RangeRewriterTest, ABlockBeingRewrittenByAnotherIsLeftAlone) {
  flip(kSegment, chunk(1) + 77);
  const auto block = found(kSegment).address.block;
  ASSERT_TRUE(node->table().begin_rewrite(block, kSegment, WorkerId(2)));
  EXPECT_EQ(rewrite(chunk(1), 100).error().code(), Errc::busy);
  node->table().release_claims(WorkerId(2));
  EXPECT_TRUE(rewrite(chunk(1), 100));
  EXPECT_FALSE(node->table().is_rewritten(block));
}

TEST_F(RangeRewriterTest, WithoutSourcesItSaysWhatIsBadAndGivesTheBytesAsTheyAre) {
  flip(kSegment, chunk(1) + 77);
  const auto damaged = bytes_of(kSegment);
  wire::RewriteRangesRequest order;
  order.set_segment(kSegment.value);
  auto& range = *order.add_ranges();
  range.set_offset(kSecond);
  range.set_length(kMiB);
  auto writer = rewriter();
  const auto raw = node->run(writer.look(order)).value();
  ASSERT_EQ(raw.reply.bad_size(), 1);
  EXPECT_EQ(raw.reply.bad(0).offset(), chunk(1));
  ASSERT_EQ(raw.bytes->size(), kMiB);
  EXPECT_EQ(std::memcmp(raw.bytes->data(), damaged.data() + kSecond, kMiB), 0);
  order.mutable_ranges(0)->set_offset(good.size());
  EXPECT_TRUE(node->run(writer.look(order)).value().bytes->empty()) << "nothing is there";
  EXPECT_EQ(bytes_of(kSegment), damaged);
}

TEST_F(RangeRewriterTest, RefusesWhatIsTooMuchAtOnce) {
  EXPECT_EQ(rewrite(0, 5 * kMiB).error().code(), Errc::invalid);
  EXPECT_EQ(rewrite(UINT64_MAX - 100, 50).error().code(), Errc::invalid);
  EXPECT_EQ(rewrite(0, kPageBytes, {1, 2, 3, 4, 5}).error().code(), Errc::invalid);
  EXPECT_EQ(rewrite(good.size() + kMiB, kPageBytes).value().written_bytes(), 0u) << "nothing is there";
}

}  // namespace
}  // namespace reelfs::noded
