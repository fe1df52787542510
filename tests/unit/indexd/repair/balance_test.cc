#include "indexd/repair/balance.h"

#include <algorithm>
#include <map>
#include <string>

#include <gtest/gtest.h>

namespace reelfs::indexd {
namespace {

NodeLoad load(std::uint32_t node, std::uint64_t blocks, std::uint64_t used, std::string rack = {}) {
  NodeLoad load;
  load.node = NodeId(node);
  load.name = "node" + std::to_string(node);
  load.rack = std::move(rack);
  load.blocks = blocks;
  load.free_blocks = blocks - used;
  load.workers = {{WorkerId(1), 0}};
  return load;
}

MovableSegment segment(std::uint64_t id, std::vector<std::uint32_t> nodes, std::uint32_t device = 0) {
  MovableSegment segment;
  segment.segment = SegmentId(id);
  segment.length = 4096;
  segment.sealed_ns = static_cast<WallNs>(id);
  for (const auto node : nodes)
    segment.copies.push_back({NodeId(node), WorkerId(1), DeviceId(device != 0 ? device : node), 0});
  return segment;
}

/// A cluster whose copies are moved as planned, until nothing is planned any more.
struct Cluster {
  std::vector<NodeLoad> nodes;
  std::vector<MovableSegment> segments;
  bool active = false;
  int moves = 0;

