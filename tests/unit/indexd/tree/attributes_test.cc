#include "indexd/tree/attributes.h"

#include <linux/xattr.h>

#include "tests/unit/indexd/tree/tree_test.h"

namespace reelfs::indexd::tree {
namespace {

class AttributesTest : public TreeTest {
 protected:
  Result<void> put_xattr(InodeId inode, const std::string& name, const std::string& value,
                         std::uint32_t flags = 0) {
    return run([&] {
      return set_xattr(*txn_,
                       {.inode = inode, .name = name, .value = value, .flags = flags, .who = "uid 0 on host"},
                       now_);
    });
  }
};

TEST_F(AttributesTest, ChmodKeepsTheTypeAndChangesCtimeAlone) {
  const auto file = make(cam1_, "f", S_IFREG | 0644);
  const auto before = row(file);
  SetAttributesParams params;
  params.inode = file;
  params.mode = S_IFDIR | 06711;
  const auto after = set(params).value().inode.row;
  EXPECT_EQ(after.mode, S_IFREG | 06711U);
  EXPECT_EQ(after.ctime_ns, now_);
  EXPECT_EQ(after.mtime_ns, before.mtime_ns);
  EXPECT_GT(after.version, before.version);
  EXPECT_EQ(row(file), after);
}

TEST_F(AttributesTest, ChownDropsSetuidOfFilesOnly) {
  const auto file = make(cam1_, "f", S_IFREG | 06775);
  const auto directory = make(cam1_, "d", S_IFDIR | 02775);
  SetAttributesParams params;
  params.inode = file;
  params.uid = 9;
  EXPECT_EQ(set(params).value().inode.row.mode, S_IFREG | 0775U);
  EXPECT_EQ(row(file).uid, 9U);
  EXPECT_EQ(row(file).gid, 0U);
  params.inode = directory;
  EXPECT_EQ(set(params).value().inode.row.mode, S_IFDIR | 02775U);
  // Mandatory locking's mark, setgid without group execution, stays.
  params.inode = make(cam1_, "g", S_IFREG | 06644);
  EXPECT_EQ(set(params).value().inode.row.mode, S_IFREG | 02644U);
}

TEST_F(AttributesTest, Times) {
  const auto file = make(cam1_, "f");
  SetAttributesParams params;
  params.inode = file;
  params.atime_ns = -5;
  params.mtime_ns = 123'456'789'012'345'678;
  auto after = set(params).value().inode.row;
  EXPECT_EQ(after.atime_ns, -5);
  EXPECT_EQ(after.mtime_ns, 123'456'789'012'345'678);
  EXPECT_EQ(after.ctime_ns, now_);
  params.atime_now = true;
  params.ctime_ns = 42;
  after = set(params).value().inode.row;
  EXPECT_EQ(after.atime_ns, now_);
  EXPECT_EQ(after.ctime_ns, 42);
}

TEST_F(AttributesTest, AReadSetsTheAtimeAndNothingElse) {
  const auto file = make(cam1_, "f");
  const auto before = row(file);
  const auto read_at = [&](WallNs when) {
    const FileRead read{file, when};
    return run([&] { return note_reads(*txn_, {&read, 1}); });
  };
  ASSERT_TRUE(read_at(before.ctime_ns - 1));
  EXPECT_EQ(row(file), before) << "it has changed since";
  ASSERT_TRUE(read_at(now_ + 100));
  auto expected = before;
  expected.atime_ns = now_ + 99;  // run() has moved the clock on
  EXPECT_EQ(row(file), expected) << "nor its version: what is cached of it stays";
  ASSERT_TRUE(read_at(expected.atime_ns - 1));
  EXPECT_EQ(row(file), expected) << "no news";
  const FileRead gone{InodeId{999}, now_};
  EXPECT_TRUE(run([&] { return note_reads(*txn_, {&gone, 1}); }));
}

TEST_F(AttributesTest, TruncateCutsExtentsAndGrowingMakesAHole) {
  const auto file = make(cam1_, "f");
  make_segment(1, SegmentState::sealed, 1 << 20);
  ASSERT_TRUE(put(file, {extent(0, 1000, 1, 0), extent(1000, 1000, 1, 4096)}));
  SetAttributesParams params;
  params.inode = file;
  params.size = 300;
  auto changed = set(params).value();
  EXPECT_EQ(changed.inode.row.size, 300U);
  EXPECT_EQ(changed.inode.row.stored_bytes, 300U);
  EXPECT_EQ(changed.inode.row.mtime_ns, now_);
  EXPECT_TRUE(changed.emptied.empty());
  EXPECT_EQ(extents_of(file), std::vector<Extent>{extent(0, 300, 1, 0)});
  EXPECT_EQ(segment(1).live_bytes, 300U);
  params.size = 5000;
  EXPECT_EQ(set(params).value().inode.row.size, 5000U);
  EXPECT_EQ(extents_of(file).size(), 1U);
  params.size = 0;
  changed = set(params).value();
  EXPECT_EQ(changed.emptied, std::vector<SegmentId>{SegmentId{1}});
  EXPECT_EQ(channel(cam1_).live_bytes, 0U);
  params.size = kMaxFileSize + 1;
  EXPECT_EQ(code(set(params)), Errc::file_too_big);
  params.inode = cam1_;
  EXPECT_EQ(code(set(params)), Errc::is_directory);
  params.inode = make(cam1_, "l", S_IFLNK | 0777);
  EXPECT_EQ(code(set(params)), Errc::invalid);
  params.inode = InodeId{999};
  EXPECT_EQ(code(set(params)), Errc::stale_handle);
}

TEST_F(AttributesTest, ExtendedAttributes) {
  const auto file = make(cam1_, "f");
  ASSERT_TRUE(put_xattr(file, "user.reel.hold", "yes"));
  EXPECT_EQ(row(file).ctime_ns, now_);
  ASSERT_TRUE(put_xattr(file, "trusted.a", ""));
  EXPECT_EQ(get_xattr(*txn_, file, "user.reel.hold").value(), "yes");
  EXPECT_EQ(list_xattr(*txn_, file).value(), (std::vector<std::string>{"trusted.a", "user.reel.hold"}));
  EXPECT_EQ(code(put_xattr(file, "user.reel.hold", "no", XATTR_CREATE)), Errc::exists);
  ASSERT_TRUE(put_xattr(file, "user.reel.hold", "no", XATTR_REPLACE));
  EXPECT_EQ(get_xattr(*txn_, file, "user.reel.hold").value(), "no");
  EXPECT_EQ(code(put_xattr(file, "user.new", "", XATTR_REPLACE)), Errc::no_attribute);
  EXPECT_EQ(code(put_xattr(file, "user.new", "", XATTR_CREATE | XATTR_REPLACE)), Errc::no_attribute);
  EXPECT_EQ(code(put_xattr(file, "user.reel.hold", "", XATTR_CREATE | XATTR_REPLACE)), Errc::exists);
  EXPECT_EQ(code(get_xattr(*txn_, file, "user.new")), Errc::no_attribute);
  EXPECT_EQ(code(get_xattr(*txn_, InodeId{999}, "user.new")), Errc::stale_handle);
  ASSERT_TRUE(run([&] { return remove_xattr(*txn_, file, "trusted.a", now_); }));
  EXPECT_EQ(code(run([&] { return remove_xattr(*txn_, file, "trusted.a", now_); })), Errc::no_attribute);
}

TEST_F(AttributesTest, LimitsOfExtendedAttributes) {
  const auto file = make(cam1_, "f");
  EXPECT_EQ(code(put_xattr(file, "system.other", "x")), Errc::unsupported);
  EXPECT_EQ(code(get_xattr(*txn_, file, "system.other")), Errc::unsupported);
  EXPECT_EQ(code(put_xattr(file, "plain", "x")), Errc::unsupported);
  EXPECT_EQ(code(put_xattr(file, "user.", "x")), Errc::invalid);
  EXPECT_EQ(code(put_xattr(file, "user." + std::string(251, 'x'), "x")), Errc::out_of_range);
  EXPECT_EQ(code(put_xattr(file, "user.v", std::string(65537, 'x'))), Errc::too_big);
  ASSERT_TRUE(put_xattr(file, "user.v", std::string(65536, 'x')));
  EXPECT_EQ(code(put_xattr(file, "user.f", "x", 4)), Errc::invalid);
  Result<void> last = ok();
  int kept = 0;
  while (last) last = put_xattr(file, fmt::format("user.{:0250}", kept++), "");
  EXPECT_EQ(code(last), Errc::no_space);
  EXPECT_EQ(kept, 256);
  ASSERT_TRUE(remove(cam1_, "f"));
  ASSERT_TRUE(reap_orphan(*txn_, file, 1).value().done);
  EXPECT_FALSE(txn_->has(XattrKey{file, "user.v"}).value());
}

}  // namespace
}  // namespace reelfs::indexd::tree
