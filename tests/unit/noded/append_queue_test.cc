#include "noded/segment/append_queue.h"

#include <gtest/gtest.h>

namespace reelfs::noded {
namespace {

using Outcome = AppendQueue::Outcome;

std::vector<std::pair<AppendQueue::Ticket, Outcome>> brief(
    const std::vector<AppendQueue::Decision>& decisions) {
  std::vector<std::pair<AppendQueue::Ticket, Outcome>> list;
  for (const auto& decision : decisions) list.emplace_back(decision.ticket, decision.outcome);
  return list;
}
using List = std::vector<std::pair<AppendQueue::Ticket, Outcome>>;

TEST(AppendQueue, AnswersInOrderWhateverEndsFirst) {
  AppendQueue queue(0, 8);
  for (AppendQueue::Ticket i = 1; i <= 3; ++i) {
    EXPECT_EQ(queue.arrive(i, (i - 1) * 4096, 4096), AppendQueue::Arrival::waiting);
    EXPECT_EQ(queue.start()->follows, i > 1);
  }
  EXPECT_TRUE(queue.finish(8192, true).empty());
  EXPECT_EQ(brief(queue.finish(0, true)), (List{{1, Outcome::written}}));
  EXPECT_EQ(brief(queue.finish(4096, true)), (List{{2, Outcome::written}, {3, Outcome::written}}));
  EXPECT_EQ(queue.end(), 12288u);
  EXPECT_TRUE(queue.idle());
}

TEST(AppendQueue, WritesNoMoreAtOnceThanItsWindow) {
  AppendQueue queue(0, 2);
  for (AppendQueue::Ticket i = 1; i <= 3; ++i) queue.arrive(i, (i - 1) * 4096, 4096);
  EXPECT_TRUE(queue.start());
  EXPECT_TRUE(queue.start());
  EXPECT_FALSE(queue.start());
  queue.finish(4096, true);
  EXPECT_EQ(queue.start()->offset, 8192u);
}

TEST(AppendQueue, KnowsARepetition) {
  AppendQueue queue(8192, 8);
  EXPECT_EQ(queue.arrive(1, 4096, 4096), AppendQueue::Arrival::present);
  EXPECT_EQ(queue.arrive(2, 8192, 4096), AppendQueue::Arrival::waiting);
  queue.start();
  EXPECT_EQ(queue.arrive(3, 8192, 4096), AppendQueue::Arrival::waiting);
  EXPECT_FALSE(queue.start());
  EXPECT_EQ(brief(queue.finish(8192, true)), (List{{2, Outcome::written}, {3, Outcome::written}}));
}

TEST(AppendQueue, RefusesOverlaps) {
  AppendQueue queue(8192, 8);
  EXPECT_EQ(queue.arrive(1, 4096, 8192), AppendQueue::Arrival::overlap);
  queue.arrive(2, 8192, 8192);
  EXPECT_EQ(queue.arrive(3, 8192, 4096), AppendQueue::Arrival::overlap);
  EXPECT_EQ(queue.arrive(4, 12288, 8192), AppendQueue::Arrival::overlap);
}

TEST(AppendQueue, WaitsForAPredecessorThatIsUnderWayButNotForNobody) {
  AppendQueue queue(0, 8);
  queue.arrive(1, 0, 4096);
  queue.start();
  queue.arrive(2, 8192, 4096);
  EXPECT_FALSE(queue.start());
  EXPECT_TRUE(queue.refuse_gaps().empty());
  queue.arrive(3, 4096, 4096);
  EXPECT_EQ(queue.start()->ticket, 3u);
  EXPECT_EQ(queue.start()->ticket, 2u);

  AppendQueue alone(0, 8);
  alone.arrive(1, 4096, 4096);
  EXPECT_FALSE(alone.start());
  EXPECT_EQ(brief(alone.refuse_gaps()), (List{{1, Outcome::gap}}));
  EXPECT_TRUE(alone.idle());
}

TEST(AppendQueue, AFailureTakesAllBehindItAlongAndLeavesAPlaceToGoOnFrom) {
  AppendQueue queue(0, 8);
  for (AppendQueue::Ticket i = 1; i <= 4; ++i) queue.arrive(i, (i - 1) * 4096, 4096);
  for (int i = 0; i < 3; ++i) queue.start();
  EXPECT_TRUE(queue.finish(4096, false).empty());
  EXPECT_FALSE(queue.start());
  EXPECT_TRUE(queue.finish(8192, true).empty());
  EXPECT_EQ(brief(queue.finish(0, true)),
            (List{{1, Outcome::written}, {2, Outcome::failed}, {3, Outcome::failed}, {4, Outcome::failed}}));
  EXPECT_EQ(queue.end(), 4096u);
  queue.arrive(5, 4096, 4096);
  EXPECT_EQ(queue.start()->ticket, 5u);
}

}  // namespace
}  // namespace reelfs::noded
