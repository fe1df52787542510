#include <chrono>

#include <gtest/gtest.h>
#include <sys/stat.h>

#include "fuse/cache/absent_capabilities.h"
#include "fuse/cache/cached_versions.h"
#include "fuse/cache/known_acls.h"
#include "fuse/cache/removed_inodes.h"
#include "fuse/cache/stale_pages.h"
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

TEST(StalePages, AreThoseOfFilesThatBothMountsHaveChanged) {
  ManualClock clock;
  StalePages pages(clock);
  EXPECT_FALSE(pages.attributes_set(kFile));
  EXPECT_FALSE(pages.changed_elsewhere(kOther));
  EXPECT_TRUE(pages.attributes_set(kOther)) << "what the kernel has of it is older";
  EXPECT_FALSE(pages.attributes_set(kOther)) << "it has been dropped";
  EXPECT_TRUE(pages.changed_elsewhere(kOther)) << "perhaps before the attributes were set, and told later";
  clock.advance(std::chrono::minutes(1));
  EXPECT_FALSE(pages.changed_elsewhere(kFile));
  EXPECT_TRUE(pages.attributes_set(kFile));
}

TEST(StalePages, AreAllWhereMoreChangedThanCanBeRemembered) {
  ManualClock clock;
  StalePages pages(clock);
  for (std::uint64_t number = 1; number <= 1u << 18; ++number) pages.changed_elsewhere(InodeId{number});
  EXPECT_TRUE(pages.attributes_set(InodeId{1}));
  EXPECT_TRUE(pages.attributes_set(InodeId{1u << 20}));
}

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

client::Attributes told(std::uint64_t version, std::uint32_t flags) {
  client::Attributes attributes;
  attributes.inode = kFile;
  attributes.version = version;
  attributes.flags = flags;
  return attributes;
}

TEST(KnownAcls, AListThatAttributesDoNotTellOfIsAbsentForAWhile) {
  ManualClock clock;
  KnownAcls acls(clock);
  EXPECT_EQ(acls.has(kFile, "system.posix_acl_access"), std::nullopt) << "nothing is known";
  acls.note(told(1, client::kHasDefaultAcl));
  EXPECT_EQ(acls.has(kFile, "system.posix_acl_access"), false);
  EXPECT_EQ(acls.has(kFile, "system.posix_acl_default"), true);
  EXPECT_EQ(acls.has(kFile, "user.a"), std::nullopt);
  clock.advance(std::chrono::milliseconds(101));
  EXPECT_EQ(acls.has(kFile, "system.posix_acl_access"), std::nullopt) << "another mount may have set one";
}

TEST(KnownAcls, UnderALeaseAnAbsenceIsBelievedAsLongAsTheAttributes) {
  ManualClock clock;
  KnownAcls acls(clock);
  auto leased = told(1, 0);
  leased.lease = std::chrono::seconds(10);
  acls.note(leased);
  acls.note(told(1, 0));
  clock.advance(std::chrono::seconds(9));
  EXPECT_EQ(acls.has(kFile, "system.posix_acl_access"), false);
  clock.advance(std::chrono::seconds(2));
  EXPECT_EQ(acls.has(kFile, "system.posix_acl_access"), std::nullopt);
  acls.note(leased);
  acls.clear();
  EXPECT_EQ(acls.has(kFile, "system.posix_acl_access"), std::nullopt);
}

TEST(KnownAcls, AnOlderVersionIsNoNews) {
  ManualClock clock;
  KnownAcls acls(clock);
  acls.note(told(2, client::kHasAccessAcl));
  acls.note(told(1, 0));
  EXPECT_EQ(acls.has(kFile, "system.posix_acl_access"), true);
  acls.note(told(3, 0));
  EXPECT_EQ(acls.has(kFile, "system.posix_acl_access"), false);
  acls.forget(kFile);
  EXPECT_EQ(acls.has(kFile, "system.posix_acl_access"), std::nullopt);
}

TEST(NodeIds, NodeOneIsWhateverIsMounted) {
  NodeIds nodes;
  EXPECT_EQ(nodes.inode(FUSE_ROOT_ID), kRootInode);
  nodes.set_root(kFile);
  EXPECT_EQ(nodes.inode(FUSE_ROOT_ID), kFile);
  EXPECT_EQ(nodes.node(kFile), fuse_ino_t{FUSE_ROOT_ID});
  EXPECT_EQ(nodes.inode(nodes.node(kOther)), kOther);
}

TEST(RemovedInodes, AreThereUntilTheyAreForgotten) {
  RemovedInodes removed;
  EXPECT_FALSE(removed.contains(kFile));
  removed.note(kFile);
  EXPECT_TRUE(removed.contains(kFile));
  EXPECT_FALSE(removed.contains(kOther));
  removed.forget(kFile);
  EXPECT_FALSE(removed.contains(kFile));
}

TEST(RemovedInodes, TheKernelIsAskedOnceOfThoseThatItDoesNotSayItHasForgotten) {
  RemovedInodes removed;
  removed.note(kFile);
  removed.note(kOther);
  removed.note(kOther);
  removed.forget(kFile);
  EXPECT_EQ(removed.take_unasked(), std::vector{kOther});
  EXPECT_TRUE(removed.take_unasked().empty());
  EXPECT_TRUE(removed.contains(kOther));
}

}  // namespace
}  // namespace reelfs::fuse
