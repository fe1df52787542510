#include <algorithm>
#include <string>

#include <gtest/gtest.h>

#include "client/writer/core.h"
#include "common/wire/record.h"

namespace reelfs::client {
namespace {

using namespace std::chrono_literals;

constexpr std::uint64_t kBlock = 64 * kMiB;
constexpr std::uint32_t kFullPiece = wire::kMaxRecordPayload;
const std::uint64_t kFullUnit = round_up(wire::record_bytes(kFullPiece), kPageBytes);

/// Drives a core and sorts what it wants done.
class WriterCoreTest : public ::testing::Test {
 protected:
  explicit WriterCoreTest(WriterCoreOptions options = WriterCoreOptions())
      : options_(options), core_(options) {}

  SegmentGrant grant(std::uint64_t segment, std::vector<std::uint32_t> nodes, std::uint64_t offset = 0,
                     std::uint64_t block_bytes = kBlock) {
    SegmentGrant made{SegmentId(segment), Generation(1), offset, block_bytes, {}, 2};
    for (const auto node : nodes) made.nodes.emplace_back(node);
    return made;
  }
  void queue(std::uint64_t piece, std::uint32_t bytes = kFullPiece) {
    core_.queue(PieceId(piece), bytes, now_);
  }
  /// An answer to the latest request.
  void arrive(std::vector<SegmentGrant> grants) { arrive(asked_, std::move(grants)); }
  void arrive(GrantUse use, std::vector<SegmentGrant> grants) {
    core_.grants_arrived(use, std::move(grants), now_);
  }
  void refuse(Error error) { core_.grants_failed(asked_, std::move(error), now_); }
  void ack(std::uint64_t segment, std::size_t copy, std::uint64_t end) {
    core_.copy_acked(SegmentId(segment), Generation(1), copy, end, now_);
  }
  void ack_all(std::uint64_t segment, std::uint64_t end) {
    ack(segment, 0, end);
    ack(segment, 1, end);
  }
  void fail(std::uint64_t segment, std::size_t copy, Errc code = Errc::unavailable) {
    core_.copy_failed(SegmentId(segment), Generation(1), copy, Error(code), now_);
  }
  void advance() {
    requests_.clear();
    sent_.clear();
    placed_.clear();
    failed_.clear();
    returned_.clear();
    for (auto& action : core_.advance(now_)) {
      std::visit([this](auto& a) { keep(a); }, action);
    }
  }
  void advance_to(TimePoint at) {
    now_ = at;
    advance();
  }
  /// One current segment 1 on nodes 1 and 2, one spare 2 on nodes 3 and 4, and `count` full pieces sent.
  void start_with(std::uint64_t count) {
    for (std::uint64_t piece = 1; piece <= count; ++piece) queue(piece);
    advance();
    arrive({grant(1, {1, 2}), grant(2, {3, 4})});
    advance();
    ASSERT_EQ(sent_.size(), count);
  }
  std::vector<std::uint64_t> placed_ids() const {
    std::vector<std::uint64_t> ids;
    for (const auto& placed : placed_) ids.push_back(placed.piece.value);
    return ids;
  }
  std::vector<std::uint64_t> sent_ids() const {
    std::vector<std::uint64_t> ids;
    for (const auto& unit : sent_) {
      for (const auto& piece : unit.pieces) ids.push_back(piece.piece.value);
    }
    return ids;
  }

  void keep(RequestGrants& a) {
    requests_.push_back(a);
    asked_ = a.use;
  }
  void keep(SendUnit& a) { sent_.push_back(a); }
  void keep(PiecePlaced& a) { placed_.push_back(a); }
  void keep(PieceFailed& a) { failed_.push_back(a); }
  void keep(ReturnGrant& a) { returned_.push_back(a); }

