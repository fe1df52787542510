#include "indexd/tree/names.h"

#include <linux/fs.h>

#include "tests/unit/indexd/tree/tree_test.h"

namespace reelfs::indexd::tree {
namespace {

class Names : public TreeTest {
 protected:
  std::vector<std::string> list(InodeId directory) {
    std::vector<std::string> names;
    const auto page = read_directory(*txn_, directory, 0, 1000).value();
    for (const auto& entry : page.entries) names.push_back(entry.name);
    return names;
  }
};
using Strings = std::vector<std::string>;

TEST_F(Names, CreateMakesWhatWasAskedFor) {
  CreateParams params;
  params.parent = cam1_;
  params.name = "recording";
  params.mode = S_IFREG | 0640;
  params.uid = 7;
  params.gid = 8;
  const auto made = create(*txn_, params, 5000).value();
  EXPECT_EQ(made.row.mode, S_IFREG | 0640U);
  EXPECT_EQ(made.row.uid, 7U);
  EXPECT_EQ(made.row.gid, 8U);
  EXPECT_EQ(made.row.nlink, 1U);
  EXPECT_EQ(made.row.size, 0U);
  EXPECT_EQ(made.row.channel, cam1_);
  for (const auto time : {made.row.atime_ns, made.row.mtime_ns, made.row.ctime_ns, made.row.btime_ns})
    EXPECT_EQ(time, 5000);
  EXPECT_EQ(row(cam1_).mtime_ns, 5000);
  EXPECT_EQ(row(cam1_).ctime_ns, 5000);
  EXPECT_EQ(row(cam1_).size, kDirectoryEntryBytes);
  EXPECT_EQ(lookup(*txn_, cam1_, "recording").value().row, made.row);
  EXPECT_EQ(lookup(*txn_, cam1_, ".").value().id, cam1_);
  EXPECT_EQ(lookup(*txn_, cam1_, "..").value().id, kRootInode);
  EXPECT_EQ(lookup(*txn_, kRootInode, "..").value().id, kRootInode);
  EXPECT_EQ(code(lookup(*txn_, cam1_, "other")), Errc::not_found);
  EXPECT_EQ(code(lookup(*txn_, made.id, "x")), Errc::not_directory);
  EXPECT_EQ(code(lookup(*txn_, InodeId{999}, "x")), Errc::stale_handle);
}

TEST_F(Names, CreateRefusesAnExistingNameUnlessItMayBeOpened) {
  const auto file = make(cam1_, "f");
  make(cam1_, "d", S_IFDIR | 0755);
  EXPECT_EQ(code(try_make(cam1_, "f", S_IFREG)), Errc::exists);
  CreateParams params;
  params.parent = cam1_;
  params.name = "f";
  params.mode = S_IFREG;
  params.exclusive = false;
  EXPECT_EQ(run([&] { return create(*txn_, params, now_); }).value().id, file);
  params.name = "d";
  EXPECT_EQ(code(run([&] { return create(*txn_, params, now_); })), Errc::exists);
}

TEST_F(Names, OnlyDirectoriesAtTheRoot) {
  EXPECT_EQ(code(try_make(kRootInode, "f", S_IFREG | 0644)), Errc::not_permitted);
  EXPECT_EQ(code(try_make(kRootInode, "l", S_IFLNK | 0777)), Errc::not_permitted);
  EXPECT_EQ(channel(cam1_).name, "cam1");
  EXPECT_EQ(row(cam1_).channel, cam1_);
  EXPECT_EQ(row(make(cam1_, "d", S_IFDIR | 0755)).channel, cam1_);
}

TEST_F(Names, LimitsOfNames) {
  for (const std::string bad : {"", ".", "..", "a/b"})
    EXPECT_EQ(code(try_make(cam1_, bad, S_IFREG)), Errc::invalid);
  EXPECT_EQ(code(try_make(cam1_, std::string("a\0b", 3), S_IFREG)), Errc::invalid);
  make(cam1_, std::string(255, 'x'));
  EXPECT_EQ(code(try_make(cam1_, std::string(256, 'x'), S_IFREG)), Errc::name_too_long);
  EXPECT_EQ(code(lookup(*txn_, cam1_, std::string(256, 'x'))), Errc::name_too_long);
  EXPECT_EQ(code(move(cam1_, std::string(255, 'x'), cam1_, std::string(256, 'y'))), Errc::name_too_long);
  EXPECT_EQ(code(try_make(cam1_, "x", 0644)), Errc::invalid) << "no type";
}

TEST_F(Names, SetgidDirectoriesHandDownTheirGroup) {
  SetAttributesParams params;
  params.inode = cam1_;
  params.mode = 02775;
  params.gid = 55;
  ASSERT_TRUE(set(params));
  const auto directory = row(make(cam1_, "d", S_IFDIR | 0755));
  EXPECT_EQ(directory.gid, 55U);
  EXPECT_EQ(directory.mode, S_IFDIR | 02755U);
  const auto file = row(make(cam1_, "f", S_IFREG | 0644));
  EXPECT_EQ(file.gid, 55U);
  EXPECT_EQ(file.mode, S_IFREG | 0644U);
}

TEST_F(Names, SpecialFilesAndSymlinks) {
  const auto link_inode = make(cam1_, "l", S_IFLNK | 0777);
  EXPECT_EQ(read_link(*txn_, link_inode).value(), "target");
  EXPECT_EQ(row(link_inode).size, 6U);
  EXPECT_EQ(code(read_link(*txn_, cam1_)), Errc::invalid);
  CreateParams params;
  params.parent = cam1_;
  params.name = "dev";
  params.mode = S_IFCHR | 0600;
  params.rdev = 0x0103;
  EXPECT_EQ(run([&] { return create(*txn_, params, now_); }).value().row.rdev, 0x0103U);
  make(cam1_, "fifo", S_IFIFO | 0600);
  make(cam1_, "socket", S_IFSOCK | 0600);
  params.mode = S_IFLNK | 0777;
  params.name = "long";
  params.symlink_target = std::string(4096, 'x');
  EXPECT_EQ(code(run([&] { return create(*txn_, params, now_); })), Errc::name_too_long);
  params.symlink_target.clear();
  EXPECT_EQ(code(run([&] { return create(*txn_, params, now_); })), Errc::invalid);
}

TEST_F(Names, LinksCountAndHaveLimits) {
  const auto file = make(cam1_, "f");
  const auto directory = make(cam1_, "d", S_IFDIR | 0755);
  EXPECT_EQ(add_link(file, directory, "g").value().row.nlink, 2U);
  EXPECT_EQ(row(file).ctime_ns, now_);
  EXPECT_EQ(code(add_link(file, directory, "g")), Errc::exists);
  EXPECT_EQ(code(add_link(file, cam2_, "g")), Errc::cross_channel);
  EXPECT_EQ(code(add_link(file, kRootInode, "g")), Errc::cross_channel);
  EXPECT_EQ(code(add_link(directory, cam1_, "e")), Errc::not_permitted);
  EXPECT_EQ(code(add_link(InodeId{999}, cam1_, "e")), Errc::stale_handle);
  EXPECT_EQ(remove(cam1_, "f").value().row.nlink, 1U);
  EXPECT_EQ(path_of(*txn_, file).value(), "cam1/d/g");
  EXPECT_EQ(remove(directory, "g").value().row.nlink, 0U);
  EXPECT_EQ(path_of(*txn_, file).value(), "");
  EXPECT_EQ(code(add_link(file, cam1_, "again")), Errc::not_found);
  EXPECT_EQ(channel(cam1_).files, 1U);
}

TEST_F(Names, UnlinkAndRmdirKeepToTheirKind) {
  make(cam1_, "f");
  const auto directory = make(cam1_, "d", S_IFDIR | 0755);
  EXPECT_EQ(row(cam1_).nlink, 3U);
  make(directory, "x");
  EXPECT_EQ(code(remove(cam1_, "f", true)), Errc::not_directory);
  EXPECT_EQ(code(remove(cam1_, "d")), Errc::is_directory);
  EXPECT_EQ(code(remove(cam1_, "d", true)), Errc::not_empty);
  EXPECT_EQ(code(remove(cam1_, "none")), Errc::not_found);
  ASSERT_TRUE(remove(directory, "x"));
  EXPECT_EQ(remove(cam1_, "d", true).value().row.nlink, 0U);
  EXPECT_EQ(row(cam1_).nlink, 2U);
  EXPECT_EQ(code(try_make(directory, "late", S_IFREG)), Errc::not_found) << "in a removed directory";
  ASSERT_TRUE(remove(cam1_, "f"));
  EXPECT_EQ(channel(cam1_).files, 0U);
}

TEST_F(Names, AChannelGoesWithItsDirectory) {
  make(cam1_, "f");
  EXPECT_EQ(code(remove(kRootInode, "cam1", true)), Errc::not_empty);
  ASSERT_TRUE(remove(cam1_, "f"));  // an orphan, perhaps still open
  ASSERT_TRUE(remove(kRootInode, "cam1", true));
  EXPECT_FALSE(txn_->has(ChannelKey{cam1_}).value());
  EXPECT_EQ(list(kRootInode), Strings{"cam2"});
}

TEST_F(Names, RenameReplacesAndTouches) {
  const auto file = make(cam1_, "a");
  const auto other = make(cam1_, "b");
  const auto renamed = move(cam1_, "a", cam1_, "b").value();
  EXPECT_EQ(renamed.moved.id, file);
  EXPECT_EQ(renamed.replaced->id, other);
  EXPECT_EQ(renamed.replaced->row.nlink, 0U);
  EXPECT_EQ(renamed.moved.row.ctime_ns, now_);
  EXPECT_EQ(row(cam1_).mtime_ns, now_);
  EXPECT_EQ(list(cam1_), Strings{"b"});
  EXPECT_EQ(channel(cam1_).files, 1U);
  EXPECT_EQ(code(move(cam1_, "a", cam1_, "c")), Errc::not_found);
  EXPECT_EQ(code(move(cam1_, "b", cam1_, "c", RENAME_EXCHANGE)), Errc::not_found);
  EXPECT_EQ(code(move(cam1_, "b", cam1_, "c", RENAME_EXCHANGE | RENAME_NOREPLACE)), Errc::invalid);
  EXPECT_EQ(code(move(cam1_, "b", cam1_, "c", RENAME_WHITEOUT)), Errc::invalid);
}

TEST_F(Names, RenameToAnotherNameOfTheSameFileDoesNothing) {
  const auto file = make(cam1_, "a");
  ASSERT_TRUE(add_link(file, cam1_, "b"));
  const auto before = row(file);
  EXPECT_TRUE(move(cam1_, "a", cam1_, "b"));
  EXPECT_EQ(row(file), before);
  EXPECT_EQ(list(cam1_), (Strings{"a", "b"}));
  EXPECT_EQ(code(move(cam1_, "a", cam1_, "b", RENAME_NOREPLACE)), Errc::exists);
  const auto directory = make(cam1_, "d", S_IFDIR | 0755);
  make(directory, "x");
  EXPECT_TRUE(move(cam1_, "d", cam1_, "d"));
}

TEST_F(Names, RenameOfDirectories) {
  const auto a = make(cam1_, "a", S_IFDIR | 0755);
  const auto b = make(cam1_, "b", S_IFDIR | 0755);
  const auto inner = make(a, "inner", S_IFDIR | 0755);
  make(cam1_, "file");
  EXPECT_EQ(code(move(cam1_, "a", inner, "x")), Errc::invalid);
  EXPECT_EQ(code(move(cam1_, "a", a, "x")), Errc::invalid);
  EXPECT_EQ(code(move(a, "inner", cam1_, "a")), Errc::not_empty);
  EXPECT_EQ(code(move(cam1_, "b", cam1_, "a")), Errc::not_empty);
  EXPECT_EQ(code(move(cam1_, "b", cam1_, "file")), Errc::not_directory);
  EXPECT_EQ(code(move(cam1_, "file", cam1_, "b")), Errc::is_directory);
  ASSERT_TRUE(move(cam1_, "a", cam1_, "b"));
  EXPECT_EQ(row(b).nlink, 0U);
  EXPECT_EQ(row(cam1_).nlink, 3U);
  const auto c = make(cam1_, "c", S_IFDIR | 0755);
  ASSERT_TRUE(move(a, "inner", c, "inner"));
  EXPECT_EQ(row(inner).parent, c);
  EXPECT_EQ(row(a).nlink, 2U);
  EXPECT_EQ(row(c).nlink, 3U);
  EXPECT_EQ(path_of(*txn_, inner).value(), "cam1/c/inner");
}

TEST_F(Names, RenameExchangesAnyTwo) {
  const auto directory = make(cam1_, "d", S_IFDIR | 0755);
  const auto sub = make(directory, "sub", S_IFDIR | 0755);
  const auto file = make(cam1_, "f");
  ASSERT_TRUE(move(cam1_, "f", directory, "sub", RENAME_EXCHANGE));
  EXPECT_EQ(lookup(*txn_, cam1_, "f").value().id, sub);
  EXPECT_EQ(lookup(*txn_, directory, "sub").value().id, file);
  EXPECT_EQ(row(sub).parent, cam1_);
  EXPECT_EQ(row(directory).nlink, 2U);
  EXPECT_EQ(row(cam1_).nlink, 4U);
  EXPECT_EQ(code(move(directory, "sub", cam1_, "d", RENAME_EXCHANGE)), Errc::invalid);
  EXPECT_EQ(code(move(cam1_, "d", directory, "sub", RENAME_EXCHANGE)), Errc::invalid);
}

TEST_F(Names, NothingMovesFromChannelToChannel) {
  make(cam1_, "f");
  make(cam1_, "d", S_IFDIR | 0755);
  EXPECT_EQ(code(move(cam1_, "f", cam2_, "f")), Errc::cross_channel);
  EXPECT_EQ(code(move(cam1_, "d", kRootInode, "d")), Errc::cross_channel);
  EXPECT_EQ(code(move(kRootInode, "cam1", cam2_, "d")), Errc::cross_channel);
}

TEST_F(Names, ChannelsCanBeRenamedAndExchanged) {
  ASSERT_TRUE(move(kRootInode, "cam1", kRootInode, "front"));
  EXPECT_EQ(channel(cam1_).name, "front");
  ASSERT_TRUE(move(kRootInode, "front", kRootInode, "cam2", RENAME_EXCHANGE));
  EXPECT_EQ(channel(cam1_).name, "cam2");
  EXPECT_EQ(channel(cam2_).name, "front");
  ASSERT_TRUE(move(kRootInode, "cam2", kRootInode, "front")) << "over an empty channel";
  EXPECT_FALSE(txn_->has(ChannelKey{cam2_}).value());
}

TEST_F(Names, NamesOfViewsAreNotGivenInAChannel) {
  const auto file = make(cam1_, "f");
  const auto below = make(cam1_, "below", S_IFDIR | 0755);
  for (const std::string name : {".by-time", ".reel"}) {
    EXPECT_EQ(code(try_make(cam1_, name, S_IFDIR | 0755)), Errc::exists);
    EXPECT_EQ(code(try_make(cam1_, name, S_IFLNK | 0777)), Errc::exists);
    EXPECT_EQ(code(add_link(file, cam1_, name)), Errc::exists);
    EXPECT_EQ(code(move(cam1_, "f", cam1_, name)), Errc::not_permitted);
    EXPECT_EQ(code(move(cam1_, name, cam1_, "g")), Errc::not_permitted);
    EXPECT_EQ(code(remove(cam1_, name)), Errc::not_permitted);
    EXPECT_EQ(code(remove(cam1_, name, true)), Errc::not_permitted);
    make(below, name);  // no channel
    EXPECT_EQ(code(move(below, name, cam1_, name)), Errc::not_permitted);
    EXPECT_TRUE(remove(below, name));
    EXPECT_EQ(code(remove(below, name)), Errc::not_found);
  }
}

TEST_F(Names, WhatHadTheNameOfAViewBeforeKeepsIt) {
  make(cam1_, "was there");
  const auto entry = txn_->get(DirentKey{cam1_, "was there"}).value();
  txn_->erase(DirentKey{cam1_, "was there"});
  txn_->erase(NameKey{entry.inode, cam1_, "was there"});
  txn_->put(DirentKey{cam1_, ".reel"}, entry);
  txn_->put(NameKey{entry.inode, cam1_, ".reel"}, NameRow{});
  txn_->put(DirectoryOrderKey{cam1_, entry.cookie}, DirectoryOrderRow{entry.inode, ".reel"});
  txn_->keep();
  EXPECT_EQ(lookup(*txn_, cam1_, ".reel").value().id, entry.inode);
  ASSERT_TRUE(move(cam1_, ".reel", cam1_, "now called so"));
  EXPECT_EQ(code(move(cam1_, "now called so", cam1_, ".reel")), Errc::not_permitted);
}

TEST_F(Names, ListingInPagesMissesAndRepeatsNothingThatStays) {
  for (int i = 0; i < 100; ++i) make(cam1_, fmt::format("{:03}", i));
  Strings seen;
  std::uint64_t after = 0;
  for (;;) {
    const auto page = read_directory(*txn_, cam1_, after, 7).value();
    for (const auto& entry : page.entries) {
      EXPECT_EQ(entry.inode.id, lookup(*txn_, cam1_, entry.name).value().id);
      EXPECT_TRUE(entry.inode.is_regular());
      seen.push_back(entry.name);
      after = entry.cookie;
      // What was listed is renamed, or removed: neither may disturb the listing.
      if (entry.name.size() > 3) continue;
      ASSERT_TRUE(seen.size() % 2 == 0
                      ? code(remove(cam1_, entry.name)) == std::nullopt
                      : code(move(cam1_, entry.name, cam1_, entry.name + "-done")) == std::nullopt);
    }
    if (page.end) break;
    ASSERT_EQ(page.entries.size(), 7U);
  }
  ASSERT_EQ(seen.size(), 100U);
  for (int i = 0; i < 100; ++i) EXPECT_EQ(seen[static_cast<std::size_t>(i)], fmt::format("{:03}", i));
  EXPECT_TRUE(read_directory(*txn_, cam1_, ~0ULL, 7).value().end);
  EXPECT_EQ(code(read_directory(*txn_, InodeId{999}, 0, 7)), Errc::stale_handle);
}

}  // namespace
}  // namespace reelfs::indexd::tree
