// What is held stays; what is not goes as ever.
#include "indexd/tree/holds.h"

#include <limits>
#include <unordered_set>

#include <gtest/gtest.h>
#include <linux/fs.h>
#include <linux/xattr.h>

#include "tests/unit/indexd/tree/tree_test.h"

namespace reelfs::indexd::tree {
namespace {

class HoldsTest : public TreeTest {
 protected:
  HoldsTest() {
    make_segment(1);
    day_ = make(cam1_, "day", S_IFDIR | 0755);
    file_ = make(day_, "a");
    free_ = make(cam1_, "free");
    EXPECT_TRUE(put(file_, {extent(0, 1000, 1)}));
    EXPECT_TRUE(put(free_, {extent(0, 1000, 1, 4096)}));
  }

  Result<void> put_hold(InodeId inode, const std::string& reason = "case 4711") {
    return run([&] { return hold(*txn_, {.inode = inode, .reason = reason, .who = "uid 7 on host"}, now_); });
  }
  Result<void> end_hold(InodeId inode) {
    return run([&] { return release(*txn_, inode); });
  }
  Result<Changed> truncate(InodeId inode, std::uint64_t size) {
    SetAttributesParams params;
    params.inode = inode;
    params.size = size;
    return set(params);
  }
  Result<Changed> punch(InodeId inode, std::uint64_t offset, std::uint64_t length) {
    return run([&] { return punch_hole(*txn_, {.inode = inode, .offset = offset, .length = length}, now_); });
  }
  Result<Cloned> clone(InodeId source, InodeId target, std::uint64_t offset) {
    return run([&] {
      return clone_range(
          *txn_,
          {.source = source, .source_offset = 0, .target = target, .target_offset = offset, .length = 100},
          now_);
    });
  }
  std::optional<InodeId> holder(InodeId inode) {
    const auto found = held_by(*txn_, inode).value();
    return found ? std::optional(found->inode) : std::nullopt;
  }

