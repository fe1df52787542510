#include "client/arrivals/channel_arrivals.h"

#include <gtest/gtest.h>

#include "common/sim/sim_clock.h"

namespace reelfs::client {
namespace {

using namespace std::chrono_literals;

class ChannelArrivalsTest : public ::testing::Test {
 protected:
  /// A write that begins a piece. @return when
  TimePoint write() {
    arrivals.wrote(clock.now(), 1);
    return clock.now();
  }
  void settle(TimePoint begun, Fate fate = Fate::stored) { arrivals.settled({&begun, 1}, fate); }
  ChannelArrivals::Report confirmed() {
    auto report = arrivals.report(clock.now());
    arrivals.confirm();
    return report;
  }

  sim::SimClock clock;
  ChannelArrivals arrivals{clock.now()};
};

TEST_F(ChannelArrivalsTest, BytesCountOnceTheyAreStored) {
  arrivals.writer_opened(clock.now());
  const auto first = write();
  clock.advance(100ms);
  arrivals.wrote(clock.now(), 0);
  const auto last = clock.now();
  auto report = confirmed();
  EXPECT_FALSE(report.came);
  EXPECT_EQ(report.pending, first);
  EXPECT_EQ(report.written, last);
  EXPECT_EQ(report.writers, 1u);
  settle(first);
  report = confirmed();
  ASSERT_TRUE(report.came);
  EXPECT_EQ(report.came->first, first);
  EXPECT_EQ(report.came->last, last);
  EXPECT_EQ(report.came->longest_pause, 100ms);
  EXPECT_FALSE(report.pending);
  EXPECT_FALSE(confirmed().came);
}

TEST_F(ChannelArrivalsTest, LostBytesDoNotCount) {
  const auto first = write();
  settle(first);
  clock.advance(5s);
  settle(write(), Fate::lost);
  clock.advance(5s);
  const auto next = write();
  settle(next);
  const auto report = confirmed();
  ASSERT_EQ(report.pauses.size(), 1u);
  EXPECT_EQ(report.pauses.front().begin, first);
  EXPECT_EQ(report.pauses.front().end, next);
}

TEST_F(ChannelArrivalsTest, AreToldInOrderHoweverTheyAreStored) {
  settle(write());
  const auto begin = clock.now();
  clock.advance(3s);
  const auto second = write();
  clock.advance(3s);
  const auto third = write();
  settle(third);
  EXPECT_EQ(confirmed().came->last, begin);
  settle(second);
  const auto report = confirmed();
  EXPECT_EQ(report.came->first, second);
  EXPECT_EQ(report.came->last, third);
  ASSERT_EQ(report.pauses.size(), 2u);
  EXPECT_EQ(report.pauses[0].end, second);
  EXPECT_EQ(report.pauses[1].begin, second);
}

TEST_F(ChannelArrivalsTest, WhatIsNotConfirmedIsToldAgain) {
  const auto first = write();
  settle(first);
  EXPECT_TRUE(arrivals.report(clock.now()).came);
  clock.advance(4s);
  const auto second = write();
  settle(second);
  clock.advance(100ms);
  const auto third = write();
  settle(third);
  const auto report = confirmed();
  EXPECT_EQ(report.came->first, first);
  EXPECT_EQ(report.came->last, third);
  EXPECT_EQ(report.came->longest_pause, 4s);
  EXPECT_EQ(report.pauses.size(), 1u);
  EXPECT_TRUE(confirmed().pauses.empty());
}

TEST_F(ChannelArrivalsTest, PausesSayWhatWasSoInThem) {
  arrivals.writer_opened(clock.now());
  settle(write());
  clock.advance(1s);
  const auto since = clock.now();
  arrivals.call_waits(since);
  clock.advance(2s);
  EXPECT_EQ(arrivals.report(clock.now()).waiting, 2s);
  arrivals.call_ended(since, clock.now());
  arrivals.writer_closed(clock.now());
  clock.advance(3s);
  arrivals.writer_opened(clock.now());
  arrivals.store_away(clock.now());
  clock.advance(500ms);
  arrivals.store_back(clock.now());
  settle(write());
  const auto report = confirmed();
  ASSERT_EQ(report.pauses.size(), 1u);
  EXPECT_EQ(report.pauses.front().stalled, 2s);
  EXPECT_EQ(report.pauses.front().unattended, 3s);
  EXPECT_EQ(report.longest_stall, 2s);
  EXPECT_EQ(report.waiting, 0s);
}

TEST_F(ChannelArrivalsTest, IsActiveUntilItIsKnownThatNobodyWrites) {
  EXPECT_FALSE(arrivals.is_active());
  arrivals.writer_opened(clock.now());
  EXPECT_TRUE(arrivals.is_active());
  EXPECT_EQ(confirmed().writers, 1u);
  arrivals.writer_closed(clock.now());
  EXPECT_EQ(arrivals.report(clock.now()).writers, 0u);
  EXPECT_TRUE(arrivals.is_active());
  confirmed();
  EXPECT_FALSE(arrivals.is_active());
}

}  // namespace
}  // namespace reelfs::client
