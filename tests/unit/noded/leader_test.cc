#include "noded/leader/leader.h"

#include <gtest/gtest.h>

#include "tests/unit/noded/node_fixture.h"

namespace reelfs::noded {
namespace {

constexpr InodeId kChannel{2};

/// Attaches what the leader has.
void follow(TestNode& follower, TestNode& leader) {
  Leader::Joining joining;
  joining.worker = follower.state.identity.worker;
  joining.process = follower.state.identity.process;
  joining.first = !follower.state.attached();
  const auto areas = leader.run(leader.leader.join(joining));
  ASSERT_TRUE(areas);
  ASSERT_TRUE(attach_areas(follower.state, areas.value()));
}

TEST(Leader, ASuccessorSharesTheDeviceThatOnlyAnotherFollowerHasAttached) {
  NodeFiles files;
  files.add_device("dev1", 64 * kMiB);
  auto first = std::make_unique<TestNode>(files, 1);
  TestNode second(files, 2);
  TestNode third(files, 3);
  ASSERT_TRUE(first->lead());
  follow(second, *first);
  follow(third, *first);
  ASSERT_TRUE(first->initialise());
  follow(third, *first);
  first.reset();
  ASSERT_TRUE(second.lead());
  const auto here = second.run(second.store.allocate(SegmentId(1), Generation(1), kChannel));
  const auto there = third.run(third.store.allocate(SegmentId(2), Generation(1), kChannel));
  ASSERT_TRUE(here);
  ASSERT_TRUE(there);
  EXPECT_NE(here.value(), there.value()) << "one block for two segments";
  EXPECT_TRUE(second.store.find(SegmentId(2)));
}

}  // namespace
}  // namespace reelfs::noded