  const WriterCoreOptions options_;
  WriterCore core_;
  TimePoint now_{1h};
  GrantUse asked_ = GrantUse::now;
  std::vector<RequestGrants> requests_;
  std::vector<SendUnit> sent_;
  std::vector<PiecePlaced> placed_;
  std::vector<PieceFailed> failed_;
  std::vector<ReturnGrant> returned_;
};

class WriterCoreWithTwoSpares : public WriterCoreTest {
 protected:
  static WriterCoreOptions two_spares() {
    WriterCoreOptions options;
    options.spares = 2;
    return options;
  }
  WriterCoreWithTwoSpares() : WriterCoreTest(two_spares()) {}
};

using Ids = std::vector<std::uint64_t>;

TEST_F(WriterCoreTest, AsksForNothingBeforeThereIsAPiece) {
  advance();
  EXPECT_TRUE(requests_.empty());
  EXPECT_FALSE(core_.next_deadline());
}

TEST_F(WriterCoreTest, AsksForTheCurrentGrantAndSparesAtOnce) {
  queue(1);
  advance();
  ASSERT_EQ(requests_.size(), 1u);
  EXPECT_EQ(requests_[0].count, 2u);
  EXPECT_TRUE(requests_[0].avoid.empty());
  advance();
  EXPECT_TRUE(requests_.empty()) << "one request at a time";
}

TEST_F(WriterCoreTest, APieceIsPlacedWhenEveryCopyHasItAndAllBeforeIt) {
  start_with(2);
  ack(1, 0, 2 * kFullUnit);
  advance();
  EXPECT_TRUE(placed_.empty());
  ack(1, 1, kFullUnit);
  advance();
  EXPECT_EQ(placed_ids(), Ids{1});
  EXPECT_EQ(placed_[0].segment, SegmentId(1));
  EXPECT_EQ(placed_[0].record_offset, 0u);
  ack(1, 1, 2 * kFullUnit);
  advance();
  EXPECT_EQ(placed_ids(), Ids{2});
  EXPECT_EQ(placed_[0].record_offset, kFullUnit);
}

TEST_F(WriterCoreTest, PacksSmallPiecesThatWaitTogetherIntoOneUnit) {
  queue(1, 1000);
  queue(2, 5000);
  queue(3, 1);
  advance();
  arrive({grant(1, {1, 2}, 8 * kPageBytes), grant(2, {3, 4})});
  advance();
  ASSERT_EQ(sent_.size(), 1u);
  const auto base = 8 * kPageBytes;
  EXPECT_EQ(sent_[0].offset, base);
  ASSERT_EQ(sent_[0].pieces.size(), 3u);
  EXPECT_EQ(sent_[0].pieces[0].record_offset, base);
  EXPECT_EQ(sent_[0].pieces[1].record_offset, base + wire::record_bytes(1000));
  EXPECT_EQ(sent_[0].pieces[2].record_offset, base + wire::record_bytes(1000) + wire::record_bytes(5000));
  EXPECT_EQ(sent_[0].bytes, 2 * kPageBytes);
  ack_all(1, base + 2 * kPageBytes);
  advance();
  EXPECT_EQ(placed_ids(), (Ids{1, 2, 3}));
}

TEST_F(WriterCoreTest, FullPiecesGoInUnitsOfTheirOwn) {
  start_with(3);
  EXPECT_EQ(sent_[0].bytes, kFullUnit);
  EXPECT_EQ(sent_[2].offset, 2 * kFullUnit);
}

TEST_F(WriterCoreTest, SmallPiecesGatherWhileUnitsAreUnderWay) {
  start_with(4);
  queue(5, 100);
  queue(6, 100);
  advance();
  EXPECT_TRUE(sent_.empty());
  ack_all(1, kFullUnit);
  advance();
  ASSERT_EQ(sent_.size(), 1u);
  EXPECT_EQ(sent_ids(), (Ids{5, 6}));
}

TEST_F(WriterCoreTest, StopsAtTheWindowAndGoesOnWithAcknowledgements) {
  for (std::uint64_t piece = 1; piece <= 20; ++piece) queue(piece);
  advance();
  arrive({grant(1, {1, 2}), grant(2, {3, 4})});
  advance();
  EXPECT_EQ(sent_.size(), 15u) << "sixteen with their headers do not fit 16 MiB";
  ack_all(1, 2 * kFullUnit);
  advance();
  EXPECT_EQ(sent_ids(), (Ids{16, 17}));
}

TEST_F(WriterCoreTest, RollsOverToTheSpareAndReturnsTheFullSegmentOnceAcknowledged) {
  for (std::uint64_t piece = 1; piece <= 4; ++piece) queue(piece);
  advance();
  arrive({grant(1, {1, 2}, 0, 3 * kMiB), grant(2, {3, 4})});
  advance();
  ASSERT_EQ(sent_.size(), 4u);
  EXPECT_EQ(sent_[1].segment, SegmentId(1));
  EXPECT_EQ(sent_[2].segment, SegmentId(2));
  EXPECT_EQ(sent_[2].offset, 0u);
  EXPECT_TRUE(returned_.empty()) << "two units are under way";
  ASSERT_EQ(requests_.size(), 1u) << "a spare was taken";
  EXPECT_EQ(requests_[0].count, 1u);
  ack_all(1, 2 * kFullUnit);
  advance();
  ASSERT_EQ(returned_.size(), 1u);
  EXPECT_EQ(returned_[0].segment, SegmentId(1));
  EXPECT_EQ(returned_[0].length, 2 * kFullUnit);
  EXPECT_FALSE(returned_[0].failure);
  EXPECT_EQ(placed_ids(), (Ids{1, 2}));
}

TEST_F(WriterCoreTest, FillsTheRestOfABlockWithThoseThatFit) {
  queue(1, 3000);
  queue(2, 3000);
  advance();
  arrive({grant(1, {1, 2}, kBlock - kPageBytes), grant(2, {3, 4})});
  advance();
  ASSERT_EQ(sent_.size(), 2u);
  EXPECT_EQ(sent_[0].segment, SegmentId(1));
  EXPECT_EQ(sent_[0].bytes, kPageBytes);
  EXPECT_EQ(sent_[1].segment, SegmentId(2));
}

TEST_F(WriterCoreWithTwoSpares, AFailedCopyMovesUnplacedPiecesInOrderToTheSpareThatAvoidsTheNode) {
  for (std::uint64_t piece = 1; piece <= 3; ++piece) queue(piece);
  advance();
  arrive({grant(1, {1, 2}), grant(2, {2, 3}), grant(3, {3, 4})});
  advance();
  ack_all(1, kFullUnit);
  ack(1, 0, 3 * kFullUnit);
  queue(4);
  fail(1, 1);
  advance();
  EXPECT_EQ(placed_ids(), Ids{1});
  ASSERT_GE(returned_.size(), 1u);
  EXPECT_EQ(returned_[0].segment, SegmentId(1));
  EXPECT_EQ(returned_[0].length, kFullUnit) << "acknowledged by all";
  ASSERT_TRUE(returned_[0].failure);
  EXPECT_EQ(returned_[0].failure->node, NodeId(2));
  EXPECT_EQ(sent_ids(), (Ids{2, 3, 4}));
  EXPECT_EQ(sent_[0].segment, SegmentId(3));
  ack_all(1, 3 * kFullUnit);  // late news of a segment given up
  advance();
  EXPECT_TRUE(placed_.empty());
}

TEST_F(WriterCoreTest, WaitsForAFreshGrantRatherThanUseASuspectNode) {
  queue(1);
  advance();
  arrive({grant(1, {1, 2}), grant(2, {2, 3})});
  advance();
  arrive({});  // nothing that avoids 2 as well
  fail(1, 1);
  advance();
  EXPECT_TRUE(sent_.empty());
  ASSERT_EQ(requests_.size(), 1u);
  EXPECT_EQ(requests_[0].use, GrantUse::now);
  EXPECT_EQ(requests_[0].count, 2u);
  EXPECT_EQ(requests_[0].avoid, std::vector<NodeId>{NodeId(2)});
  arrive({grant(3, {1, 3}), grant(4, {3, 4})});
  advance();
  ASSERT_EQ(sent_.size(), 1u);
  EXPECT_EQ(sent_[0].segment, SegmentId(3));
  ASSERT_EQ(returned_.size(), 1u) << "one spare is enough; that of the suspect node goes";
  EXPECT_EQ(returned_[0].segment, SegmentId(2));
  EXPECT_EQ(returned_[0].length, 0u);
}

TEST_F(WriterCoreTest, UsesASuspectNodeWhenTheIndexHasNothingElse) {
  queue(1);
  advance();
  arrive({grant(1, {1, 2}), grant(2, {1, 2})});
  advance();
  fail(1, 1);
  advance();
  ASSERT_EQ(requests_.size(), 1u);
  refuse(Error(Errc::unavailable));
  advance();
  ASSERT_EQ(sent_.size(), 1u);
  EXPECT_EQ(sent_[0].segment, SegmentId(2));
}

TEST_F(WriterCoreTest, UsesASuspectNodeWhenTheIndexDoesNotAnswer) {
  queue(1);
  advance();
  arrive({grant(1, {1, 2}), grant(2, {1, 2})});
  advance();
  fail(1, 1);
  advance();
  EXPECT_TRUE(sent_.empty());
  ASSERT_EQ(core_.next_deadline(), now_ + options_.append_timeout);
  advance_to(now_ + options_.append_timeout);
  ASSERT_EQ(sent_.size(), 1u);
  EXPECT_EQ(sent_[0].segment, SegmentId(2));
}

TEST_F(WriterCoreTest, WhatIsNeededNowWaitsForNoRequestOfSpares) {
  queue(1);
  advance();
  arrive({grant(1, {1, 2})});  // of two wanted
  ack_all(1, 0);
  advance();
  ack_all(1, kFullUnit);
  advance_to(now_ + options_.retry_most);
  ASSERT_EQ(requests_.size(), 1u);
  EXPECT_EQ(requests_[0].use, GrantUse::ahead);
  queue(2);
  advance();
  fail(1, 1);
  advance();
  ASSERT_EQ(requests_.size(), 1u);
  EXPECT_EQ(requests_[0].use, GrantUse::now);
  EXPECT_EQ(requests_[0].count, 1u) << "spares are on their way";
  EXPECT_EQ(requests_[0].avoid, std::vector<NodeId>{NodeId(2)});
  arrive(GrantUse::ahead, {grant(2, {1, 2})});  // asked for before the suspicion
  advance();
  EXPECT_TRUE(sent_.empty());
  arrive(GrantUse::now, {grant(3, {1, 3})});
  advance();
  ASSERT_EQ(sent_.size(), 1u);
  EXPECT_EQ(sent_[0].segment, SegmentId(3));
}

TEST_F(WriterCoreTest, AStaleGenerationIsNotTheNodesFault) {
  start_with(1);
  fail(1, 0, Errc::stale_generation);
  advance();
  ASSERT_EQ(requests_.size(), 1u);
  EXPECT_TRUE(requests_[0].avoid.empty());
  EXPECT_EQ(sent_ids(), Ids{1});
}

TEST_F(WriterCoreTest, ACopyThatOwesRepliesAndShowsNoProgressHasFailed) {
  start_with(2);
  now_ += options_.switch_timeout - 1ms;
  ack_all(1, kFullUnit);
  advance();
  ASSERT_EQ(core_.next_deadline(), now_ + options_.switch_timeout) << "it made progress";
  advance_to(now_ + options_.switch_timeout - 1ns);
  EXPECT_TRUE(returned_.empty());
  advance_to(now_ + 1ns);
  ASSERT_EQ(returned_.size(), 1u);
  ASSERT_TRUE(returned_[0].failure);
  EXPECT_EQ(returned_[0].failure->error.code(), Errc::timed_out);
  EXPECT_EQ(sent_ids(), Ids{2});
}

TEST_F(WriterCoreTest, AnIdleCopyOwesNothing) {
  start_with(1);
  ack_all(1, kFullUnit);
  advance_to(now_ + 10 * options_.append_timeout);
  queue(2);
  advance();
  EXPECT_EQ(sent_ids(), Ids{2});
  advance_to(now_ + options_.append_timeout - 1ns);
  EXPECT_TRUE(returned_.empty());
}

TEST_F(WriterCoreTest, ItsOwnLongSleepIsNotHeldAgainstACopy) {
  start_with(1);
  advance_to(now_ + 3 * options_.append_timeout);
  EXPECT_TRUE(returned_.empty());
  advance_to(now_ + options_.switch_timeout);
  EXPECT_EQ(returned_.size(), 1u);
}

TEST_F(WriterCoreTest, WithoutASpareThatAvoidsItASlowCopyGetsMoreTime) {
  queue(1);
  advance();
  arrive({grant(1, {1, 2}), grant(2, {2, 1})});
  advance();
  arrive({});  // nothing that covers
  ack(1, 0, kFullUnit);
  advance_to(now_ + options_.switch_timeout);
  EXPECT_TRUE(returned_.empty());
  ASSERT_EQ(requests_.size(), 1u) << "for one that avoids it";
  EXPECT_EQ(requests_[0].use, GrantUse::ahead);
  EXPECT_EQ(requests_[0].avoid, std::vector<NodeId>{NodeId(2)});
  arrive({});
  ASSERT_EQ(core_.next_deadline(), now_ + options_.append_timeout - options_.switch_timeout);
  advance_to(now_ + options_.append_timeout - options_.switch_timeout);
  ASSERT_EQ(returned_.size(), 1u);
  EXPECT_EQ(returned_[0].failure->node, NodeId(2));
  ASSERT_EQ(requests_.size(), 1u);
  EXPECT_EQ(requests_[0].use, GrantUse::now);
  EXPECT_EQ(requests_[0].avoid, std::vector<NodeId>{NodeId(2)});
}

TEST_F(WriterCoreTest, WhereAllCopiesAreSlowNoneIsToBlame) {
  queue(1);
  advance();
  arrive({grant(1, {1, 2}), grant(2, {2, 1})});
  advance();
  advance_to(now_ + options_.switch_timeout);
  advance_to(now_ + options_.append_timeout - options_.switch_timeout);
  EXPECT_TRUE(returned_.empty());
  advance_to(now_ + options_.silence_timeout - options_.append_timeout);
  EXPECT_EQ(returned_.size(), 1u);
}

TEST_F(WriterCoreTest, ASpareThatCameInTimeIsSwitchedTo) {
  queue(1);
  advance();
  arrive({grant(1, {1, 2}), grant(2, {2, 1})});
  advance();
  arrive({});
  ack(1, 0, kFullUnit);
  advance_to(now_ + options_.switch_timeout);
  ASSERT_EQ(requests_.size(), 1u);
  arrive({grant(3, {1, 3})});
  advance_to(now_ + 10ms);
  ASSERT_EQ(returned_.size(), 1u);
  ASSERT_EQ(sent_.size(), 1u);
  EXPECT_EQ(sent_[0].segment, SegmentId(3));
}

TEST_F(WriterCoreTest, HoldsSparesSoThatAnyOneNodeCanBeAvoided) {
  start_with(1);
  EXPECT_TRUE(requests_.empty()) << "one spare on other nodes is enough";
  ack_all(1, kFullUnit);
  fail(1, 0);
  queue(2);
  advance();  // goes on in 2
  arrive({grant(5, {3, 2})});
  advance();
  ASSERT_EQ(requests_.size(), 1u);
  EXPECT_EQ(requests_[0].use, GrantUse::cover);
  EXPECT_EQ(requests_[0].count, 1u);
  EXPECT_EQ(requests_[0].avoid, (std::vector<NodeId>{NodeId(1), NodeId(3)})) << "1 has failed, 3 is in both";
  arrive({grant(6, {4, 2})});
  advance();
  EXPECT_TRUE(requests_.empty());
  EXPECT_TRUE(returned_.empty());
  fail(2, 0);
  advance();
  ASSERT_EQ(sent_.size(), 0u) << "a second failure in a row";
  advance_to(now_ + options_.retry_least);
  ASSERT_EQ(sent_.size(), 1u);
  EXPECT_EQ(sent_[0].segment, SegmentId(6));
}

TEST_F(WriterCoreTest, ASpareThatNoNodeCanHaveIsAskedForNowAndThen) {
  queue(1);
  advance();
  arrive({grant(1, {1, 2}), grant(2, {2, 1})});
  advance();
  ack_all(1, kFullUnit);
  ASSERT_EQ(requests_.size(), 1u);
  EXPECT_EQ(requests_[0].use, GrantUse::cover);
  arrive({});
  advance();
  EXPECT_TRUE(requests_.empty());
  ASSERT_EQ(core_.next_deadline(), now_ + options_.cover_interval);
  advance_to(now_ + options_.cover_interval);
  EXPECT_EQ(requests_.size(), 1u);
}

TEST_F(WriterCoreTest, ASegmentThatLacksCopiesIsLeftForAWholeOne) {
  queue(1);
  advance();
  arrive({grant(1, {1})});
  advance();
  ASSERT_EQ(sent_.size(), 1u);
  advance_to(now_ + options_.retry_most);
  ASSERT_EQ(requests_.size(), 1u);
  EXPECT_EQ(requests_[0].use, GrantUse::ahead);
  arrive({grant(2, {1, 2})});
  advance();
  EXPECT_TRUE(returned_.empty()) << "it owes an acknowledgement";
  ack(1, 0, kFullUnit);
  queue(2);
  advance();
  EXPECT_EQ(placed_ids(), Ids{1});
  ASSERT_EQ(returned_.size(), 1u);
  EXPECT_EQ(returned_[0].segment, SegmentId(1));
  EXPECT_FALSE(returned_[0].failure);
  ASSERT_EQ(sent_.size(), 1u);
  EXPECT_EQ(sent_[0].segment, SegmentId(2));
}

TEST_F(WriterCoreTest, ASpareFromBeforeAFailureIsNoReasonToLeaveALesserSegment) {
  queue(1);
  advance();
  arrive({grant(1, {1, 2}), grant(2, {1, 2})});
  advance();
  fail(1, 1);
  advance();
  ASSERT_EQ(requests_.back().use, GrantUse::now);
  arrive({grant(3, {1})});
  advance();
  ASSERT_EQ(sent_.size(), 1u);
  EXPECT_EQ(sent_[0].segment, SegmentId(3));
  ack(3, 0, kFullUnit);
  advance_to(now_ + 2 * options_.suspicion);
  queue(2);
  advance();
  ASSERT_EQ(sent_.size(), 1u);
  EXPECT_EQ(sent_[0].segment, SegmentId(3));
}

TEST_F(WriterCoreTest, ANodeThatFailsAgainIsAvoidedForLonger) {
  start_with(1);
  fail(1, 0);
  advance();
  advance_to(now_ + options_.suspicion);
  arrive({grant(3, {1, 2}), grant(4, {5, 6})});
  ack_all(2, kFullUnit);
  fail(2, 0);
  queue(2);
  advance();
  ASSERT_EQ(sent_.size(), 1u);
  ASSERT_EQ(sent_[0].segment, SegmentId(3));
  fail(3, 0);
  advance();
  advance_to(now_ + options_.suspicion + 1ms);
  fail(4, 0);
  advance();
  ASSERT_EQ(requests_.size(), 1u);
  EXPECT_EQ(requests_[0].avoid, (std::vector<NodeId>{NodeId(1), NodeId(5)}));
}

TEST_F(WriterCoreTest, FailuresOneAfterAnotherAreTriedMoreAndMoreSlowly) {
  start_with(1);
  fail(1, 0);
  advance();
  ASSERT_EQ(sent_.size(), 1u) << "the first time at once";
  arrive({grant(3, {5, 6}), grant(4, {7, 8})});
  fail(2, 0);
  advance();
  EXPECT_TRUE(sent_.empty());
  ASSERT_EQ(core_.next_deadline(), now_ + options_.retry_least);
  advance_to(now_ + options_.retry_least);
  ASSERT_EQ(sent_.size(), 1u);
  EXPECT_EQ(sent_[0].segment, SegmentId(3));
  ack_all(3, kFullUnit);
  queue(2);
  advance();
  fail(3, 0);
  advance();
  EXPECT_EQ(sent_ids(), Ids{2}) << "a success makes up for earlier failures";
}

TEST_F(WriterCoreTest, APieceFailsWithTheReasonAtItsDeadline) {
  queue(1);
  advance();
  const auto queued_at = now_;
  for (auto rounds = 0; failed_.empty() && rounds < 1000; ++rounds) {
    if (!requests_.empty()) refuse(Error(Errc::unavailable, "no nodes"));
    advance_to(core_.next_deadline().value_or(now_));
  }
  ASSERT_EQ(failed_.size(), 1u);
  EXPECT_EQ(now_, queued_at + options_.piece_timeout);
  EXPECT_EQ(failed_[0].error.code(), Errc::unavailable);
  EXPECT_EQ(failed_[0].error.message(), "no nodes");
}

TEST_F(WriterCoreTest, AFullClusterIsReportedAfterLittlePatience) {
  queue(1);
  advance();
  const auto queued_at = now_;
  for (auto rounds = 0; failed_.empty() && rounds < 1000; ++rounds) {
    if (!requests_.empty()) refuse(Error(Errc::no_space));
    advance_to(core_.next_deadline().value_or(now_));
  }
  ASSERT_EQ(failed_.size(), 1u);
  EXPECT_EQ(failed_[0].error.code(), Errc::no_space);
  EXPECT_LE(now_, queued_at + options_.full_patience + options_.retry_most);
}

TEST_F(WriterCoreTest, AChannelThatIsGoneFailsItsPiecesAtOnce) {
  queue(1);
  queue(2);
  advance();
  refuse(Error(Errc::not_found));
  advance();
  EXPECT_EQ(failed_.size(), 2u);
}

TEST_F(WriterCoreTest, NoSpaceForSparesDoesNotDisturbTheCurrentSegment) {
  queue(1);
  advance();
  arrive({grant(1, {1, 2})});
  advance();
  advance_to(now_ + options_.retry_most);
  ASSERT_EQ(requests_.size(), 1u);
  refuse(Error(Errc::no_space));
  ack_all(1, kFullUnit);
  queue(2);
  advance();
  EXPECT_TRUE(failed_.empty());
  EXPECT_EQ(sent_ids(), Ids{2});
}

TEST_F(WriterCoreTest, AnAbandonedPieceIsForgottenWhereverItIs) {
  start_with(1);
  core_.abandon(PieceId(1));
  ack_all(1, kFullUnit);
  advance();
  EXPECT_TRUE(placed_.empty());
  fail(1, 0);
  advance();
  now_ += options_.retry_most;
  queue(2);
  core_.abandon(PieceId(2));
  advance();
  EXPECT_TRUE(sent_.empty());
}

TEST_F(WriterCoreTest, GivesIdleGrantsBack) {
  start_with(1);
  ack_all(1, kFullUnit);
  advance();
  ASSERT_EQ(core_.next_deadline(), now_ + options_.idle_timeout);
  advance_to(now_ + options_.idle_timeout);
  ASSERT_EQ(returned_.size(), 2u);
  EXPECT_EQ(returned_[0].segment, SegmentId(1));
  EXPECT_EQ(returned_[0].length, kFullUnit);
  EXPECT_EQ(returned_[1].segment, SegmentId(2));
  EXPECT_TRUE(requests_.empty());
  EXPECT_FALSE(core_.next_deadline());
}

TEST_F(WriterCoreTest, ClosingPlacesWhatWaitsAndReturnsEverything) {
  start_with(1);
  queue(2);
  core_.close();
  advance();
  EXPECT_EQ(sent_ids(), Ids{2});
  EXPECT_FALSE(core_.finished());
  ASSERT_EQ(returned_.size(), 1u);
  EXPECT_EQ(returned_[0].segment, SegmentId(2)) << "the spare";
  ack_all(1, 2 * kFullUnit);
  advance();
  EXPECT_EQ(placed_ids(), (Ids{1, 2}));
  ASSERT_EQ(returned_.size(), 1u);
  EXPECT_EQ(returned_[0].length, 2 * kFullUnit);
  EXPECT_TRUE(core_.finished());
}

TEST_F(WriterCoreTest, GrantsThatArriveAfterClosingAreReturned) {
  queue(1);
  advance();
  core_.abandon(PieceId(1));
  core_.close();
  advance();
  EXPECT_TRUE(core_.finished());
  arrive({grant(1, {1, 2}, kPageBytes)});
  EXPECT_FALSE(core_.finished());
  advance();
  ASSERT_EQ(returned_.size(), 1u);
  EXPECT_EQ(returned_[0].length, kPageBytes);
  EXPECT_TRUE(core_.finished());
}

TEST_F(WriterCoreTest, ACopyThatAcknowledgesMoreThanWasSentHasFailed) {
  start_with(1);
  ack(1, 0, 2 * kFullUnit);
  advance();
  ASSERT_EQ(returned_.size(), 1u);
  ASSERT_TRUE(returned_[0].failure);
  EXPECT_EQ(returned_[0].failure->error.code(), Errc::protocol);
  EXPECT_EQ(returned_[0].length, 0u);
}

TEST_F(WriterCoreTest, AGrantTooSmallForThePieceIsReturnedWithoutHurryForAnother) {
  queue(1);
  advance();
  arrive({grant(1, {1, 2}, kBlock - kPageBytes), grant(2, {1, 2}, kBlock - kPageBytes)});
  advance();
  EXPECT_EQ(returned_.size(), 2u);
  EXPECT_TRUE(sent_.empty());
  arrive({grant(3, {1, 2}, kBlock - kPageBytes)});
  advance();
  EXPECT_TRUE(returned_.empty());
  EXPECT_GT(core_.next_deadline(), now_);
}

}  // namespace
}  // namespace reelfs::client
