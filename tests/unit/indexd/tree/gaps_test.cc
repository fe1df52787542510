#include "indexd/tree/gaps.h"

#include "tests/unit/indexd/tree/tree_test.h"

namespace reelfs::indexd::tree {
namespace {

class GapsTest : public TreeTest {
 protected:
  GapsTest() { watch_.since_ns = 1000; }

  bool note(std::vector<GapChange> changes) {
    const auto noted = run([&] { return note_gaps(*txn_, cam1_, watch_, changes); });
    EXPECT_TRUE(noted);
    return noted && noted.value();
  }
  static GapRow gap(WallNs end, GapCause cause = GapCause::source_silent) { return {end, cause, 0}; }
  std::vector<WallNs> starts(const LedgerRange& range, WallNs after = 0, std::size_t limit = 100) {
    const auto gaps = list_gaps(*txn_, cam1_, range, after, limit, kNow).value();
    std::vector<WallNs> found;
    for (const auto& each : gaps) found.push_back(each.start_ns);
    return found;
  }
  WatchRow watch_row() { return txn_->get(WatchKey{cam1_}).value(); }
  /// A recording whose first byte came then.
  void make_recording(const std::string& name, WallNs first) {
    const auto inode = make(cam1_, name);
    make_segment(next_segment_);
    now_ = first - 1;
    EXPECT_TRUE(put(inode, {extent(0, 4096, next_segment_++)}));
    EXPECT_EQ(row(inode).first_ns, first);
  }

  static constexpr WallNs kNow = 100'000;
  WatchRow watch_;
  std::uint64_t next_segment_ = 1;
};

TEST_F(GapsTest, AreKeptUntilTheirChannelGoes) {
  EXPECT_TRUE(note({{5000, gap(0)}}));
  EXPECT_EQ(watch_row().open_ns, 5000);
  EXPECT_TRUE(note({{5000, gap(6000, GapCause::store_stalled)}, {7000, gap(8000)}}));
  EXPECT_EQ(watch_row().open_ns, 0);
  EXPECT_EQ(watch_row().gaps, 2u);
  EXPECT_EQ(txn_->get(GapKey{cam1_, 5000}).value(), gap(6000, GapCause::store_stalled));
  expect_sound();
  EXPECT_TRUE(remove(kRootInode, "cam1", true));
  EXPECT_FALSE(note({{9000, gap(0)}}));
  EXPECT_FALSE(txn_->find(WatchKey{cam1_}).value());
  std::size_t left = 0;
  EXPECT_TRUE(txn_->scan_table<GapKey>([&](const GapKey&, const GapRow&) { return ++left > 0; }));
  EXPECT_EQ(left, 0u);
}

TEST_F(GapsTest, OneThatWasNoneIsTakenBack) {
  note({{5000, gap(0)}});
  note({{5000, std::nullopt}});
  EXPECT_EQ(watch_row().gaps, 0u);
  EXPECT_EQ(watch_row().open_ns, 0);
  note({{5000, std::nullopt}});
  EXPECT_EQ(watch_row().gaps, 0u);
}

TEST_F(GapsTest, TheOldestGoWhereThereAreTooMany) {
  std::vector<GapChange> many;
  for (WallNs i = 1; i <= static_cast<WallNs>(kMaxGaps); ++i) many.push_back({i * 10, gap(i * 10 + 5)});
  note(many);
  EXPECT_EQ(watch_row().gaps, kMaxGaps);
  note({{1'000'000, gap(1'000'001)}, {1'000'010, gap(0)}});
  EXPECT_EQ(watch_row().gaps, kMaxGaps);
  EXPECT_FALSE(txn_->find(GapKey{cam1_, 20}).value());
  EXPECT_TRUE(txn_->find(GapKey{cam1_, 30}).value());
  EXPECT_EQ(watch_row().open_ns, 1'000'010);
}

TEST_F(GapsTest, AreListedByPagesAndRange) {
  note({{10'000, gap(20'000)}, {30'000, gap(40'000)}, {50'000, gap(60'000)}, {70'000, gap(0)}});
  const LedgerRange all{0, {}};
  EXPECT_EQ(starts(all), (std::vector<WallNs>{10'000, 30'000, 50'000, 70'000}));
  EXPECT_EQ(starts(all, 0, 3), (std::vector<WallNs>{10'000, 30'000, 50'000}));
  EXPECT_EQ(starts(all, 50'000, 3), (std::vector<WallNs>{70'000}));
  EXPECT_EQ(starts({20'000, 30'000}), (std::vector<WallNs>{10'000, 30'000}));
  EXPECT_EQ(starts({20'001, 29'999}), (std::vector<WallNs>{}));
  EXPECT_EQ(starts({90'000, {}}), (std::vector<WallNs>{70'000}));
  make_recording("a", 35'000);
  EXPECT_EQ(starts({}), (std::vector<WallNs>{30'000, 50'000, 70'000}));
}

TEST_F(GapsTest, CoverageIsWhatLiesOutsideOfThem) {
  EXPECT_FALSE(coverage(*txn_, cam1_, {}, kNow).value());
  note({{10'000, gap(20'000)}, {30'000, gap(40'000)}, {90'000, gap(0)}});
  // Without a recording there is nothing to cover.
  EXPECT_EQ(coverage(*txn_, cam1_, {}, kNow).value()->covered_ns, 0);
  make_recording("a", 15'000);
  auto found = coverage(*txn_, cam1_, {}, kNow).value();
  ASSERT_TRUE(found);
  EXPECT_EQ(found->from_ns, 15'000);
  EXPECT_EQ(found->to_ns, kNow);
  EXPECT_EQ(found->covered_ns, 85'000 - 5'000 - 10'000 - 10'000);
  EXPECT_EQ(found->gaps, 3u);
  found = coverage(*txn_, cam1_, {25'000, 50'000}, kNow).value();
  EXPECT_EQ(found->covered_ns, 15'000);
  EXPECT_EQ(found->gaps, 1u);
  // Where the clock was set back gaps overlap, and nothing is missing twice.
  note({{35'000, gap(45'000)}});
  EXPECT_EQ(coverage(*txn_, cam1_, {25'000, 50'000}, kNow).value()->covered_ns, 10'000);
}

}  // namespace
}  // namespace reelfs::indexd::tree
