#include "indexd/tree/uncommitted.h"

#include <gtest/gtest.h>

#include "tests/unit/indexd/tree/tree_test.h"

namespace reelfs::indexd::tree {
namespace {

constexpr SessionId kMount{7};
constexpr std::uint64_t kPiece = 4096;

class UncommittedTest : public TreeTest {
 protected:
  UncommittedTest() {
    txn_->put(SessionKey{kMount}, SessionRow{});
    make_segment(1, SegmentState::sealed, kMiB);
    make_segment(2, SegmentState::sealed, kMiB);
    file_ = make(cam1_, "recording.ts");
  }
  /// A record of the file, each in a place of its own of the segment.
  PlacedRecord record(std::uint64_t sequence, std::uint64_t offset, std::uint64_t in = 1) {
    PlacedRecord placed;
    placed.inode = file_;
    placed.file_offset = offset;
    placed.length = kPiece;
    placed.segment = SegmentId{in};
    placed.record_offset = static_cast<std::uint32_t>(sequence * 2 * kPiece);
    placed.sequence = sequence;
    placed.written_at_ns = static_cast<WallNs>(1'000'000 + sequence);
    return placed;
  }
  /// What the mount itself commits.
  void commit_own(const PlacedRecord& placed, std::uint64_t settled, bool more = false) {
    FileCommit file;
    file.inode = placed.inode;
    file.extents = {extent(placed.file_offset, placed.length, placed.segment.value, placed.record_offset)};
    file.mtime_ns = placed.written_at_ns - 1;
    const auto committed = run([&]() -> Result<Committed> {
      REELFS_TRY(auto done, commit(*txn_, {&file, 1}, {}, now_));
      const FileProgress progress{file_, placed.sequence, done.inodes.at(0).row.mtime_ns, more};
      REELFS_TRY(note_progress(*txn_, kMount, settled, {&progress, 1}));
      return done;
    });
    ASSERT_TRUE(committed) << committed.error().describe();
  }
  RolledForward roll(std::vector<PlacedRecord> records, const ChannelLimits& limits = {}) {
    auto done = run([&] { return roll_forward(*txn_, kMount, records, limits, now_); });
    EXPECT_TRUE(done) << done.error().describe();
    return done ? std::move(done).value() : RolledForward{};
  }
  /// The sequence of the record that each piece of the file shows; 0: a hole.
  std::vector<std::uint64_t> shown() {
    std::vector<std::uint64_t> pieces(row(file_).size / kPiece);
    for (const auto& each : extents_of(file_)) {
      for (auto at = each.file_offset; at < each.end(); at += kPiece)
        pieces.at(at / kPiece) = each.row.record_offset / (2 * kPiece);
    }
    return pieces;
  }
  using Pieces = std::vector<std::uint64_t>;

