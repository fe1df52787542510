#include "indexd/repair/plan.h"

#include <algorithm>
#include <string>

#include <gtest/gtest.h>

namespace reelfs::indexd {
namespace {

using Kind = RepairStep::Kind;

SegmentStanding standing(std::vector<CopyStanding> copies, SegmentState state = SegmentState::sealed) {
  SegmentStanding segment;
  segment.segment = SegmentId(1);
  segment.state = state;
  segment.length = 4096;
  segment.wanted = 2;
  std::uint32_t node = 0;
  for (const auto copy : copies) segment.copies.push_back({NodeId(++node), copy});
  return segment;
}

NodeLoad load(std::uint32_t node, std::uint64_t free_blocks, std::string rack = {}) {
  NodeLoad load;
  load.node = NodeId(node);
  load.rack = std::move(rack);
  load.blocks = 100;
  load.free_blocks = free_blocks;
  load.workers = {{WorkerId(1), 5}, {WorkerId(2), 2}};
  return load;
}

TEST(RepairPlan, ReplacesWhatIsLostAndWaitsForWhatMayComeBack) {
  const auto lost = RepairPlan::next_step(standing({CopyStanding::whole, CopyStanding::lost}));
  EXPECT_EQ(lost.kind, Kind::add);
  EXPECT_EQ(lost.instead_of, NodeId(2));
  EXPECT_EQ(RepairPlan::next_step(standing({CopyStanding::whole, CopyStanding::away})).kind, Kind::none);
  EXPECT_EQ(RepairPlan::next_step(standing({CopyStanding::whole, CopyStanding::whole})).kind, Kind::none);
}

TEST(RepairPlan, CanDoNothingWithoutACopyWithinReach) {
  EXPECT_EQ(RepairPlan::next_step(standing({CopyStanding::lost, CopyStanding::lost})).kind, Kind::none);
  EXPECT_EQ(RepairPlan::next_step(standing({CopyStanding::lost, CopyStanding::away})).kind, Kind::none);
}

TEST(RepairPlan, WhatIsLostComesBeforeWhatIsLeaving) {
  const auto step = RepairPlan::next_step(standing({CopyStanding::leaving, CopyStanding::lost}));
  EXPECT_EQ(step.instead_of, NodeId(2));
  const auto next = RepairPlan::next_step(standing({CopyStanding::leaving, CopyStanding::whole}));
  EXPECT_EQ(next.kind, Kind::add);
  EXPECT_EQ(next.instead_of, NodeId(1));
}

TEST(RepairPlan, AddsToOneThatHasFewerThanWanted) {
  const auto step = RepairPlan::next_step(standing({CopyStanding::whole}));
  EXPECT_EQ(step.kind, Kind::add);
  EXPECT_FALSE(step.instead_of);
}

TEST(RepairPlan, FinishesWhatIsNotSealed) {
  const std::vector<CopyStanding> one_lost{CopyStanding::whole, CopyStanding::lost};
  EXPECT_EQ(RepairPlan::next_step(standing(one_lost, SegmentState::unfilled)).kind, Kind::finish);
  EXPECT_EQ(RepairPlan::next_step(standing(one_lost, SegmentState::open)).kind, Kind::finish);
  EXPECT_EQ(RepairPlan::next_step(standing(one_lost, SegmentState::freeing)).kind, Kind::none);
  EXPECT_EQ(RepairPlan::next_step(standing(one_lost, SegmentState::allocating)).kind, Kind::none);
  EXPECT_EQ(RepairPlan::next_step(standing({CopyStanding::whole}, SegmentState::open)).kind, Kind::none)
      << "its writer was given what there was";
}

TEST(RepairPlan, TheMostEndangeredComesFirst) {
  std::vector<RepairNeed> needs{{SegmentId(1), 0, 50, 2, true},
                                {SegmentId(2), 0, 40, 2, false},
                                {SegmentId(3), 0, 90, 1, false},
                                {SegmentId(4), 0, 10, 1, true},
                                {SegmentId(5), 0, 30, 1, false}};
  std::sort(needs.begin(), needs.end(), RepairPlan::is_more_urgent);
  std::vector<std::uint64_t> order;
  for (const auto& need : needs) order.push_back(need.segment.value);
  EXPECT_EQ(order, (std::vector<std::uint64_t>{5, 3, 2, 4, 1}));
}

TEST(RepairPlan, ChoosesANodeThatHasRoomAndNoCopy) {
  const auto segment = standing({CopyStanding::whole, CopyStanding::lost});
  std::vector<NodeLoad> nodes{load(1, 90), load(3, 1), load(4, 10), load(5, 20)};
  const auto place = RepairPlan::choose_place(segment, NodeId(2), nodes, {});
  ASSERT_TRUE(place);
  EXPECT_EQ(place->node, NodeId(5));
  EXPECT_EQ(place->worker, WorkerId(2)) << "the less busy one";
  EXPECT_EQ(RepairPlan::choose_place(segment, NodeId(2), nodes, {{NodeId(5), 1}})->node, NodeId(4));
  nodes[3].suspect = true;
  EXPECT_EQ(RepairPlan::choose_place(segment, NodeId(2), nodes, {})->node, NodeId(4));
  nodes[2].workers.clear();
  EXPECT_FALSE(RepairPlan::choose_place(segment, NodeId(2), nodes, {})) << "node 3 has its last block free";
}

TEST(RepairPlan, ChoosesAnotherRackThanThatOfTheCopiesThatStay) {
  const auto segment = standing({CopyStanding::whole, CopyStanding::lost});
  const std::vector<NodeLoad> nodes{load(1, 90, "a"), load(3, 80, "a"), load(4, 10, "b")};
  EXPECT_EQ(RepairPlan::choose_place(segment, NodeId(2), nodes, {})->node, NodeId(4));
  EXPECT_EQ(RepairPlan::choose_place(segment, NodeId(1), nodes, {})->node, NodeId(3))
      << "where node 1's copy goes, its rack is as good as another";
}

}  // namespace
}  // namespace reelfs::indexd
