#include "fuse/ops/convert.h"

#include <limits>

#include <gtest/gtest.h>
#include <sys/stat.h>

namespace reelfs::fuse {
namespace {

TEST(Convert, TimesBefore1970KeepTheirNanoseconds) {
  client::Attributes attributes;
  attributes.atime_ns = -1;
  attributes.mtime_ns = -1'500'000'000;
  attributes.ctime_ns = 1'234'567'890'123'456'789;
  const auto stat = to_stat(attributes);
  EXPECT_EQ(stat.st_atim.tv_sec, -1);
  EXPECT_EQ(stat.st_atim.tv_nsec, 999'999'999);
  EXPECT_EQ(stat.st_mtim.tv_sec, -2);
  EXPECT_EQ(stat.st_mtim.tv_nsec, 500'000'000);
  EXPECT_EQ(stat.st_ctim.tv_sec, 1'234'567'890);
  EXPECT_EQ(stat.st_ctim.tv_nsec, 123'456'789);
}

TEST(Convert, ATimeSurvivesTheWayThereAndBack) {
  for (const std::int64_t ns :
       {std::int64_t{0}, std::int64_t{-1}, std::int64_t{-2'000'000'001}, std::int64_t{7'000'000'003}}) {
    client::Attributes attributes;
    attributes.mtime_ns = ns;
    EXPECT_EQ(to_changes(to_stat(attributes), FUSE_SET_ATTR_MTIME).mtime_ns, ns);
  }
}

TEST(Convert, TimesThatCannotBeCountedAreTheFirstOrTheLastThatCan) {
  struct stat wanted {};
  wanted.st_mtim.tv_sec = std::numeric_limits<std::int64_t>::max() / 2;
  EXPECT_EQ(to_changes(wanted, FUSE_SET_ATTR_MTIME).mtime_ns, std::numeric_limits<std::int64_t>::max());
  wanted.st_mtim.tv_sec = 9'300'000'000;  // 2264
  EXPECT_EQ(to_changes(wanted, FUSE_SET_ATTR_MTIME).mtime_ns, std::numeric_limits<std::int64_t>::max());
  wanted.st_mtim.tv_sec = -62'135'596'800;  // the year 1
  EXPECT_EQ(to_changes(wanted, FUSE_SET_ATTR_MTIME).mtime_ns, std::numeric_limits<std::int64_t>::min());
  wanted.st_mtim.tv_sec = 7'956'915'742;  // 2222
  EXPECT_EQ(to_changes(wanted, FUSE_SET_ATTR_MTIME).mtime_ns, 7'956'915'742'000'000'000);
}

TEST(Convert, BlocksCountWhatIsStoredAndNotTheHoles) {
  client::Attributes attributes;
  attributes.size = 1u << 30;
  attributes.stored_bytes = 513;
  EXPECT_EQ(to_stat(attributes).st_size, 1 << 30);
  EXPECT_EQ(to_stat(attributes).st_blocks, 2);
}

TEST(Convert, OnlyWhatTheCallerSetsIsChanged) {
  struct stat wanted {};
  wanted.st_mode = S_IFREG | 0640;
  wanted.st_size = 5;
  wanted.st_uid = 7;
  const auto changes = to_changes(wanted, FUSE_SET_ATTR_MODE | FUSE_SET_ATTR_SIZE);
  EXPECT_EQ(changes.mode, 0640u);
  EXPECT_EQ(changes.size, 5u);
  EXPECT_FALSE(changes.uid);
  EXPECT_FALSE(changes.mtime_ns);
  EXPECT_FALSE(changes.clear_suid);
}

TEST(Convert, NowIsTheIndexsAndNotOurs) {
  struct stat wanted {};
  const auto changes = to_changes(
      wanted, FUSE_SET_ATTR_ATIME | FUSE_SET_ATTR_ATIME_NOW | FUSE_SET_ATTR_MTIME | FUSE_SET_ATTR_MTIME_NOW);
  EXPECT_TRUE(changes.atime_now && changes.mtime_now);
  EXPECT_FALSE(changes.atime_ns || changes.mtime_ns);
}

TEST(Convert, TheKernelBelievesWhatIsLeasedAndNoLonger) {
  client::Attributes attributes;
  EXPECT_EQ(to_entry({}, attributes).attr_timeout, 0);
  EXPECT_EQ(to_entry({}, attributes).entry_timeout, 0);
  attributes.lease = std::chrono::milliseconds(1500);
  EXPECT_EQ(to_entry({}, attributes, std::chrono::milliseconds(250)).attr_timeout, 1.5);
  EXPECT_EQ(to_entry({}, attributes, std::chrono::milliseconds(250)).entry_timeout, 0.25);
}

TEST(Convert, TheMountedRootIsNodeOne) {
  NodeIds nodes;
  client::Attributes attributes;
  attributes.inode = InodeId(99);
  attributes.generation = 3;
  EXPECT_EQ(to_entry(nodes, attributes).ino, 99u);
  EXPECT_EQ(to_entry(nodes, attributes).generation, 3u);
  nodes.set_root(InodeId(99));
  EXPECT_EQ(to_entry(nodes, attributes).ino, fuse_ino_t{FUSE_ROOT_ID});
  EXPECT_EQ(to_entry(nodes, attributes).attr.st_ino, 99u);  // programs see one number, whatever is mounted
}

}  // namespace
}  // namespace reelfs::fuse
