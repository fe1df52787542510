#include "indexd/tree/times.h"

#include <random>
#include <set>
#include <vector>

#include "indexd/tree/recordings.h"
#include "tests/unit/indexd/tree/tree_test.h"

namespace reelfs::indexd::tree {
namespace {

constexpr WallNs kSecond = 1'000'000'000;

class Times : public TreeTest {
 protected:
  /// A file with bytes that came at these times.
  InodeId record(InodeId channel, const std::vector<WallNs>& times) {
    const auto file = make(channel, fmt::format("f{}", ++made_));
    const std::uint64_t number = channel == cam1_ ? 1 : 2;
    if (!txn_->has(SegmentKey{SegmentId{number}}).value()) {
      make_segment(number, SegmentState::open, kGiB);
      auto of_channel = segment(number);
      of_channel.channel = channel;
      txn_->put(SegmentKey{SegmentId{number}}, of_channel);
    }
    std::uint64_t at = 0;
    for (const auto time : times) {
      now_ = time - 1;  // run() counts on
      EXPECT_TRUE(put(file, {extent(at, 10, number, static_cast<std::uint32_t>(4096 * (at + 1)))}));
      at += 10;
    }
    return file;
  }
  /// Everything that a search finds, asked for in steps.
  std::vector<InodeId> find(TimeRange time, WallNs now = 0, std::set<InodeId> being_written = {},
                            std::size_t rows = 3, std::size_t visits = 2) {
    const TimeSearch search(time, now,
                            [being_written](InodeId inode) { return being_written.contains(inode); });
    std::vector<InodeId> found;
    std::optional<RecordingKey> after;
    for (;;) {
      std::size_t visited = 0, left = rows;
      const auto next = search.run(*txn_, cam1_, after, left, [&](const Inode& inode) {
        found.push_back(inode.id);
        return ++visited < visits;
      });
      EXPECT_TRUE(next);
      if (!next || !next.value()) return found;
      after = next.value();
    }
  }

  int made_ = 0;
};

TEST_F(Times, ARecordingIsFoundFromItsFirstToItsNewestByte) {
  const auto file = record(cam1_, {100 * kSecond, 160 * kSecond});
  record(cam2_, {120 * kSecond});
  make(cam1_, "without a byte");
  const std::vector found{file};
  EXPECT_EQ(find({}), found);
  EXPECT_EQ(find({100 * kSecond, 100 * kSecond}), found);
  EXPECT_EQ(find({160 * kSecond, 170 * kSecond}), found);
  EXPECT_EQ(find({110 * kSecond, 120 * kSecond}), found) << "it went on";
  EXPECT_EQ(find({0, 100 * kSecond - 1}), std::vector<InodeId>());
  EXPECT_EQ(find({160 * kSecond + 1, 200 * kSecond}), std::vector<InodeId>());
}

TEST_F(Times, TimesThatProgramsSetChangeNothing) {
  const auto file = record(cam1_, {100 * kSecond});
  SetAttributesParams touch;
  touch.inode = file;
  touch.mtime_ns = 500 * kSecond;
  touch.atime_ns = 500 * kSecond;
  ASSERT_TRUE(set(touch));
  EXPECT_EQ(find({99 * kSecond, 101 * kSecond}), std::vector{file});
  EXPECT_TRUE(find({400 * kSecond, 600 * kSecond}).empty());
}

TEST_F(Times, WhatIsBeingWrittenGoesOnUntilNow) {
  const auto file = record(cam1_, {100 * kSecond});
  const TimeRange after{101 * kSecond, 200 * kSecond};
  EXPECT_TRUE(find(after, 101 * kSecond).empty()) << "nobody writes it";
  EXPECT_EQ(find(after, 101 * kSecond, {file}), std::vector{file});
  EXPECT_TRUE(find({102 * kSecond, 200 * kSecond}, 101 * kSecond, {file}).empty()) << "that is yet to come";
  EXPECT_TRUE(find(after, 103 * kSecond, {file}).empty()) << "it is open, and nothing has come for long";
}

TEST_F(Times, WhatIsRemovedIsNotFound) {
  const auto file = record(cam1_, {100 * kSecond});
  ASSERT_EQ(find({}), std::vector{file});
  ASSERT_TRUE(remove(cam1_, "f1"));
  EXPECT_TRUE(find({}).empty());
}

TEST_F(Times, FindsWhatAPlainLookAtAllFinds) {
  for (unsigned seed = 1; seed <= 5; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937 random(seed);
    const auto any = [&random](WallNs most) { return static_cast<WallNs>(random() % most); };
    std::set<InodeId> being_written;
    for (int i = 0; i < 40; ++i) {
      const auto first = (1000 + any(100)) * kSecond;
      const auto file = record(i % 4 == 0 ? cam2_ : cam1_, {first, first + any(60) * kSecond + 2});
      if (any(3) == 0) being_written.insert(file);
    }
    for (int i = 0; i < 100; ++i) {
      const auto from = (990 + any(200)) * kSecond, now = (1100 + any(60)) * kSecond;
      const TimeRange time{from, from + any(30) * kSecond};
      std::set<InodeId> expected;
      ASSERT_TRUE(txn_->scan_table<InodeKey>([&](const InodeKey& key, const InodeRow& row) {
        const bool goes_on = being_written.contains(key.inode) && row.last_ns >= now - kUntoldNs;
        const auto last = goes_on ? std::max(now, row.last_ns) : row.last_ns;
        if (row.channel == cam1_ && row.first_ns != 0 && row.first_ns <= time.to && last >= time.from)
          expected.insert(key.inode);
        return true;
      }));
      const auto found = find(time, now, being_written, 1 + static_cast<std::size_t>(any(8)),
                              1 + static_cast<std::size_t>(any(4)));
      EXPECT_EQ(std::set(found.begin(), found.end()), expected);
      EXPECT_EQ(found.size(), expected.size()) << "one came twice";
    }
  }
}

TEST_F(Times, AttributesTellThemAndCannotBeSet) {
  const auto file = record(cam1_, {kSecond, 86400 * kSecond + 5});
  const auto get = [&](InodeId inode, std::string_view name) {
    return get_xattr(*txn_, inode, std::string(name));
  };
  EXPECT_EQ(get(file, kFirstByteXattr).value(), "1970-01-01T00:00:01.000000000Z");
  EXPECT_EQ(get(file, kLastByteXattr).value(), "1970-01-02T00:00:00.000000005Z");
  EXPECT_TRUE(list_xattr(*txn_, file).value().empty());
  EXPECT_EQ(code(get(cam1_, kFirstByteXattr)), Errc::no_attribute);
  EXPECT_EQ(code(get(make(cam1_, "empty"), kLastByteXattr)), Errc::no_attribute);
  SetXattrParams setting;
  setting.inode = file;
  setting.name = kFirstByteXattr;
  setting.value = "1970-01-01T00:00:00Z";
  EXPECT_EQ(code(run([&] { return set_xattr(*txn_, setting, now_); })), Errc::not_permitted);
  EXPECT_EQ(code(run([&] { return remove_xattr(*txn_, file, setting.name, now_); })), Errc::not_permitted);
  EXPECT_EQ(get(file, kFirstByteXattr).value(), "1970-01-01T00:00:01.000000000Z");
}

}  // namespace
}  // namespace reelfs::indexd::tree
