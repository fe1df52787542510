#include "noded/supervisor/restart_plan.h"

#include <gtest/gtest.h>

namespace reelfs::noded {
namespace {

using namespace std::chrono_literals;

const WorkerId kFirst{1};
const WorkerId kSecond{2};

class RestartPlanTest : public ::testing::Test {
 protected:
  /// Starts the worker when it is due, lets it live for as long, and answers how long it has to wait then.
  Duration pause_after(WorkerId worker, Duration life) {
    now = std::max(now, plan.next_due().value_or(now));
    plan.started(worker, now);
    now += life;
    return plan.ended(worker, now) - now;
  }

  RestartPlan plan{2, {.first_pause = 100ms, .longest_pause = 1s, .settled = 10s}};
  TimePoint now{1h};
};

TEST_F(RestartPlanTest, AllAreDueAtFirst) {
  EXPECT_EQ(plan.due(now), (std::vector{kFirst, kSecond}));
  plan.started(kFirst, now);
  EXPECT_EQ(plan.due(now), std::vector{kSecond});
  plan.started(kSecond, now);
  EXPECT_TRUE(plan.due(now + 1h).empty());
  EXPECT_FALSE(plan.next_due());
}

TEST_F(RestartPlanTest, PausesGrowWhileAWorkerDiesYoung) {
  plan.started(kSecond, now);
  std::vector<Duration> pauses;
  for (int i = 0; i < 7; ++i) pauses.push_back(pause_after(kFirst, 9s));
  EXPECT_EQ(pauses, (std::vector<Duration>{0s, 100ms, 200ms, 400ms, 800ms, 1s, 1s}));
  EXPECT_TRUE(plan.due(now + 999ms).empty());
  EXPECT_EQ(plan.next_due(), now + 1s);
  EXPECT_EQ(plan.due(now + 1s), std::vector{kFirst});
}

TEST_F(RestartPlanTest, AWorkerThatLivedForAWhileIsStartedAtOnce) {
  plan.started(kSecond, now);
  for (int i = 0; i < 4; ++i) pause_after(kFirst, 0s);
  EXPECT_EQ(pause_after(kFirst, 10s), 0s);
  EXPECT_EQ(pause_after(kFirst, 0s), 100ms) << "and counts as before";
}

TEST_F(RestartPlanTest, OneWorkersDeathsAreNotAnothers) {
  plan.started(kSecond, now);
  for (int i = 0; i < 4; ++i) pause_after(kFirst, 0s);
  EXPECT_EQ(plan.ended(kSecond, now), now);
  EXPECT_EQ(plan.due(now), std::vector{kSecond});
}

TEST_F(RestartPlanTest, NothingIsDueAfterStop) {
  plan.started(kFirst, now);
  plan.stop();
  plan.ended(kFirst, now);
  EXPECT_TRUE(plan.due(now + 1h).empty());
  EXPECT_FALSE(plan.next_due());
}

}  // namespace
}  // namespace reelfs::noded
