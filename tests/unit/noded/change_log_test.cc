#include "noded/transfer/change_log.h"

#include <gtest/gtest.h>

#include "tests/unit/noded/units.h"

namespace reelfs::noded {
namespace {

using namespace std::chrono_literals;

const rpc::Endpoint kSecond{"127.0.0.1", 2000};
const rpc::Endpoint kThird{"127.0.0.1", 3000};

wire::WorkerAddress address(std::uint32_t node, const rpc::Endpoint& endpoint) {
  wire::WorkerAddress address;
  address.set_node(node);
  address.mutable_endpoint()->set_host(endpoint.host);
  address.mutable_endpoint()->set_port(endpoint.port);
  return address;
}

class ChangeLogTest : public ::testing::Test {
 protected:
  static ChangeSource source(std::uint64_t segment, std::uint64_t generation = 1) {
    return {SegmentId(segment), Generation(generation), InodeId(7)};
  }
  /// A unit of a page with 1000 bytes of payload.
  void append(std::uint64_t segment, std::uint64_t page, Duration at = {}, std::uint64_t generation = 1) {
    Change change;
    change.offset = page * kPageBytes;
    change.end = (page + 1) * kPageBytes;
    change.payload_bytes = 1000;
    change.since = TimePoint{} + 1h + at;
    change.bytes = std::make_shared<const Buffer>(kPageBytes);
    log.appended(source(segment, generation), others, change);
  }
  std::optional<ChangeLog::Next> take(const rpc::Endpoint& process) {
    auto next = log.next(process, now);
    if (next) log.sent(*next);
    return next;
  }
  std::uint64_t lag_of(NodeId node) {
    std::uint64_t bytes = 0;
    for (const auto& lag : log.lag(now)) {
      if (lag.node == node) bytes += lag.bytes;
    }
    return bytes;
  }