  InodeId file_;
};

TEST_F(UncommittedTest, WhatWasPlacedBehindTheLastCommitIsCommitted) {
  commit_own(record(1, 0), 0);
  const auto done = roll({record(1, 0), record(2, kPiece), record(3, 2 * kPiece, 2)});
  EXPECT_EQ(done.records, 2u);
  EXPECT_EQ(done.bytes, 2 * kPiece);
  EXPECT_EQ(done.left_out, 0u);
  EXPECT_EQ(shown(), (Pieces{1, 2, 3}));
  EXPECT_EQ(row(file_).mtime_ns, record(3, 0).written_at_ns);
}

TEST_F(UncommittedTest, OfAFileThatWasNeverCommittedAllIs) {
  EXPECT_EQ(roll({record(4, 0), record(5, kPiece)}).records, 2u);
  EXPECT_EQ(shown(), (Pieces{4, 5}));
}

TEST_F(UncommittedTest, LaterWritesShadowEarlierOnes) {
  commit_own(record(1, 0), 0);
  roll({record(2, 0), record(3, kPiece), record(4, 0, 2)});
  EXPECT_EQ(shown(), (Pieces{4, 3}));
}

TEST_F(UncommittedTest, WhatWasShadowedBeforeTheCommitStaysSo) {
  // Both were committed, in one commit: the earlier record has no extent, and must not come back.
  commit_own(record(2, 0), 0);
  EXPECT_EQ(roll({record(1, 0), record(2, 0)}).records, 0u);
  EXPECT_EQ(shown(), (Pieces{2}));
}

TEST_F(UncommittedTest, WhatWasCutOffAfterItsCommitStaysSo) {
  commit_own(record(1, 0), 0);
  SetAttributesParams cut;
  cut.inode = file_;
  cut.size = 0;
  const auto changed = set(cut);
  ASSERT_TRUE(changed);
  ASSERT_TRUE(run([&] { return note_changed(*txn_, kMount, changed.value().inode); }));
  EXPECT_EQ(roll({record(1, 0)}).records, 0u);
  EXPECT_EQ(row(file_).size, 0u);
  // What it wrote after that is new, whatever the clocks of the two machines say.
  auto later = record(2, 0);
  later.written_at_ns = row(file_).mtime_ns - 1;
  EXPECT_EQ(roll({record(1, 0), later}).records, 1u);
  EXPECT_EQ(shown(), (Pieces{2}));
}

TEST_F(UncommittedTest, ARecordThatWasSentBeforeTheLastWriteOfAnEarlierOneIsCommitted) {
  // Two places of the file are written in turn: the second piece was full, and sent, while the first still
  // grew.
  commit_own(record(1, 0), 1, true);
  auto early = record(2, kPiece);
  early.written_at_ns = row(file_).mtime_ns - 1;
  EXPECT_EQ(roll({record(1, 0), early}).records, 1u);
  EXPECT_EQ(shown(), (Pieces{1, 2}));
}

TEST_F(UncommittedTest, ARecordThatStandsInTwoSegmentsIsCommittedOnce) {
  auto again = record(2, 0, 2);
  const auto done = roll({record(1, 0), record(2, 0), again, record(3, 0)});
  EXPECT_EQ(done.records, 3u);
  EXPECT_EQ(shown(), (Pieces{3}));
}

TEST_F(UncommittedTest, WhatOthersPutThereSinceStays) {
  commit_own(record(1, 0), 0);
  FileCommit others;
  others.inode = file_;
  others.extents = {extent(0, kPiece, 2, 100 * 2 * kPiece)};
  others.mtime_ns = record(50, 0).written_at_ns;
  ASSERT_TRUE(run([&] { return commit(*txn_, {&others, 1}, {}, now_); }));
  const auto done = roll({record(2, 0), record(3, kPiece)});
  EXPECT_EQ(done.records, 0u);
  EXPECT_EQ(done.left_out, 2u);
  EXPECT_EQ(shown(), (Pieces{100}));
}

TEST_F(UncommittedTest, FilesThatAreGoneAreLeftOut) {
  ASSERT_TRUE(remove(cam1_, "recording.ts"));
  make_orphan(*txn_, file_, now_);
  const auto done = roll({record(1, 0)});
  EXPECT_EQ(done.records, 0u);
  EXPECT_EQ(done.left_out, 1u);
}

TEST_F(UncommittedTest, WhatAChannelMayNotHoldIsLeftOut) {
  const auto done = roll({record(1, 0), record(2, kPiece)}, {{cam1_, kPiece}});
  EXPECT_EQ(done.records, 0u);
  EXPECT_EQ(done.left_out, 2u);
  EXPECT_EQ(row(file_).size, 0u);
}

TEST_F(UncommittedTest, RepeatingItChangesNothing) {
  const std::vector<PlacedRecord> records{record(1, 0), record(2, kPiece)};
  roll(records);
  const auto again = roll(records);
  EXPECT_EQ(again.records + again.left_out, 0u);
  EXPECT_EQ(shown(), (Pieces{1, 2}));
}

TEST_F(UncommittedTest, InPartsItEndsAsInOne) {
  commit_own(record(1, 0), 0);
  roll({record(2, 0), record(3, kPiece)});
  roll({record(4, 0), record(5, 2 * kPiece)});
  EXPECT_EQ(shown(), (Pieces{4, 3, 5}));
}

TEST_F(UncommittedTest, WhatIsSettledIsNotCommittedAgain) {
  commit_own(record(5, 0), 5);
  EXPECT_EQ(roll({record(3, kPiece), record(5, 0), record(6, 2 * kPiece)}).records, 1u);
  EXPECT_EQ(shown(), (Pieces{5, 0, 6}));
}

TEST_F(UncommittedTest, GrantsAreKnownUntilAllThatIsInThemIsSettled) {
  const Grant grant{kMount, SegmentId{1}, Generation{1}, 5};
  ASSERT_TRUE(run([&] { return note_grant(*txn_, grant); }).value());
  commit_own(record(4, 0), 4);
  EXPECT_FALSE(run([&] { return note_grant_closed(*txn_, grant); }).value());
  ASSERT_EQ(grants_of(*txn_, kMount).value().size(), 1u);
  EXPECT_EQ(grants_of(*txn_, kMount).value().at(0).last_sequence, 5u);
  commit_own(record(5, kPiece), 5);
  EXPECT_TRUE(run([&] { return note_grant_closed(*txn_, grant); }).value());
  EXPECT_TRUE(all_grants(*txn_).value().empty());
}

TEST_F(UncommittedTest, OnlyMountsAreGrantedWhatIsToBeRolledForward) {
  EXPECT_FALSE(run([&] {
                 return note_grant(*txn_, {SessionId{8}, SegmentId{1}, Generation{1}, 0});
               }).value());
  EXPECT_TRUE(all_grants(*txn_).value().empty());
}

TEST_F(UncommittedTest, ProgressIsKeptForWhatIsBeingWrittenAlone) {
  const auto rows = [&] {
    std::size_t count = 0;
    EXPECT_TRUE(txn_->scan_table<ProgressKey>([&](const ProgressKey& key, const ProgressRow&) {
      count += key.inode ? 1 : 0;
      return true;
    }));
    return count;
  };
  commit_own(record(1, 0), 0);
  EXPECT_EQ(rows(), 1u);
  commit_own(record(2, kPiece), 2);
  EXPECT_EQ(rows(), 0u);
  ASSERT_TRUE(run([&] { return forget_progress(*txn_, kMount, 100); }).value());
  EXPECT_FALSE(txn_->has(ProgressKey{kMount, InodeId{}}).value());
}

}  // namespace
}  // namespace reelfs::indexd::tree
