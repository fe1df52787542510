#include "indexd/gaps/channel_watch.h"

#include <functional>
#include <map>

#include <gtest/gtest.h>

#include "common/sim/sim_clock.h"

namespace reelfs::indexd {
namespace {

using namespace std::chrono_literals;

constexpr SessionId kMount{7};
constexpr SessionId kOther{8};

/// A channel, a recorder that writes to it, and a mount that reports twice a second.
class ChannelWatchTest : public ::testing::Test {
 protected:
  ChannelWatchTest() : watch_(std::make_unique<ChannelWatch>(clock_.now())) {}

  Moment moment() const {
    return {clock_.now(), clock_.wall().time_since_epoch().count() + wall_moved_.count()};
  }
  WallNs wall() const { return moment().wall_ns; }

  void collect() {
    for (const auto& change : watch_->take_changes()) {
      if (change.row) {
        ledger_[change.start_ns] = *change.row;
      } else {
        ledger_.erase(change.start_ns);
      }
    }
  }
  void look() {
    if (judging_) watch_->look(moment());
    collect();
  }
  /// As a mount does: what came since the last report, and the pauses.
  void report(SessionId session = kMount) {
    ArrivalReport report;
    report.came = came_;
    report.pauses = pauses_;
    report.writers = writers_;
    report.waiting = waiting_since_ ? clock_.now() - *waiting_since_ : Duration::zero();
    report.written = written_;
    report.pending = pending_;
    watch_->report(session, report, moment());
    came_.reset();
    pauses_.clear();
    collect();
  }
  void arrive() {
    const auto now = clock_.now();
    written_ = now;
    if (last_ && now - *last_ > 1s) pauses_.push_back({*last_, now, stalled_, unattended_});
    const auto pause = last_ ? now - *last_ : Duration::zero();
    if (!came_) {
      came_ = {now, now, {}};
    } else {
      came_->last = now;
      came_->longest_pause = std::max(came_->longest_pause, pause);
    }
    last_ = now;
    stalled_ = unattended_ = Duration::zero();
  }
  /// Time passes; the index looks four times a second, and the mount reports twice.
  void pass(Duration duration, Duration spacing = Duration::max(), bool reports = true) {
    const auto end = clock_.now() + duration;
    while (clock_.now() < end) {
      clock_.advance(10ms);
      if (waiting_since_) stalled_ += 10ms;
      if (writers_ == 0) unattended_ += 10ms;
      if (spacing != Duration::max() && (!last_ || clock_.now() - *last_ >= spacing)) arrive();
      const auto tick = clock_.now().time_since_epoch() / 10ms;
      if (reports && tick % 50 == 0) report();
      if (tick % 25 == 0) look();
    }
  }
  void record(Duration duration, Duration spacing = 40ms) { pass(duration, spacing); }
  /// @return how long it was silent when it was noticed
  Duration until_noticed(Duration limit) {
    const auto end = clock_.now() + limit;
    while (!watch_->open() && clock_.now() < end) pass(10ms);
    return clock_.now() - *last_;
  }
  void restart() {
    const auto row = watch_->row();
    std::optional<tree::Gap> open;
    if (const auto lasting = watch_->open())
      open = tree::Gap{lasting->start_ns, ledger_.at(lasting->start_ns)};
    const auto last_ns = wall() - (clock_.now() - *watch_->last()).count();
    watch_ = std::make_unique<ChannelWatch>(moment(), row, last_ns, open);
  }
  const GapRow& only() {
    EXPECT_EQ(ledger_.size(), 1u);
    static const GapRow kNone;
    return ledger_.empty() ? kNone : ledger_.begin()->second;
  }
  Duration length_of_only() { return Duration(only().end_ns - ledger_.begin()->first); }

