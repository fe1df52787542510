#include <chrono>

#include "common/wire/rebuild.pb.h"
#include "tests/unit/indexd/service/index_fixture.h"

namespace reelfs::indexd {
namespace {

using namespace std::chrono_literals;

class NodeLogTest : public IndexTest {
 protected:
  NodeLogTest() {
    options.journal_copies = 3;
    options.dead_segment_grace = Duration::zero();
    options.start_grace = Duration::zero();
    start();
  }
  wire::IndexStatusReply status() {
    return call<wire::IndexStatusReply>(wire::Method::index_status, wire::IndexStatusRequest()).value();
  }
  bool is_stored() {
    const auto told = status();
    return !told.log().behind() && told.log().checkpoint_index() > 0;
  }
  std::uint64_t log_segments() { return status().log().segments(); }
  /// @return how long it took
  Duration sync() {
    const auto began = clock.now();
    EXPECT_TRUE(run(context, index->sync()));
    return clock.now() - began;
  }
};

TEST_F(NodeLogTest, WhatWasSyncedIsOnTheNodes) {
  add_node();
  add_node();
  ASSERT_TRUE(eventually([this] { return is_stored(); }));
  const auto session = open_session();
  create(session, 1, kRootInode.value, "a-camera", S_IFDIR | 0755);
  sync();
  const auto told = status();
  EXPECT_FALSE(told.log().behind());
  EXPECT_GE(told.log().stored_index(),
            told.journal_index() - 1);  // what came of the sync itself may be behind it
  for (const auto& node : nodes) {
    bool found = false;
    for (const auto& [segment, bytes] : node->bytes)
      found = found || bytes.find("a-camera") != std::string::npos;
    EXPECT_TRUE(found);
  }
}

TEST_F(NodeLogTest, ANodeThatHangsIsLeftSoon) {
  add_node();
  add_node();
  ASSERT_TRUE(eventually([this] { return is_stored(); }));
  const auto session = open_session();
  nodes[0]->hold_appends = true;
  create(session, 1, kRootInode.value, "a-camera", S_IFDIR | 0755);
  EXPECT_LT(sync(), 700ms);
  const auto told = status();
  EXPECT_FALSE(told.log().behind()) << told.log().why();
  EXPECT_GE(told.log().switches(), 1U);
  nodes[0]->let_appends_go();
}

TEST_F(NodeLogTest, WhereThereIsNoNodeNobodyWaitsForLong) {
  add_node();
  ASSERT_TRUE(eventually([this] { return is_stored(); }));
  const auto session = open_session();
  nodes[0]->go_silent();
  nodes[0]->hold_appends = true;
  create(session, 1, kRootInode.value, "a-camera", S_IFDIR | 0755);
  EXPECT_LT(sync(), 900ms);
  EXPECT_TRUE(status().log().behind());
  EXPECT_FALSE(status().log().why().empty());
  create(session, 2, kRootInode.value, "another", S_IFDIR | 0755);
  EXPECT_LT(sync(), 200ms) << "it is known to be behind";
  const auto written = status().journal_index();
  EXPECT_LT(status().log().stored_index(), written);
  nodes[0]->let_appends_go();
  nodes[0]->register_with(endpoint, cluster);
  EXPECT_TRUE(eventually([&] { return is_stored() && status().log().stored_index() >= written; }))
      << "it catches up";
}

TEST_F(NodeLogTest, WhatIsOlderThanTheCheckpointIsGivenBack) {
  add_node();
  ASSERT_TRUE(eventually([this] { return is_stored(); }));
  const auto before = nodes[0]->blocks;
  restart();
  ASSERT_TRUE(eventually([this] { return is_stored(); }));
  EXPECT_TRUE(eventually([&] {
    return std::none_of(before.begin(), before.end(),
                        [this](const auto& block) { return nodes[0]->blocks.contains(block.first); });
  }));
  EXPECT_EQ(log_segments(), 1U);
}

}  // namespace
}  // namespace reelfs::indexd
