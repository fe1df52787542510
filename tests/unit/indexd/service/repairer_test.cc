#include "indexd/service/repairer.h"

#include <algorithm>

#include <gtest/gtest.h>
#include <sys/stat.h>

#include "tests/unit/indexd/service/index_fixture.h"

namespace reelfs::indexd {
namespace {

constexpr std::uint64_t kRoot = 1;
constexpr std::uint64_t kBytes = 8192;

/// Three nodes, two copies, and a segment that is sealed.
class RepairerTest : public IndexTest {
 protected:
  void SetUp() override {
    options.repair_interval = std::chrono::milliseconds(20);
    options.repair_delay = Duration::zero();
    start();
    session = open_session();
    channel = create(session, ++request, kRoot, "cam1", S_IFDIR | 0755);
    for (int i = 0; i < 3; ++i) add_node();
  }
  /// @return what has it
  std::uint64_t seal_one() {
    const auto grant = open_segment(session, channel).value().grants(0);
    append(grant.segment(), kBytes);
    const auto name = "f" + std::to_string(++request);
    const auto file = create(session, request, channel, name);
    EXPECT_TRUE(commit(session, ++request, file, grant.segment(), 1000));
    EXPECT_TRUE(close_segment(session, grant, kBytes, true));
    EXPECT_TRUE(eventually([&] { return state_of(grant.segment()) == wire::SEGMENT_SEALED; }));
    return grant.segment();
  }
  wire::SegmentState state_of(std::uint64_t segment) { return show(segment).value().segment().state(); }
  FakeNode& node_of(std::uint32_t number) {
    return **std::find_if(nodes.begin(), nodes.end(), [&](auto& node) { return node->node() == number; });
  }
  std::set<std::uint32_t> copies_of(std::uint64_t segment) {
    std::set<std::uint32_t> on;
    const auto shown = show(segment);
    for (const auto& copy : shown.value().segment().copies()) on.insert(copy.node());
    return on;
  }
  FakeNode& the_other(std::uint64_t segment) {
    const auto on = copies_of(segment);
    return **std::find_if(nodes.begin(), nodes.end(), [&](auto& node) { return !on.contains(node->node()); });
  }
  wire::RepairStatus repair_status() {
    return call<wire::RepairStatusReply>(Method::repair_status, wire::RepairStatusRequest()).value().status();
  }
  std::uint64_t session = 0, request = 0, channel = 0;
};

TEST_F(RepairerTest, MakesTheCopyOfALostNodeOnAnother) {
  const auto segment = seal_one();
  auto& spare = the_other(segment);
  const auto lost = *copies_of(segment).begin();
  node_of(lost).go_silent();
  ASSERT_TRUE(eventually([&] { return copies_of(segment).contains(spare.node()); }));
  EXPECT_EQ(copies_of(segment).size(), 2u);
  EXPECT_FALSE(copies_of(segment).contains(lost));
  EXPECT_TRUE(spare.blocks[segment].sealed);
  EXPECT_EQ(spare.blocks[segment].length, kBytes);
  ASSERT_TRUE(eventually([&] { return repair_status().at_risk().empty(); }));
  EXPECT_EQ(repair_status().copies_made(), 1u);
  // When it comes back, it is told to free what it had.
  node_of(lost).register_with(endpoint, cluster);
  EXPECT_EQ(node_of(lost).report(), (std::set<std::uint64_t>{segment}));
  EXPECT_TRUE(spare.report().empty());
}

TEST_F(RepairerTest, WaitsForANodeThatMayComeBackUnlessItIsToldNotTo) {
  options.repair_delay = kPatience;
  restart();
  session = open_session();
  const auto segment = seal_one();
  const auto lost = *copies_of(segment).begin();
  node_of(lost).go_silent();
  ASSERT_TRUE(eventually([&] { return !repair_status().at_risk().empty(); }));
  EXPECT_EQ(repair_status().at_risk(0).copies(), 1u);
  EXPECT_EQ(repair_status().at_risk(0).bytes(), kBytes);
  EXPECT_NE(repair_status().waits_for().find("to come back"), std::string::npos);
  EXPECT_TRUE(copies_of(segment).contains(lost));
  ASSERT_TRUE(call<wire::RepairStatusReply>(Method::repair_now, wire::RepairNowRequest()));
  EXPECT_TRUE(eventually([&] { return !copies_of(segment).contains(lost); }));
}

TEST_F(RepairerTest, WhatIsUnfilledIsSealedFirst) {
  const auto grant = open_segment(session, channel).value().grants(0);
  append(grant.segment(), kBytes);
  const auto file = create(session, ++request, channel, "f");
  ASSERT_TRUE(commit(session, ++request, file, grant.segment(), 1000));
  ASSERT_TRUE(close_segment(session, grant, kBytes));
  ASSERT_EQ(state_of(grant.segment()), wire::SEGMENT_UNFILLED);
  const auto lost = *copies_of(grant.segment()).begin();
  node_of(lost).go_silent();
  EXPECT_TRUE(eventually([&] { return !copies_of(grant.segment()).contains(lost); }));
  EXPECT_EQ(state_of(grant.segment()), wire::SEGMENT_SEALED);
}

TEST_F(RepairerTest, ADrainedNodeIsEmptiedAndRemovedAndStaysSo) {
  const auto segment = seal_one();
  const auto drained = *copies_of(segment).begin();
  wire::RemoveNodeRequest remove;
  remove.set_node(std::to_string(drained));
  EXPECT_EQ(call<wire::RemoveNodeReply>(Method::remove_node, remove).error().code(), Errc::not_permitted);
  remove.set_lost(true);
  EXPECT_EQ(call<wire::RemoveNodeReply>(Method::remove_node, remove).error().code(), Errc::not_permitted)
      << "it is online";
  wire::DrainNodeRequest drain;
  drain.set_node(std::to_string(drained));
  const auto reply = call<wire::DrainNodeReply>(Method::drain_node, drain);
  ASSERT_TRUE(reply) << reply.error().describe();
  EXPECT_TRUE(reply.value().node().leaving());
  ASSERT_TRUE(eventually([&] { return !copies_of(segment).contains(drained); }));
  EXPECT_TRUE(eventually([&] { return node_of(drained).blocks.empty(); })) << "its block is given back";
  restart();
  session = open_session();
  ASSERT_TRUE(open_segment(session, channel)) << "on the two that are left";
  EXPECT_TRUE(node_of(drained).blocks.empty());
  remove.set_lost(false);
  ASSERT_TRUE(call<wire::RemoveNodeReply>(Method::remove_node, remove));
  const auto listed = call<wire::ListNodesReply>(Method::list_nodes, wire::ListNodesRequest());
  EXPECT_EQ(listed.value().nodes_size(), 2);
}

TEST_F(RepairerTest, ACopyThatIsBeingMadeIsNotGivenBack) {
  const auto segment = seal_one();
  auto& spare = the_other(segment);
  spare.hold_copies = true;
  const auto lost = *copies_of(segment).begin();
  node_of(lost).go_silent();
  ASSERT_TRUE(eventually([&] { return spare.blocks.contains(segment); }));
  EXPECT_TRUE(spare.report().empty());
  spare.let_copies_go();
  EXPECT_TRUE(eventually([&] { return copies_of(segment).contains(spare.node()); }));
}

TEST_F(RepairerTest, WithoutAPlaceItSaysSo) {
  const auto segment = seal_one();
  the_other(segment).go_silent();
  ASSERT_TRUE(eventually([&] { return repair_status().at_risk().empty(); }));
  node_of(*copies_of(segment).begin()).go_silent();
  EXPECT_TRUE(eventually([&] {
    const auto status = repair_status();
    return !status.at_risk().empty() && status.waits_for().find("with room") != std::string::npos;
  }));
  EXPECT_EQ(copies_of(segment).size(), 2u) << "no copy is given up";
}

}  // namespace
}  // namespace reelfs::indexd
