#include "common/mounts/mounts.h"

#include <gtest/gtest.h>

namespace reelfs {
namespace {

TEST(Mountinfo, ReadsPointTypeAndSource) {
  const auto all = parse_mountinfo(
      "22 27 0:21 / /proc rw,relatime - proc proc rw\n"
      "90 27 0:60 / /mnt/reel rw,nosuid shared:5 master:2 - fuse.reelfs reelfs rw,user_id=0\n");
  ASSERT_EQ(all.size(), 2u);
  EXPECT_EQ(all[1].point, "/mnt/reel");
  EXPECT_EQ(all[1].type, "fuse.reelfs");
  EXPECT_EQ(all[1].source, "reelfs");
}

TEST(Mountinfo, UnderstandsSpacesInPaths) {
  const auto all = parse_mountinfo("90 27 0:60 / /mnt/two\\040words\\134 rw - fuse.reelfs reelfs rw\n");
  ASSERT_EQ(all.size(), 1u);
  EXPECT_EQ(all[0].point, "/mnt/two words\\");
}

TEST(Mountinfo, LeavesOutMalformedLines) {
  EXPECT_TRUE(
      parse_mountinfo("\n90 27\n90 27 0:60 / /mnt rw shared:1\n90 27 0:60 / /mnt rw - fuse\n").empty());
}

TEST(Mounts, FindsTheTopmostAtAPath) {
  EXPECT_TRUE(mounted_at("/proc").has_value());
  EXPECT_FALSE(mounted_at("/proc/self").has_value());
  EXPECT_FALSE(mounted_below("/proc").empty());
  EXPECT_TRUE(mounted_below("/pro").empty());
}

}  // namespace
}  // namespace reelfs
