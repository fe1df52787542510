#include "indexd/tree/extents.h"

#include "tests/unit/indexd/tree/tree_test.h"

namespace reelfs::indexd::tree {
namespace {

class ExtentsTest : public TreeTest {
 protected:
  ExtentsTest() : file_(make(cam1_, "f")) {
    make_segment(1);
    make_segment(2);
  }
  std::uint64_t of_file(std::uint64_t in, InodeId inode) {
    const auto found = txn_->find(SegmentFileKey{SegmentId{in}, inode}).value();
    return found ? found->live_bytes : 0;
  }
  Result<Cloned> clone(const CloneParams& params) {
    return run([&] { return clone_range(*txn_, params, now_); });
  }
  InodeId file_;
};

TEST_F(ExtentsTest, CommitGrowsTheFileAndCountsItsBytes) {
  FileCommit commit_of_two;
  commit_of_two.inode = file_;
  commit_of_two.extents = {extent(0, 1000, 1, 0), extent(1000, 500, 2, 64)};
  const auto written = row(file_).ctime_ns + 77;
  commit_of_two.mtime_ns = written;
  const auto done = run([&] { return commit(*txn_, {&commit_of_two, 1}, {}, now_); }).value();
  const auto after = done.inodes.at(0).row;
  EXPECT_EQ(after.size, 1500U);
  EXPECT_EQ(after.stored_bytes, 1500U);
  EXPECT_EQ(after.mtime_ns, written);
  EXPECT_EQ(after.ctime_ns, written) << "when it was written, not when that was committed";
  EXPECT_EQ(row(file_), after);
  EXPECT_EQ(segment(1).live_bytes, 1000U);
  EXPECT_EQ(segment(2).live_bytes, 500U);
  EXPECT_EQ(segment(1).length, 128U + 1000U) << "as far as committed";
  EXPECT_EQ(of_file(1, file_), 1000U);
  EXPECT_EQ(channel(cam1_).live_bytes, 1500U);
  EXPECT_EQ(put(file_, {}, 9000).value().inodes.at(0).row.size, 9000U);
  EXPECT_EQ(put(file_, {}, 10).value().inodes.at(0).row.size, 9000U) << "only grows";
  EXPECT_EQ(row(file_).mtime_ns, now_);
}

TEST_F(ExtentsTest, CommitOfWhatWasWrittenBeforeAnotherChangeLeavesItsTime) {
  const auto changed = row(file_).ctime_ns;
  FileCommit late;
  late.inode = file_;
  late.size = 10;
  late.mtime_ns = changed - 1;
  ASSERT_TRUE(run([&] { return commit(*txn_, {&late, 1}, {}, now_); }));
  EXPECT_EQ(row(file_).mtime_ns, changed - 1);
  EXPECT_EQ(row(file_).ctime_ns, changed);
}

TEST_F(ExtentsTest, ALaterExtentShadowsAndSplitsEarlierOnes) {
  ASSERT_TRUE(put(file_, {extent(0, 1000, 1, 0, 50)}));
  ASSERT_TRUE(put(file_, {extent(300, 200, 2, 0)}));
  EXPECT_EQ(extents_of(file_), (std::vector<Extent>{extent(0, 300, 1, 0, 50), extent(300, 200, 2, 0),
                                                    extent(500, 500, 1, 0, 550)}));
  EXPECT_EQ(of_file(1, file_), 800U);
  EXPECT_EQ(row(file_).stored_bytes, 1000U);
  // The same again, as a retry sends it, and in one commit one over the other.
  ASSERT_TRUE(put(file_, {extent(300, 200, 2, 0), extent(250, 300, 1, 4096), extent(300, 200, 2, 0)}));
  EXPECT_EQ(extents_of(file_),
            (std::vector<Extent>{extent(0, 250, 1, 0, 50), extent(250, 50, 1, 4096), extent(300, 200, 2, 0),
                                 extent(500, 50, 1, 4096, 250), extent(550, 450, 1, 0, 600)}));
}

TEST_F(ExtentsTest, NothingLivesInASegmentWhoseExtentsAreShadowed) {
  ASSERT_TRUE(put(file_, {extent(0, 1000, 1)}));
  auto sealed = segment(1);
  sealed.state = SegmentState::sealed;
  txn_->put(SegmentKey{SegmentId{1}}, sealed);
  txn_->keep();
  EXPECT_TRUE(put(file_, {extent(0, 999, 2)}).value().emptied.empty());
  EXPECT_EQ(put(file_, {extent(999, 1, 2, 4096)}).value().emptied, std::vector<SegmentId>{SegmentId{1}});
  EXPECT_EQ(of_file(1, file_), 0U);
  EXPECT_FALSE(txn_->has(SegmentFileKey{SegmentId{1}, file_}).value());
}

TEST_F(ExtentsTest, ACloneSharesRecordsAndRemembersWhoseTheyAre) {
  ASSERT_TRUE(put(file_, {extent(1000, 500, 1, 0, 100), extent(2000, 500, 2, 64)}, 4000));
  const auto target = make(cam1_, "clone");
  const auto cloned =
      clone({.source = file_, .source_offset = 1100, .target = target, .target_offset = 7, .length = 5000});
  ASSERT_TRUE(cloned);
  EXPECT_EQ(cloned.value().length, 2900U) << "to the source's end";
  EXPECT_EQ(row(target).size, 2907U);
  EXPECT_EQ(row(target).mtime_ns, now_);
  auto first = extent(7, 400, 1, 0, 200);
  first.row.origin = file_;
  first.row.origin_offset = 900;
  auto second = extent(907, 500, 2, 64);
  second.row.origin = file_;
  second.row.origin_offset = 2000;
  EXPECT_EQ(extents_of(target), (std::vector<Extent>{first, second}));
  EXPECT_EQ(of_file(1, target), 400U);
  EXPECT_EQ(segment(1).live_bytes, 900U);
  // A clone of a clone names the first; back at its own place an extent is as it was.
  const auto third = make(cam1_, "third");
  ASSERT_TRUE(
      clone({.source = target, .source_offset = 7, .target = third, .target_offset = 0, .length = 10}));
  EXPECT_EQ(extents_of(third).at(0).row.origin, file_);
  EXPECT_EQ(extents_of(third).at(0).row.origin_offset, 900U);
  ASSERT_TRUE(
      clone({.source = target, .source_offset = 907, .target = file_, .target_offset = 2000, .length = 500}));
  EXPECT_EQ(extents_of(file_), (std::vector<Extent>{extent(1000, 500, 1, 0, 100), extent(2000, 500, 2, 64)}));
}

TEST_F(ExtentsTest, ACloneOutlivesItsSource) {
  ASSERT_TRUE(put(file_, {extent(0, 1000, 1)}));
  auto sealed = segment(1);
  sealed.state = SegmentState::sealed;
  txn_->put(SegmentKey{SegmentId{1}}, sealed);
  txn_->keep();
  const auto target = make(cam1_, "clone");
  ASSERT_TRUE(clone({.source = file_, .target = target, .length = 1000}));
  ASSERT_TRUE(remove(cam1_, "f"));
  auto reaped = run([&] { return reap_orphan(*txn_, file_, 100); }).value();
  EXPECT_TRUE(reaped.done && reaped.emptied.empty());
  EXPECT_EQ(segment(1).live_bytes, 1000U);
  ASSERT_TRUE(remove(cam1_, "clone"));
  reaped = run([&] { return reap_orphan(*txn_, target, 100); }).value();
  EXPECT_EQ(reaped.emptied, std::vector<SegmentId>{SegmentId{1}});
}

TEST_F(ExtentsTest, ACloneReplacesWhatWasThereAndItsHolesAreHoles) {
  ASSERT_TRUE(put(file_, {extent(100, 100, 1)}, 300));
  const auto target = make(cam1_, "clone");
  ASSERT_TRUE(put(target, {extent(0, 1000, 2)}));
  ASSERT_TRUE(clone({.source = file_, .target = target, .target_offset = 200, .length = 300}));
  auto shared = extent(300, 100, 1);
  shared.row.origin = file_;
  shared.row.origin_offset = 100;
  EXPECT_EQ(extents_of(target),
            (std::vector<Extent>{extent(0, 200, 2), shared, extent(500, 500, 2, 0, 500)}));
  EXPECT_EQ(row(target).size, 1000U);
}

TEST_F(ExtentsTest, CloningGoesOnInSteps) {
  for (std::uint64_t i = 0; i < 10; ++i) {
    ASSERT_TRUE(put(file_, {extent(i * 100, 100, 1, static_cast<std::uint32_t>(i) * 4096)}));
  }
  const auto target = make(cam1_, "clone");
  ASSERT_TRUE(put(target, {extent(0, 10, 2), extent(10, 10, 2, 4096), extent(20, 10, 2, 8192)}));
  CloneParams params{.source = file_, .target = target, .length = 1000, .max_extents = 2};
  std::vector<std::uint64_t> steps;
  while (params.source_offset < 1000) {
    steps.push_back(clone(params).value().length);
    params.source_offset += steps.back();
    params.target_offset += steps.back();
    params.length -= steps.back();
  }
  EXPECT_EQ(steps, (std::vector<std::uint64_t>{20, 180, 200, 200, 200, 200}));
  EXPECT_EQ(row(target).stored_bytes, 1000U);
}

TEST_F(ExtentsTest, CloningRefusesWhatCannotBe) {
  ASSERT_TRUE(put(file_, {extent(0, 1000, 1)}));
  EXPECT_EQ(code(clone({.source = file_, .target = make(cam2_, "other"), .length = 1})), Errc::cross_channel);
  EXPECT_EQ(code(clone({.source = file_, .target = file_, .target_offset = 999, .length = 1000})),
            Errc::invalid);
  EXPECT_TRUE(clone({.source = file_, .target = file_, .target_offset = 1000, .length = 1000}));
  EXPECT_EQ(code(clone({.source = file_, .target = cam1_, .length = 1})), Errc::is_directory);
  EXPECT_EQ(code(clone({.source = make(cam1_, "l", S_IFLNK | 0777), .target = file_, .length = 1})),
            Errc::invalid);
  EXPECT_EQ(code(clone({.source = file_, .target = file_, .target_offset = kMaxFileSize, .length = 1})),
            Errc::file_too_big);
  EXPECT_EQ(code(clone({.source = InodeId{999}, .target = file_, .length = 1})), Errc::stale_handle);
  EXPECT_EQ(
      clone({.source = file_, .source_offset = 5000, .target = make(cam1_, "e"), .length = 9}).value().length,
      0U);
}

TEST_F(ExtentsTest, CommitRefusesWhatCannotBe) {
  EXPECT_EQ(code(put(file_, {extent(0, 10, 99)})), Errc::invalid) << "no such segment";
  EXPECT_EQ(code(put(file_, {extent(0, 0, 1)})), Errc::invalid);
  EXPECT_EQ(code(put(file_, {extent(0, (1 << 20) + 1, 1)})), Errc::invalid) << "longer than a record";
  EXPECT_EQ(code(put(file_, {extent(0, 2, 1, 0, (1 << 20) - 1)})), Errc::invalid);
  EXPECT_EQ(code(put(file_, {extent(kMaxFileSize, 1, 1)})), Errc::file_too_big);
  EXPECT_EQ(code(put(file_, {}, kMaxFileSize + 1)), Errc::file_too_big);
  EXPECT_EQ(code(put(cam1_, {extent(0, 10, 1)})), Errc::invalid);
  EXPECT_EQ(code(put(file_, {extent(0, 10, 1, kGiB - 64)})), Errc::invalid) << "beyond the block";
  EXPECT_EQ(code(put(make(cam2_, "of another channel"), {extent(0, 10, 1)})), Errc::invalid);
  make_segment(3, SegmentState::sealed, 8192);
  EXPECT_EQ(code(put(file_, {extent(0, 10, 3, 8192)})), Errc::stale_generation);
  EXPECT_TRUE(put(file_, {extent(0, 10, 3, 4096)}));
  make_segment(4, SegmentState::freeing, 8192);
  EXPECT_EQ(code(put(file_, {extent(0, 10, 4)})), Errc::stale_generation);
  EXPECT_EQ(extents_of(file_).size(), 1U) << "a refused commit changes nothing";
}

TEST_F(ExtentsTest, CommitSkipsFilesThatAreGone) {
  const auto other = make(cam1_, "g");
  std::vector<FileCommit> files(3);
  files[0].inode = InodeId{999};
  files[0].extents = {extent(0, 10, 1)};
  files[1].inode = other;
  files[1].extents = {extent(0, 10, 1, 64)};
  files[2].inode = file_;
  files[2].size = 3;
  const auto done = run([&] { return commit(*txn_, files, {}, now_); }).value();
  ASSERT_EQ(done.inodes.size(), 3U);
  EXPECT_FALSE(done.inodes[0].id);
  EXPECT_EQ(done.inodes[1].id, other);
  EXPECT_EQ(done.inodes[2].row.size, 3U);
}

TEST_F(ExtentsTest, CommitRefusesAFileAlone) {
  const auto other = make(cam1_, "g");
  const auto version = row(file_).version;
  std::vector<FileCommit> files(2);
  files[0].inode = file_;
  files[0].extents = {extent(0, 10, 1), extent(kMaxFileSize, 1, 1, 64)};
  files[1].inode = other;
  files[1].extents = {extent(0, 10, 1, 128)};
  const auto done = run([&] { return commit(*txn_, files, {}, now_); }).value();
  ASSERT_EQ(done.refused.size(), 1U);
  EXPECT_EQ(done.refused[0].file, 0U);
  EXPECT_EQ(done.refused[0].error.code(), Errc::file_too_big);
  EXPECT_TRUE(extents_of(file_).empty());
  EXPECT_EQ(done.inodes[0].row, row(file_));
  EXPECT_GT(row(file_).version, version) << "caches of what was written are dropped";
  EXPECT_EQ(extents_of(other), files[1].extents);
}

TEST_F(ExtentsTest, PunchHoleRemovesTheRangeAndKeepsTheSize) {
  ASSERT_TRUE(put(file_, {extent(0, 1000, 1)}));
  const auto changed =
      run([&] { return punch_hole(*txn_, {.inode = file_, .offset = 100, .length = 200}, now_); });
  EXPECT_EQ(changed.value().inode.row.size, 1000U);
  EXPECT_EQ(changed.value().inode.row.stored_bytes, 800U);
  EXPECT_EQ(extents_of(file_), (std::vector<Extent>{extent(0, 100, 1), extent(300, 700, 1, 0, 300)}));
  EXPECT_TRUE(run([&] { return punch_hole(*txn_, {.inode = file_, .offset = 500, .length = ~0ULL}, now_); }));
  EXPECT_EQ(row(file_).size, 1000U);
  EXPECT_EQ(extents_of(file_).size(), 2U);
  EXPECT_EQ(code(run([&] { return punch_hole(*txn_, {.inode = cam1_, .offset = 0, .length = 1}, now_); })),
            Errc::is_directory);
  EXPECT_EQ(code(run([&] { return punch_hole(*txn_, {.inode = file_, .offset = 0, .length = 0}, now_); })),
            Errc::invalid);
}

TEST_F(ExtentsTest, ExtentsOfARangeAreWholeAndLimited) {
  for (std::uint64_t i = 0; i < 10; ++i)
    ASSERT_TRUE(put(file_, {extent(i * 100, 50, 1, static_cast<std::uint32_t>(i) * 64)}));
  const auto get = [&](std::uint64_t offset, std::uint64_t length, std::size_t limit) {
    return get_extents(*txn_, {.inode = file_, .offset = offset, .length = length, .limit = limit}).value();
  };
  EXPECT_EQ(get(20, 100, 10).extents, (std::vector<Extent>{extent(0, 50, 1), extent(100, 50, 1, 64)}));
  EXPECT_TRUE(get(50, 50, 10).extents.empty());
  EXPECT_TRUE(get(0, 0, 10).extents.empty());
  EXPECT_EQ(get(0, ~0ULL, 10).extents.size(), 10U);
  EXPECT_FALSE(get(0, ~0ULL, 10).more);
  EXPECT_EQ(get(0, ~0ULL, 9).extents.size(), 9U);
  EXPECT_TRUE(get(0, ~0ULL, 9).more);
  EXPECT_EQ(get(20, ~0ULL, 1).extents, std::vector<Extent>{extent(0, 50, 1)});
  EXPECT_EQ(code(get_extents(*txn_, {.inode = cam1_, .offset = 0, .length = 1, .limit = 1})),
            Errc::is_directory);
}

TEST_F(ExtentsTest, AnOrphanIsReapedInSteps) {
  for (std::uint64_t i = 0; i < 10; ++i)
    ASSERT_TRUE(put(file_, {extent(i * 100, 50, 1, static_cast<std::uint32_t>(i) * 64)}));
  EXPECT_TRUE(reap_orphan(*txn_, file_, 4).value().done) << "not an orphan";
  EXPECT_EQ(extents_of(file_).size(), 10U);
  auto sealed = segment(1);
  sealed.state = SegmentState::sealed;
  txn_->put(SegmentKey{SegmentId{1}}, sealed);
  ASSERT_TRUE(remove(cam1_, "f"));
  EXPECT_TRUE(txn_->has(OrphanKey{file_}).value());
  EXPECT_EQ(extents_of(file_).size(), 10U) << "open files keep their data";
  int steps = 1;
  for (;;) {
    const auto reaped = run([&] { return reap_orphan(*txn_, file_, 4); }).value();
    expect_sound();
    if (reaped.done) {
      EXPECT_EQ(reaped.emptied, std::vector<SegmentId>{SegmentId{1}});
      break;
    }
    EXPECT_TRUE(reaped.emptied.empty());
    ++steps;
  }
  EXPECT_EQ(steps, 3);
  EXPECT_EQ(code(get_inode(*txn_, file_)), Errc::stale_handle);
  EXPECT_FALSE(txn_->has(OrphanKey{file_}).value());
  EXPECT_EQ(segment(1).live_bytes, 0U);
  EXPECT_EQ(channel(cam1_).live_bytes, 0U);
}

}  // namespace
}  // namespace reelfs::indexd::tree