  sim::SimClock clock_;
  Duration wall_moved_{0};
  std::unique_ptr<ChannelWatch> watch_;
  std::map<WallNs, GapRow> ledger_;
  bool judging_ = true;
  std::uint32_t writers_ = 1;
  std::optional<TimePoint> waiting_since_;
  std::optional<ArrivalReport::Came> came_;
  std::vector<ArrivalReport::Pause> pauses_;
  std::optional<TimePoint> last_, written_, pending_;
  Duration stalled_{0}, unattended_{0};
};

TEST_F(ChannelWatchTest, SilenceIsNoticedWithinFiveSecondsOfTheCadence) {
  for (const Duration spacing : {Duration(40ms), Duration(1s), Duration(10s)}) {
    SCOPED_TRACE(spacing / 1ms);
    watch_ = std::make_unique<ChannelWatch>(clock_.now());
    ledger_.clear();
    last_.reset();
    record(200s, spacing);
    EXPECT_TRUE(ledger_.empty());
    const auto noticed = until_noticed(60s);
    EXPECT_GE(noticed, spacing + 3s);
    EXPECT_LE(noticed, spacing + 5s);
    EXPECT_EQ(only().cause, GapCause::source_silent);
    EXPECT_EQ(only().end_ns, 0);
    EXPECT_NEAR(static_cast<double>(ledger_.begin()->first), static_cast<double>(wall() - noticed.count()),
                1e6);
  }
}

TEST_F(ChannelWatchTest, AGapEndsWithTheNextByte) {
  record(30s);
  const auto silent = clock_.now();
  pass(20s);
  EXPECT_TRUE(watch_->open());
  record(5s);
  EXPECT_FALSE(watch_->open());
  EXPECT_EQ(only().cause, GapCause::source_silent);
  EXPECT_NEAR(static_cast<double>(length_of_only().count()), 20e9, 1e8);
  EXPECT_LE(ledger_.begin()->first, wall() - (clock_.now() - silent).count());
}

TEST_F(ChannelWatchTest, BurstsAreUsual) {
  for (int i = 0; i < 20; ++i) {
    record(5s);
    pass(8s);
  }
  // Those that came before it was known that they are usual are gaps, and no others.
  const auto learnt = ledger_.size();
  EXPECT_LE(learnt, 2u);
  for (int i = 0; i < 20; ++i) {
    record(5s);
    pass(8s);
  }
  EXPECT_EQ(ledger_.size(), learnt);
  EXPECT_LE(until_noticed(60s), 8s + 5s);
}

TEST_F(ChannelWatchTest, AFewOutagesDoNotChangeTheCadence) {
  for (int i = 0; i < 4; ++i) {
    record(20s);
    pass(30s);
  }
  record(20s);
  EXPECT_EQ(ledger_.size(), 4u);
  EXPECT_LE(until_noticed(60s), 6s);
}

TEST_F(ChannelWatchTest, WhatIsCopiedInOneGoIsNotRecorded) {
  record(1s);
  writers_ = 0;
  pass(600s);
  EXPECT_FALSE(watch_->is_watched());
  EXPECT_TRUE(ledger_.empty());
}

TEST_F(ChannelWatchTest, SegmentsOfARecorderAreNoGaps) {
  for (int i = 0; i < 10; ++i) {
    record(10s);
    writers_ = 0;
    pass(100ms);
    writers_ = 1;
  }
  EXPECT_TRUE(ledger_.empty());
}

TEST_F(ChannelWatchTest, ARecorderThatIsGoneIsSaidToBe) {
  record(30s);
  writers_ = 0;
  EXPECT_LE(until_noticed(60s), 5s + 40ms);
  EXPECT_EQ(only().cause, GapCause::recorder_gone);
  pass(20s);
  writers_ = 1;  // it comes back, and needs a moment
  pass(2s);
  EXPECT_EQ(watch_->open()->cause, GapCause::source_silent);
  record(5s);
  EXPECT_EQ(only().cause, GapCause::recorder_gone);
  EXPECT_NE(only().end_ns, 0);
}

TEST_F(ChannelWatchTest, ASessionThatEndsTakesItsRecorderAlong) {
  record(30s);
  pass(2s, Duration::max(), false);
  watch_->session_ended(kMount);
  pass(10s, Duration::max(), false);
  EXPECT_EQ(only().cause, GapCause::recorder_gone);
  last_.reset();  // another mount, which knows nothing of what was before
  pass(5s, 40ms);
  EXPECT_EQ(only().cause, GapCause::recorder_gone);
  EXPECT_NEAR(static_cast<double>(length_of_only().count()), 12e9, 1e9);
}

TEST_F(ChannelWatchTest, AMountThatSaysNothingIsTakenForAStall) {
  record(30s);
  pass(10s, Duration::max(), false);
  EXPECT_EQ(only().cause, GapCause::store_stalled);
}

TEST_F(ChannelWatchTest, ACallThatWaitsIsAStall) {
  record(30s);
  waiting_since_ = clock_.now();
  pass(12s);
  EXPECT_EQ(only().cause, GapCause::store_stalled);
  EXPECT_GE(only().longest_stall_ms, 3000u);
  waiting_since_.reset();
  record(5s);
  EXPECT_EQ(only().cause, GapCause::store_stalled);
  EXPECT_GE(only().longest_stall_ms, 11'000u);
  EXPECT_GE(watch_->longest_stall(), 11s);
}

TEST_F(ChannelWatchTest, WhatWaitsToBeStoredIsNoSilence) {
  record(30s);
  pending_ = clock_.now() + 40ms;
  const auto begun = clock_.now();
  while (clock_.now() - begun < 30s) {
    written_ = clock_.now();
    pass(40ms);
  }
  EXPECT_TRUE(ledger_.empty());
  // All of it is stored now.
  pending_.reset();
  came_ = {begun + 40ms, clock_.now(), 40ms};
  last_ = clock_.now();
  record(10s);
  EXPECT_TRUE(ledger_.empty());
}

TEST_F(ChannelWatchTest, WhatIsNeverStoredIsAGap) {
  record(30s);
  const auto begun = clock_.now();
  while (clock_.now() - begun < 20s) {
    written_ = pending_ = clock_.now();
    waiting_since_ = clock_.now() - 1s;
    pass(500ms);
  }
  EXPECT_EQ(only().cause, GapCause::store_stalled);
  EXPECT_EQ(only().end_ns, 0);
}

TEST_F(ChannelWatchTest, ARestartKeepsTheLedgerAndMakesNoGaps) {
  record(60s);
  judging_ = false;
  pass(20s, 40ms, false);  // nobody hears it
  restart();
  EXPECT_EQ(watch_->cadence(), 40ms);
  report();
  judging_ = true;
  record(10s);
  EXPECT_TRUE(ledger_.empty());
}

TEST_F(ChannelWatchTest, AnOpenGapOutlivesARestart) {
  record(60s);
  writers_ = 0;
  pass(20s);
  const auto before = ledger_;
  restart();
  pass(20s);
  EXPECT_EQ(ledger_, before);
  writers_ = 1;
  record(5s);
  EXPECT_EQ(only().cause, GapCause::recorder_gone);
  EXPECT_NEAR(static_cast<double>(length_of_only().count()), 40e9, 1e9);
}

TEST_F(ChannelWatchTest, AGapThatBeganAndEndedUnheardIsFoundAfterwards) {
  record(60s);
  judging_ = false;
  pass(10s, 40ms, false);
  pass(15s, Duration::max(), false);
  pass(10s, 40ms, false);
  restart();
  report();
  judging_ = true;
  record(5s);
  EXPECT_EQ(only().cause, GapCause::source_silent);
  EXPECT_NEAR(static_cast<double>(length_of_only().count()), 15e9, 1e8);
}

TEST_F(ChannelWatchTest, WhatWasFalselyNoticedIsTakenBack) {
  record(60s);
  pass(10s, 40ms, false);  // the mount does not reach the index
  EXPECT_EQ(only().cause, GapCause::store_stalled);
  report();
  EXPECT_TRUE(ledger_.empty());
}

TEST_F(ChannelWatchTest, ClocksThatAreSetMakeNoGaps) {
  record(30s);
  wall_moved_ = 1h;
  record(30s);
  wall_moved_ = -1h;
  record(30s);
  EXPECT_TRUE(ledger_.empty());
  const auto last = wall();
  pass(10s);
  wall_moved_ = 24h;
  pass(10s);
  record(5s);
  EXPECT_NEAR(static_cast<double>(ledger_.begin()->first), static_cast<double>(last), 1e9);
  EXPECT_NEAR(static_cast<double>(length_of_only().count()), 20e9, 1e8);
}

TEST_F(ChannelWatchTest, AnotherMountCoversForTheFirst) {
  record(30s);
  const auto silent = *last_;
  const auto begun = clock_.now();
  while (clock_.now() - begun < 20s) {  // the first is silent, and the other one writes
    clock_.advance(500ms);
    ArrivalReport other;
    other.came = {clock_.now() - 400ms, clock_.now(), 40ms};
    other.writers = 1;
    watch_->report(kOther, other, moment());
    report();
    look();
  }
  arrive();  // its pause of 20 s is none of the channel's
  ASSERT_EQ(pauses_.size(), 1u);
  EXPECT_EQ(pauses_.front().begin, silent);
  report();
  EXPECT_TRUE(ledger_.empty());
}

TEST(Cadence, IsWhatSevenOfEightPausesDoNotExceed) {
  Cadence cadence;
  TimePoint now;
  const auto note = [&](Duration pause) { cadence.note(pause, now += Cadence::kTogether); };
  EXPECT_EQ(cadence.usual(), 0s);
  note(3s);
  EXPECT_EQ(cadence.usual(), 3s);
  for (int i = 0; i < 64; ++i) note(i % 16 == 0 ? 60s : 1s);
  EXPECT_EQ(cadence.usual(), 1s);
  for (int i = 0; i < 64; ++i) note(i % 6 == 0 ? 60s : 1s);
  EXPECT_EQ(cadence.usual(), 60s);
  cadence.assume(5s);
  EXPECT_EQ(cadence.usual(), 5s);
  for (int i = 0; i < 57; ++i) note(1s);
  EXPECT_EQ(cadence.usual(), 1s);
}

TEST(Cadence, OneOutageSoonAfterTheStartIsUnusual) {
  Cadence cadence;
  TimePoint now;
  for (const auto pause : {1s, 1s, 30s, 1s}) cadence.note(pause, now += Cadence::kTogether);
  EXPECT_EQ(cadence.usual(), 1s);
}

TEST(Cadence, RemembersTheLongestPauseOfATime) {
  Cadence cadence;
  TimePoint now;
  for (int i = 0; i < 128; ++i) cadence.note(i % 16 == 0 ? 9s : 1s, now += 250ms);
  EXPECT_EQ(cadence.usual(), 9s);
}

}  // namespace
}  // namespace reelfs::indexd