  NodeLoad& node(NodeId id) {
    return *std::find_if(nodes.begin(), nodes.end(), [&](const NodeLoad& load) { return load.node == id; });
  }
  void carry_out(const CopyMove& move) {
    auto& moved = *std::find_if(segments.begin(), segments.end(),
                                [&](const auto& segment) { return segment.segment == move.segment; });
    ASSERT_TRUE(BalancePlan::is_useful(move, moved, nodes));
    for (auto& copy : moved.copies) {
      ASSERT_NE(copy.node, move.to) << "two copies on one node";
      if (copy.node == move.from) copy.node = move.to;
    }
    ++node(move.from).free_blocks;
    --node(move.to).free_blocks;
    ++moves;
  }
  /// One look and what follows from it. @return whether anything was moved
  bool look(std::size_t most = 16) {
    BalancePlan plan(nodes, active);
    for (const auto& each : segments) plan.offer(each);
    const auto chosen = plan.choose(most);
    for (const auto& move : chosen) {
      const auto at = std::find_if(segments.begin(), segments.end(),
                                   [&](const auto& segment) { return segment.segment == move.segment; });
      if (BalancePlan::is_useful(move, *at, nodes)) carry_out(move);
    }
    active = !chosen.empty();
    return active;
  }
  double level(std::uint32_t number) {
    const auto& load = node(NodeId(number));
    return static_cast<double>(load.blocks - load.free_blocks) / static_cast<double>(load.blocks);
  }
};

TEST(BalancePlan, ANodeThatIsAddedIsFilledUntilAllAreNear) {
  Cluster cluster;
  cluster.nodes = {load(1, 100, 90), load(2, 100, 90), load(3, 100, 0)};
  for (std::uint64_t i = 1; i <= 90; ++i) cluster.segments.push_back(segment(i, {1, 2}));
  while (cluster.look()) ASSERT_LT(cluster.moves, 200) << "it swings";
  for (const auto number : {1u, 2u, 3u}) EXPECT_NEAR(cluster.level(number), 0.6, BalancePlan::kEnd);
  EXPECT_LE(cluster.moves, 60) << "no more than are of use";
}

TEST(BalancePlan, NothingIsMovedUntilTheyAreFarApartAndThenUntilTheyAreNear) {
  const std::vector nodes{load(1, 100, 55), load(2, 100, 48)};
  EXPECT_FALSE(BalancePlan(nodes, false).wanted());
  EXPECT_TRUE(BalancePlan(nodes, true).wanted());
  const std::vector near{load(1, 100, 50), load(2, 100, 48)};
  EXPECT_FALSE(BalancePlan(near, true).wanted());
  const std::vector apart{load(1, 100, 59), load(2, 100, 48)};
  EXPECT_TRUE(BalancePlan(apart, false).wanted());
  EXPECT_EQ(BalancePlan(apart, false).describe(), "node1 is 59 % full, node2 48 %");
}

TEST(BalancePlan, TheFullestGoesFirstToTheEmptiest) {
  const std::vector nodes{load(1, 100, 60), load(2, 100, 80), load(3, 100, 30), load(4, 100, 10)};
  BalancePlan plan(nodes, false);
  plan.offer(segment(1, {1, 2}));
  plan.offer(segment(2, {2, 3}));
  plan.offer(segment(3, {1, 3}));
  const auto chosen = plan.choose(8);
  ASSERT_FALSE(chosen.empty());
  EXPECT_EQ(chosen[0].from, NodeId(2));
  EXPECT_EQ(chosen[0].to, NodeId(4));
  EXPECT_EQ(chosen[0].segment, SegmentId(2)) << "the newest";
  EXPECT_EQ(chosen[1].segment, SegmentId(1));
  ASSERT_EQ(chosen.size(), 3u);
  EXPECT_EQ(chosen[2].from, NodeId(1)) << "node 2 has nothing more to give";
}

TEST(BalancePlan, NoTwoCopiesEndUpOnOneNodeOrInOneRack) {
  const std::vector nodes{load(1, 100, 80, "a"), load(2, 100, 80, "b"), load(3, 100, 0, "b")};
  BalancePlan plan(nodes, false);
  plan.offer(segment(1, {1, 2}));
  auto chosen = plan.choose(8);
  ASSERT_EQ(chosen.size(), 1u);
  EXPECT_EQ(chosen[0].from, NodeId(2)) << "from the rack in which it stays";
  BalancePlan other(nodes, false);
  other.offer(segment(2, {1, 3}));
  EXPECT_TRUE(other.choose(8).empty());
  const CopyMove wrong{SegmentId(1), 4096, NodeId(1), NodeId(3), {}};
  EXPECT_FALSE(BalancePlan::is_useful(wrong, segment(1, {1, 2}), nodes));
}

TEST(BalancePlan, SlowSuspectAndNearlyFullNodesTakeNothing) {
  std::vector nodes{load(1, 100, 80), load(2, 100, 80), load(3, 100, 0)};
  nodes[2].slow = true;
  EXPECT_FALSE(BalancePlan(nodes, false).wanted());
  nodes[2].slow = false;
  nodes[2].suspect = true;
  EXPECT_FALSE(BalancePlan(nodes, false).wanted());
  nodes[2].suspect = false;
  nodes[2].workers.clear();
  EXPECT_FALSE(BalancePlan(nodes, false).wanted()) << "it is offline";
  std::vector small{load(1, 100, 90), load(2, 1, 0)};
  EXPECT_FALSE(BalancePlan(small, false).wanted()) << "its last block is for recorders";
}

TEST(BalancePlan, NodesOfDifferentSizesAreFilledAsFarAsThatGoes) {
  Cluster cluster;
  cluster.nodes = {load(1, 50, 45), load(2, 50, 45), load(3, 1000, 0)};
  for (std::uint64_t i = 1; i <= 45; ++i) cluster.segments.push_back(segment(i, {1, 2}));
  while (cluster.look()) ASSERT_LT(cluster.moves, 200);
  // Each segment has one copy on node 3 then, and nothing more can be moved there.
  EXPECT_EQ(cluster.moves, 45);
  EXPECT_NEAR(cluster.level(1), cluster.level(2), BalancePlan::kEnd);
  EXPECT_FALSE(cluster.look());
}

TEST(BalancePlan, ADeviceThatIsAddedToANodeTakesFromItsOthers) {
  auto full = load(1, 40, 30);
  full.devices = {{DeviceId(1), 30, 0, false}, {DeviceId(2), 10, 10, false}};
  auto other = load(2, 40, 30);
  const std::vector nodes{full, other};
  BalancePlan plan(nodes, false);
  ASSERT_TRUE(plan.wanted());
  for (std::uint64_t i = 1; i <= 30; ++i) plan.offer(segment(i, {1, 2}, 1));
  const auto chosen = plan.choose(100);
  ASSERT_FALSE(chosen.empty());
  for (const auto& move : chosen) {
    EXPECT_EQ(move.from, NodeId(1));
    EXPECT_EQ(move.to, NodeId(1));
    EXPECT_EQ(move.device, DeviceId(2));
  }
  EXPECT_GE(chosen.size(), 6u);
  EXPECT_LE(chosen.size(), 8u) << "then both are as full as the node";
  EXPECT_TRUE(BalancePlan::is_useful(chosen[0], segment(1, {1, 2}, 1), nodes));
  EXPECT_FALSE(BalancePlan::is_useful(chosen[0], segment(1, {1, 2}, 2), nodes)) << "it is there already";
}

}  // namespace
}  // namespace reelfs::indexd
