#include "indexd/placement/placer.h"

#include <map>
#include <random>
#include <set>

#include <fmt/format.h>
#include <gtest/gtest.h>

namespace reelfs::indexd {
namespace {

NodeLoad node(std::uint32_t id, std::uint64_t free_blocks, std::string rack = "", std::uint32_t workers = 2) {
  NodeLoad load{NodeId{id}, fmt::format("node{}", id), std::move(rack), free_blocks, free_blocks, {}};
  for (std::uint32_t worker = 1; worker <= workers; ++worker) load.workers.push_back({WorkerId{worker}, 0});
  return load;
}

PlacementRequest want(std::uint32_t copies, std::uint32_t grants, std::vector<NodeId> avoid = {}) {
  PlacementRequest request;
  request.copies = copies;
  request.grants = grants;
  request.avoid = std::move(avoid);
  return request;
}

std::set<NodeId> nodes_of(const SegmentPlace& place) {
  std::set<NodeId> nodes;
  for (const auto& copy : place) nodes.insert(copy.node);
  return nodes;
}

TEST(Placer, NeverPutsTwoCopiesOnOneNodeNorUsesOfflineOrFullOnes) {
  std::mt19937_64 random(7);
  for (int round = 0; round < 2000; ++round) {
    SCOPED_TRACE(round);
    std::vector<NodeLoad> nodes;
    const auto count = random() % 8;
    for (std::uint32_t i = 1; i <= count; ++i) {
      nodes.push_back(node(i, random() % 4, fmt::format("rack{}", random() % 3), random() % 3));
    }
    const auto copies = static_cast<std::uint32_t>(1 + random() % 4);
    const auto usable = std::count_if(nodes.begin(), nodes.end(),
                                      [](const auto& n) { return n.online() && n.free_blocks > 0; });
    std::vector<NodeId> avoid;
    if (count > 0) avoid.push_back(NodeId{static_cast<std::uint32_t>(1 + random() % count)});
    Placer placer;
    const auto places = placer.place(nodes, want(copies, 3, avoid));
    EXPECT_EQ(places.has_value(), usable >= copies);
    if (!places) continue;
    ASSERT_GE(places.value().size(), 1u);
    std::map<NodeId, std::uint64_t> taken;
    for (const auto& place : places.value()) {
      EXPECT_EQ(place.size(), copies);
      EXPECT_EQ(nodes_of(place).size(), copies);
      for (const auto& copy : place) {
        const auto& chosen = nodes[copy.node.value - 1];
        EXPECT_TRUE(std::any_of(chosen.workers.begin(), chosen.workers.end(),
                                [&](const auto& worker) { return worker.worker == copy.worker; }));
        EXPECT_LE(++taken[copy.node], chosen.free_blocks);
      }
    }
  }
}

TEST(Placer, PutsCopiesInDifferentRacks) {
  const std::vector nodes{node(1, 100, "a"), node(2, 100, "a"), node(3, 100, "a"), node(4, 10, "b")};
  Placer placer;
  for (int i = 0; i < 50; ++i) {
    const auto places = placer.place(nodes, want(2, 1));
    ASSERT_TRUE(places);
    EXPECT_TRUE(nodes_of(places.value().front()).contains(NodeId{4}));
  }
}

TEST(Placer, UsesOneRackTwiceWhereThereIsNoOther) {
  const std::vector nodes{node(1, 100, "a"), node(2, 100, "a")};
  Placer placer;
  EXPECT_TRUE(placer.place(nodes, want(2, 1)));
}

TEST(Placer, UsesAvoidedNodesOnlyWhereNothingElseIsLeft) {
  const std::vector nodes{node(1, 1000), node(2, 10), node(3, 10)};
  Placer placer;
  for (int i = 0; i < 20; ++i) {
    const auto places = placer.place(nodes, want(2, 1, {NodeId{1}}));
    ASSERT_TRUE(places);
    EXPECT_EQ(nodes_of(places.value().front()), (std::set{NodeId{2}, NodeId{3}}));
  }
  const auto three = placer.place(nodes, want(3, 1, {NodeId{1}}));
  ASSERT_TRUE(three);
  EXPECT_EQ(three.value().front().size(), 3u);
}

TEST(Placer, PutsSparesOnOtherNodes) {
  const std::vector nodes{node(1, 100), node(2, 100), node(3, 100), node(4, 100)};
  Placer placer;
  for (int i = 0; i < 20; ++i) {
    const auto places = placer.place(nodes, want(2, 2));
    ASSERT_TRUE(places);
    ASSERT_EQ(places.value().size(), 2u);
    auto both = nodes_of(places.value()[0]);
    both.merge(nodes_of(places.value()[1]));
    EXPECT_EQ(both.size(), 4u);
  }
}

TEST(Placer, SpreadsInProportionToFreeBlocks) {
  const std::vector nodes{node(1, 300), node(2, 200), node(3, 100)};
  Placer placer;
  std::map<NodeId, int> chosen;
  for (int i = 0; i < 600; ++i) {
    const auto places = placer.place(nodes, want(1, 1));
    ASSERT_TRUE(places);
    ++chosen[places.value().front().front().node];
  }
  EXPECT_NEAR(chosen[NodeId{1}], 300, 6);
  EXPECT_NEAR(chosen[NodeId{2}], 200, 6);
  EXPECT_NEAR(chosen[NodeId{3}], 100, 6);
}

TEST(Placer, FillsNodesEvenlyUntilAllAreFull) {
  std::vector nodes{node(1, 40), node(2, 40), node(3, 40), node(4, 40)};
  Placer placer;
  int segments = 0;
  for (;; ++segments) {
    const auto places = placer.place(nodes, want(2, 1));
    if (!places) {
      EXPECT_EQ(places.error().code(), Errc::no_space);
      break;
    }
    for (const auto& copy : places.value().front()) --nodes[copy.node.value - 1].free_blocks;
    std::uint64_t least = 40, most = 0;
    for (const auto& n : nodes) least = std::min(least, n.free_blocks), most = std::max(most, n.free_blocks);
    EXPECT_LE(most - least, 4u);
  }
  EXPECT_GE(segments, 79);  // of 80 that fit
}

TEST(Placer, PrefersNodesWithShorterQueues) {
  std::vector nodes{node(1, 100), node(2, 100)};
  for (auto& worker : nodes[0].workers) worker.appends_in_flight = 64;
  Placer placer;
  int idle = 0;
  for (int i = 0; i < 100; ++i) {
    idle += placer.place(nodes, want(1, 1)).value().front().front().node == NodeId{2};
  }
  EXPECT_GT(idle, 70);
  EXPECT_LT(idle, 100);
}

TEST(Placer, TakesWorkersInTurnAndTheIdleOneFirst) {
  std::vector nodes{node(1, 100, "", 3)};
  Placer placer;
  std::map<WorkerId, int> chosen;
  for (int i = 0; i < 30; ++i) ++chosen[placer.place(nodes, want(1, 1)).value().front().front().worker];
  for (std::uint32_t worker = 1; worker <= 3; ++worker) EXPECT_EQ(chosen[WorkerId{worker}], 10);
  nodes[0].workers[0].appends_in_flight = 40;
  nodes[0].workers[1].appends_in_flight = 40;
  EXPECT_EQ(placer.place(nodes, want(1, 1)).value().front().front().worker, WorkerId{3});
}

TEST(Placer, TakesASuspectNodeOnlyWhereNothingElseIsLeft) {
  std::vector nodes{node(1, 100), node(2, 1), node(3, 1)};
  nodes[0].suspect = true;
  Placer placer;
  const auto two = placer.place(nodes, want(2, 1));
  ASSERT_TRUE(two);
  for (const auto& copy : two.value().front()) EXPECT_NE(copy.node, NodeId{1});
  const auto three = placer.place(nodes, want(3, 1));
  ASSERT_TRUE(three) << "late is not offline";
}

TEST(Placer, SaysWhichNodesAreMissing) {
  Placer placer;
  const auto none = placer.place({}, want(2, 1));
  ASSERT_FALSE(none);
  EXPECT_EQ(none.error().code(), Errc::unavailable);
  EXPECT_EQ(none.error().message(), "no storage node is online: none has registered yet");
  const std::vector one{node(1, 10), node(2, 10, "", 0)};
  const auto few = placer.place(one, want(2, 1));
  ASSERT_FALSE(few);
  EXPECT_EQ(few.error().code(), Errc::unavailable);
  EXPECT_EQ(few.error().message(),
            "2 copies need as many storage nodes, and 1 of 2 is online; silent: node2");
  const std::vector full{node(1, 10), node(2, 0)};
  const auto space = placer.place(full, want(2, 1));
  ASSERT_FALSE(space);
  EXPECT_EQ(space.error().code(), Errc::no_space);
}

TEST(Placer, TakesFewerCopiesWhereFewerNodesAreGood) {
  const std::vector nodes{node(1, 10), node(2, 10), node(3, 10, "", 0)};
  Placer placer;
  auto request = want(3, 2, {NodeId{1}});
  request.min_copies = 1;
  const auto one = placer.place(nodes, request);
  ASSERT_TRUE(one);
  ASSERT_EQ(one.value().size(), 1u) << "no spare with one copy alone";
  EXPECT_EQ(nodes_of(one.value().front()), std::set{NodeId{2}});
  request.min_copies = 2;
  const auto two = placer.place(nodes, request);
  ASSERT_TRUE(two);
  ASSERT_EQ(two.value().size(), 1u);
  EXPECT_EQ(nodes_of(two.value().front()), (std::set{NodeId{1}, NodeId{2}}))
      << "the suspect one for want of others";
  request.min_copies = 3;
  const auto three = placer.place(nodes, request);
  ASSERT_FALSE(three);
  EXPECT_EQ(three.error().code(), Errc::unavailable);
}

TEST(Placer, SparesLieOnGoodNodesAlone) {
  const std::vector nodes{node(1, 10), node(2, 10), node(3, 10)};
  Placer placer;
  auto request = want(2, 1, {NodeId{1}});
  request.min_copies = 1;
  request.ahead = true;
  const auto spare = placer.place(nodes, request);
  ASSERT_TRUE(spare);
  EXPECT_EQ(nodes_of(spare.value().front()), (std::set{NodeId{2}, NodeId{3}}));
  request.avoid.push_back(NodeId{2});
  const auto none = placer.place(nodes, request);
  ASSERT_FALSE(none);
  EXPECT_EQ(none.error().code(), Errc::unavailable);
  request.copies = 1;
  EXPECT_TRUE(placer.place(nodes, request)) << "one that is asked to be alone";
}

TEST(Placer, AFullNodeIsNoReasonForFewerCopies) {
  const std::vector nodes{node(1, 10), node(2, 0), node(3, 10, "", 0)};
  Placer placer;
  auto request = want(2, 1);
  request.min_copies = 1;
  const auto full = placer.place(nodes, request);
  ASSERT_FALSE(full);
  EXPECT_EQ(full.error().code(), Errc::no_space);
  request.avoid = {NodeId{2}};
  const auto sick = placer.place(nodes, request);
  ASSERT_TRUE(sick);
  EXPECT_EQ(nodes_of(sick.value().front()), std::set{NodeId{1}});
}

TEST(Placer, GivesFewerSparesWhereSpaceRunsOut) {
  const std::vector nodes{node(1, 1), node(2, 1)};
  Placer placer;
  const auto places = placer.place(nodes, want(2, 3));
  ASSERT_TRUE(places);
  EXPECT_EQ(places.value().size(), 1u);
}

}  // namespace
}  // namespace reelfs::indexd
