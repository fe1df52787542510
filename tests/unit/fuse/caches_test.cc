#include <chrono>

#include <gtest/gtest.h>

#include "fuse/cache/absent_capabilities.h"
#include "fuse/cache/cached_versions.h"
#include "fuse/inodes/node_ids.h"

namespace reelfs::fuse {
namespace {

class ManualClock final : public Clock {
 public:
  TimePoint now() const override { return now_; }
  WallTime wall() const override { return WallTime{} + now_.time_since_epoch(); }
  void advance(Duration by) { now_ += by; }

 private:
  TimePoint now_{};
};

constexpr InodeId kFile{42};
constexpr InodeId kOther{43};

TEST(CachedVersions, PagesAreKeptOnlyWhereNothingChangedSinceTheLastOpen) {
  CachedVersions versions;
  EXPECT_FALSE(versions.keep(kFile, 5));  // never opened: what pages there are came from elsewhere
  EXPECT_TRUE(versions.keep(kFile, 5));
  EXPECT_FALSE(versions.keep(kFile, 6));
  EXPECT_TRUE(versions.keep(kFile, 6));
  EXPECT_FALSE(versions.keep(kOther, 6));
}

TEST(CachedVersions, AnOlderVersionIsAChangeToo) {
  CachedVersions versions;
  versions.keep(kFile, 9);
  EXPECT_FALSE(versions.keep(kFile, 8));
}

using Known = AbsentCapabilities::Known;

TEST(AbsentCapabilities, AnAbsenceIsBelievedForASecondThenAskedForInTheBackground) {
  ManualClock clock;
  AbsentCapabilities absent(clock);
  EXPECT_EQ(absent.look_up(kFile), Known::no);
  absent.insert(kFile, absent.changes());
  EXPECT_EQ(absent.look_up(kFile), Known::yes);
  EXPECT_EQ(absent.look_up(kOther), Known::no);
  clock.advance(std::chrono::seconds(1));
  EXPECT_EQ(absent.look_up(kFile), Known::ask_again);
  EXPECT_EQ(absent.look_up(kFile), Known::yes) << "one question at a time";
  clock.advance(std::chrono::seconds(1));
  EXPECT_EQ(absent.look_up(kFile), Known::ask_again) << "nobody has answered the first";
}

TEST(AbsentCapabilities, OneThatWasSetIsSeenAtOnce) {
  ManualClock clock;
  AbsentCapabilities absent(clock);
  absent.insert(kFile, absent.changes());
  absent.forget(kFile);
  EXPECT_EQ(absent.look_up(kFile), Known::no);
}

TEST(AbsentCapabilities, AnAnswerFromBeforeTheChangeIsNotBelieved) {
  ManualClock clock;
  AbsentCapabilities absent(clock);
  const auto asked = absent.changes();
  absent.forget(kFile);
  absent.insert(kFile, asked);
  EXPECT_EQ(absent.look_up(kFile), Known::no);
}

TEST(NodeIds, NodeOneIsWhateverIsMounted) {
  NodeIds nodes;
  EXPECT_EQ(nodes.inode(FUSE_ROOT_ID), kRootInode);
  nodes.set_root(kFile);
  EXPECT_EQ(nodes.inode(FUSE_ROOT_ID), kFile);
  EXPECT_EQ(nodes.node(kFile), fuse_ino_t{FUSE_ROOT_ID});
  EXPECT_EQ(nodes.inode(nodes.node(kOther)), kOther);
}

}  // namespace
}  // namespace reelfs::fuse