  TimePoint now = TimePoint{} + 2h;
  std::vector<wire::WorkerAddress> others{address(2, kSecond), address(3, kThird)};
  ChangeLog log{4 * kPageBytes};
};

TEST_F(ChangeLogTest, EachCopyGetsEveryUnitInOrderAndWhatItHasIsForgotten) {
  for (std::uint64_t page = 0; page < 3; ++page) append(1, page);
  std::vector<ChangeLog::Next> sent;
  while (auto next = take(kSecond)) sent.push_back(*next);
  ASSERT_EQ(sent.size(), 3u);
  for (std::uint64_t page = 0; page < 3; ++page) EXPECT_EQ(sent[page].change.offset, page * kPageBytes);
  EXPECT_EQ(log.everywhere(SegmentId(1)), 0u);
  log.answered(sent[0], kPageBytes);
  log.answered(sent[2], 3 * kPageBytes);  // answers may overtake each other
  log.answered(sent[1], 2 * kPageBytes);
  EXPECT_EQ(lag_of(NodeId(2)), 0u);
  EXPECT_EQ(lag_of(NodeId(3)), 3000u);
  EXPECT_EQ(lag_of(NodeId()), 3000u) << "what any copy lacks counts once";
  EXPECT_EQ(log.everywhere(SegmentId(1)), 0u) << "the third has nothing";
  while (auto next = take(kThird)) log.answered(*next, next->change.end);
  EXPECT_EQ(log.everywhere(SegmentId(1)), 3 * kPageBytes);
  EXPECT_TRUE(log.lag(now).empty());
  EXPECT_TRUE(log.behind().empty());
}

TEST_F(ChangeLogTest, ACopyThatEndsElsewhereIsSentTheRestAgainOnceNothingIsOnItsWay) {
  for (std::uint64_t page = 0; page < 3; ++page) append(1, page);
  const auto first = take(kSecond), second = take(kSecond), third = take(kSecond);
  log.answered(*first, kPageBytes);
  log.answered(*second, kPageBytes);  // refused as a gap, say
  EXPECT_FALSE(log.next(kSecond, now)) << "the third is on its way";
  log.answered(*third, kPageBytes);
  const auto again = log.next(kSecond, now);
  ASSERT_TRUE(again);
  EXPECT_EQ(again->change.offset, kPageBytes);
  EXPECT_FALSE(again->underived);
}

TEST_F(ChangeLogTest, ACopyThatRefusesWaitsAndHoldsUpNoOther) {
  append(1, 0, 1s);
  append(2, 0, 2s);
  const auto oldest = take(kSecond);
  ASSERT_TRUE(oldest);
  EXPECT_EQ(oldest->place.segment, SegmentId(1)) << "what waits longest comes first";
  log.failed(*oldest, now + 1s);
  const auto other = take(kSecond);
  ASSERT_TRUE(other);
  EXPECT_EQ(other->place.segment, SegmentId(2));
  log.answered(*other, kPageBytes);
  EXPECT_FALSE(log.next(kSecond, now));
  EXPECT_EQ(log.next_at(kSecond, now), now + 1s);
  ASSERT_TRUE(log.next(kSecond, now + 1s));
  EXPECT_EQ(log.next(kSecond, now + 1s)->place.segment, SegmentId(1));
}

TEST_F(ChangeLogTest, WhatIsNotKnownOfACopyIsAskedForAndThenSent) {
  log.follow(source(1), others);
  EXPECT_EQ(log.everywhere(SegmentId(1)), 0u);
  const auto ask = take(kSecond);
  ASSERT_TRUE(ask && ask->underived);
  EXPECT_FALSE(log.next(kSecond, now)) << "asked once at a time";
  Change rest;
  rest.offset = kPageBytes;
  rest.end = 3 * kPageBytes;
  rest.payload_bytes = 2000;
  rest.since = now;
  log.derived(*ask, kPageBytes, {rest});
  EXPECT_EQ(lag_of(NodeId(2)), 2000u);
  const auto next = take(kSecond);
  ASSERT_TRUE(next && !next->underived);
  EXPECT_EQ(next->change.offset, kPageBytes);
  log.answered(*next, 3 * kPageBytes);
  log.follow(source(1), others);
  EXPECT_FALSE(log.next(kSecond, now)) << "it is known now";
}

TEST_F(ChangeLogTest, ACopyThatHasLessThanItHadIsAskedAnew) {
  append(1, 5);  // granted at page 5: every copy had as much
  const auto sent = take(kSecond);
  log.answered(*sent, 2 * kPageBytes);  // its machine lost power
  const auto ask = log.next(kSecond, now);
  ASSERT_TRUE(ask);
  EXPECT_TRUE(ask->underived);
}

TEST_F(ChangeLogTest, AUnitIsEnteredOnceAndAGapIsAskedFor) {
  append(1, 0);
  append(1, 0);  // repeated by its writer
  EXPECT_EQ(lag_of(NodeId(2)), 1000u);
  append(1, 2);
  const auto ask = log.next(kSecond, now);
  ASSERT_TRUE(ask);
  EXPECT_TRUE(ask->underived);
}

TEST_F(ChangeLogTest, AnotherGrantBeginsAnewAndAnswersToTheOneBeforeSayNothing) {
  append(1, 0);
  const auto old = take(kSecond);
  append(1, 4, {}, 2);
  log.answered(*old, 0);
  const auto next = log.next(kSecond, now);
  ASSERT_TRUE(next);
  EXPECT_EQ(next->generation, Generation(2));
  EXPECT_EQ(next->change.offset, 4 * kPageBytes);
  EXPECT_FALSE(next->underived);
}

TEST_F(ChangeLogTest, KeepsNoMoreMemoryThanItMayAndGivesItBack) {
  for (std::uint64_t page = 0; page < 6; ++page) append(1, page);
  EXPECT_EQ(log.kept_bytes(), 4 * kPageBytes);
  std::size_t kept = 0;
  while (auto next = take(kSecond)) {
    kept += next->change.bytes != nullptr;
    log.answered(*next, next->change.end);
  }
  EXPECT_EQ(kept, 4u);
  EXPECT_EQ(log.kept_bytes(), 4 * kPageBytes) << "the third copy lacks them";
  log.forget(SegmentId(1));
  EXPECT_EQ(log.kept_bytes(), 0u);
  EXPECT_FALSE(log.everywhere(SegmentId(1)));
}

TEST_F(ChangeLogTest, TellsTheOldestOfAChannelsSegments) {
  append(1, 0, 30s);
  append(2, 0, 10s);
  for (const auto& lag : log.lag(TimePoint{} + 1h + 40s)) {
    EXPECT_EQ(lag.channel, InodeId(7));
    EXPECT_EQ(lag.bytes, 2000u);
    EXPECT_EQ(lag.oldest, 30s);
  }
}

TEST(PayloadOf, CountsEveryRecordOfAUnit) {
  UnitOptions options;
  options.payload_bytes = 1000;
  EXPECT_EQ(payload_of(make_unit(options).span()), 1000u);
  EXPECT_EQ(payload_of(make_double_unit(options).span()), 2000u);
}

}  // namespace
}  // namespace reelfs::noded