  InodeId day_, file_, free_;
};

TEST_F(HoldsTest, AreInForceFromTheInodeOrFromAbove) {
  EXPECT_EQ(holder(file_), std::nullopt);
  ASSERT_TRUE(put_hold(cam1_));
  EXPECT_EQ(holder(file_), cam1_);
  EXPECT_EQ(holder(cam1_), cam1_);
  EXPECT_EQ(holder(cam2_), std::nullopt);
  EXPECT_EQ(holder(make(day_, "later")), cam1_);
  ASSERT_TRUE(put_hold(day_));
  EXPECT_EQ(holder(file_), day_) << "the nearest is told";
  EXPECT_EQ(holder(free_), cam1_);
  ASSERT_TRUE(put_hold(file_));
  EXPECT_EQ(holder(file_), file_);
  EXPECT_EQ(count_holds(*txn_).value(), 3U);
  for (const auto inode : {file_, day_, cam1_}) ASSERT_TRUE(end_hold(inode));
  EXPECT_EQ(holder(file_), std::nullopt);
  EXPECT_EQ(count_holds(*txn_).value(), 0U);
  EXPECT_EQ(code(end_hold(cam1_)), Errc::no_attribute);
}

TEST_F(HoldsTest, AddUpTheBytesTheyKeep) {
  const std::size_t many = 100;
  const auto bytes_of = [this](InodeId channel, std::size_t most = 100) {
    const auto held = held_bytes(*txn_, most).value();
    const auto found = held.channels.find(channel);
    return found == held.channels.end() ? 0 : found->second;
  };
  const auto stored = [this](InodeId inode) { return txn_->find(InodeKey{inode}).value()->stored_bytes; };
  constexpr auto kAll = std::numeric_limits<std::uint64_t>::max();
  ASSERT_GT(stored(file_), 0U);
  EXPECT_EQ(bytes_of(cam1_), 0U);
  ASSERT_TRUE(put_hold(file_));
  EXPECT_EQ(bytes_of(cam1_), stored(file_));
  EXPECT_EQ(held_bytes(*txn_, many).value().files, std::unordered_set<InodeId>{file_});
  EXPECT_EQ(bytes_of(cam1_, 0), kAll) << "more than may be looked at";
  ASSERT_TRUE(add_link(file_, cam1_, "again"));
  ASSERT_TRUE(put_hold(day_));
  EXPECT_EQ(bytes_of(cam1_), stored(file_)) << "counted once, by whatever name and hold";
  ASSERT_TRUE(end_hold(file_));
  EXPECT_EQ(bytes_of(cam1_), stored(file_)) << "the directory's hold has it";
  EXPECT_EQ(bytes_of(cam1_, 1), kAll);
  ASSERT_TRUE(put_hold(cam1_));
  EXPECT_EQ(bytes_of(cam1_), kAll);
  EXPECT_EQ(bytes_of(cam2_), 0U);
  ASSERT_TRUE(end_hold(cam1_));
  ASSERT_TRUE(end_hold(day_));
  ASSERT_TRUE(put_hold(kRootInode));
  EXPECT_EQ(bytes_of(cam2_), kAll);
}

TEST_F(HoldsTest, LookAboveEveryName) {
  const auto other = make(cam1_, "other", S_IFDIR | 0755);
  ASSERT_TRUE(add_link(file_, other, "b"));
  ASSERT_TRUE(put_hold(other));
  EXPECT_EQ(holder(file_), other);
  EXPECT_EQ(code(remove(day_, "a")), Errc::not_permitted);
  EXPECT_EQ(code(remove(other, "b")), Errc::not_permitted);
}

TEST_F(HoldsTest, KeepWhoWhyAndWhen) {
  ASSERT_TRUE(put_hold(file_));
  const auto first = held_by(*txn_, file_).value().value().row;
  EXPECT_EQ(first.reason, "case 4711");
  EXPECT_EQ(first.who, "uid 7 on host");
  EXPECT_EQ(first.since_ns, now_);
  ASSERT_TRUE(put_hold(file_));
  EXPECT_EQ(held_by(*txn_, file_).value().value().row, first) << "said twice";
  ASSERT_TRUE(put_hold(file_, "case 4712"));
  EXPECT_EQ(held_by(*txn_, file_).value().value().row.since_ns, now_);
  EXPECT_EQ(count_holds(*txn_).value(), 1U);
  EXPECT_EQ(code(put_hold(file_, "")), Errc::invalid);
  EXPECT_EQ(code(put_hold(file_, "two\nlines")), Errc::invalid);
  EXPECT_EQ(code(put_hold(file_, std::string(kMaxHoldText + 1, 'x'))), Errc::too_big);
  EXPECT_EQ(code(put_hold(InodeId{999})), Errc::stale_handle);
  ASSERT_TRUE(remove(cam1_, "free"));
  EXPECT_EQ(code(put_hold(free_)), Errc::not_found) << "it has no name any more";
}

TEST_F(HoldsTest, KeepNames) {
  ASSERT_TRUE(put_hold(file_));
  EXPECT_EQ(code(remove(day_, "a")), Errc::not_permitted);
  EXPECT_EQ(code(move(day_, "a", day_, "b")), Errc::not_permitted);
  EXPECT_EQ(code(move(day_, "a", cam1_, "b")), Errc::not_permitted);
  EXPECT_EQ(code(move(cam1_, "free", day_, "a")), Errc::not_permitted) << "it would be replaced";
  EXPECT_EQ(code(move(cam1_, "free", day_, "a", RENAME_EXCHANGE)), Errc::not_permitted);
  EXPECT_EQ(code(move(day_, "a", cam1_, "free", RENAME_EXCHANGE)), Errc::not_permitted);
  EXPECT_EQ(code(move(cam1_, "day", cam1_, "night")), std::nullopt) << "the hold goes with the file";
  EXPECT_EQ(holder(file_), file_);
  ASSERT_TRUE(end_hold(file_));
  EXPECT_TRUE(move(day_, "a", cam1_, "b"));
  EXPECT_TRUE(remove(cam1_, "b"));
}

TEST_F(HoldsTest, OfADirectoryKeepWhatIsBelow) {
  const auto below = make(day_, "hour", S_IFDIR | 0755);
  const auto elsewhere = make(cam1_, "elsewhere", S_IFDIR | 0755);
  ASSERT_TRUE(put_hold(day_));
  EXPECT_EQ(code(remove(day_, "a")), Errc::not_permitted);
  EXPECT_EQ(code(remove(day_, "hour", true)), Errc::not_permitted);
  EXPECT_EQ(code(move(day_, "a", elsewhere, "a")), Errc::not_permitted);
  EXPECT_EQ(code(move(day_, "hour", elsewhere, "hour")), Errc::not_permitted);
  EXPECT_EQ(code(move(cam1_, "day", elsewhere, "day")), Errc::not_permitted);
  // A recorder goes on: it makes files, and gives them their names when they are whole.
  const auto part = make(day_, "b.part");
  EXPECT_TRUE(move(day_, "b.part", below, "b"));
  EXPECT_EQ(holder(part), day_);
  EXPECT_TRUE(move(cam1_, "free", day_, "free")) << "what comes later is held, too";
  EXPECT_EQ(code(remove(day_, "free")), Errc::not_permitted);
  ASSERT_TRUE(end_hold(day_));
  EXPECT_TRUE(move(day_, "a", elsewhere, "a"));
  EXPECT_TRUE(remove(below, "b"));
  EXPECT_TRUE(remove(day_, "hour", true));
}

TEST_F(HoldsTest, KeepBytes) {
  ASSERT_TRUE(put_hold(file_));
  const auto before = extents_of(file_);
  EXPECT_EQ(code(truncate(file_, 0)), Errc::not_permitted);
  EXPECT_EQ(code(truncate(file_, 999)), Errc::not_permitted);
  EXPECT_EQ(code(punch(file_, 0, 10)), Errc::not_permitted);
  EXPECT_EQ(code(clone(free_, file_, 950)), Errc::not_permitted);
  EXPECT_EQ(code(put(file_, {extent(999, 10, 1, 8192)})), Errc::not_permitted);
  EXPECT_EQ(extents_of(file_), before);
  EXPECT_EQ(row(file_).size, 1000U);

  EXPECT_TRUE(truncate(file_, 2000)) << "growing takes nothing away";
  EXPECT_TRUE(put(file_, {extent(1500, 100, 1, 8192)})) << "nor does filling a hole";
  EXPECT_TRUE(put(file_, {extent(2000, 100, 1, 12288)}));
  EXPECT_TRUE(clone(free_, file_, 2100));
  EXPECT_TRUE(clone(file_, free_, 0));
  EXPECT_TRUE(punch(file_, 5000, 10));
  SetAttributesParams params;
  params.inode = file_;
  params.mode = 0600;
  params.mtime_ns = 5;
  EXPECT_TRUE(set(params));

  ASSERT_TRUE(end_hold(file_));
  EXPECT_TRUE(put(file_, {extent(0, 10, 1, 16384)}));
  EXPECT_TRUE(punch(file_, 0, 10));
  EXPECT_TRUE(truncate(file_, 0));
}

TEST_F(HoldsTest, ACommitThatComesTwiceIsNoOverwriting) {
  ASSERT_TRUE(put_hold(day_));
  // The second shadows a part of the first, as within one commit it may.
  const std::vector<Extent> extents = {extent(1000, 100, 1, 8192), extent(1050, 20, 1, 12288),
                                       extent(1100, 50, 1, 16384)};
  ASSERT_TRUE(put(file_, extents));
  const auto before = extents_of(file_);
  EXPECT_EQ(before.size(), 5U);
  EXPECT_TRUE(put(file_, extents));
  EXPECT_EQ(extents_of(file_), before);
  EXPECT_EQ(code(put(file_, {extents[0]})), Errc::not_permitted);
}

TEST_F(HoldsTest, ACommitOfSeveralFilesKeepsTheOthers) {
  ASSERT_TRUE(put_hold(file_));
  std::vector<FileCommit> files(3);
  files[0].inode = free_;
  files[0].extents = {extent(0, 10, 1, 8192)};
  files[1].inode = file_;
  files[1].extents = {extent(1000, 10, 1, 12288), extent(0, 10, 1, 16384)};
  files[2].inode = make(cam1_, "third");
  files[2].extents = {extent(0, 10, 1, 20480)};
  const auto done = run([&] { return commit(*txn_, files, {}, now_); }).value();
  ASSERT_EQ(done.refused.size(), 1U);
  EXPECT_EQ(done.refused[0].file, 1U);
  EXPECT_EQ(done.refused[0].error.code(), Errc::not_permitted);
  EXPECT_EQ(row(file_).size, 1000U) << "nothing of it";
  EXPECT_EQ(extents_of(free_).size(), 2U);
  EXPECT_EQ(extents_of(files[2].inode).size(), 1U);
}

TEST_F(HoldsTest, AreAnExtendedAttribute) {
  const std::string name(kHoldXattr);
  const auto set_reason = [&](const std::string& reason, std::uint32_t flags = 0) {
    return run([&] {
      SetXattrParams params;
      params.inode = file_;
      params.name = name;
      params.value = reason;
      params.flags = flags;
      params.who = "uid 7 on host";
      return set_xattr(*txn_, params, now_);
    });
  };
  EXPECT_EQ(code(get_xattr(*txn_, file_, name)), Errc::no_attribute);
  const auto version = row(file_).version;
  ASSERT_TRUE(set_reason("case 1"));
  EXPECT_GT(row(file_).version, version);
  EXPECT_EQ(get_xattr(*txn_, file_, name).value(), "case 1");
  EXPECT_EQ(list_xattr(*txn_, file_).value(), std::vector<std::string>{name});
  EXPECT_TRUE(list_xattr(*txn_, day_).value().empty());
  EXPECT_EQ(code(set_reason("case 2", XATTR_CREATE)), Errc::exists);
  EXPECT_TRUE(set_reason("case 2", XATTR_REPLACE));
  EXPECT_EQ(code(set_reason("")), Errc::invalid);
  EXPECT_EQ(holder(file_), file_);
  ASSERT_TRUE(run([&] { return remove_xattr(*txn_, file_, name, now_); }));
  EXPECT_EQ(holder(file_), std::nullopt);
  EXPECT_EQ(code(run([&] { return remove_xattr(*txn_, file_, name, now_); })), Errc::no_attribute);
}

}  // namespace
}  // namespace reelfs::indexd::tree
