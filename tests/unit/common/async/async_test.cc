#include <atomic>
#include <filesystem>
#include <fstream>
#include <future>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <gtest/gtest.h>

#include "common/async/blocking_pool.h"
#include "common/async/event.h"
#include "common/async/task_group.h"
#include "common/async/timeout.h"
#include "tests/unit/common/run.h"

namespace reelfs {
namespace {

using namespace std::chrono_literals;
using testing::run;

asio::awaitable<void> note(std::vector<int>& order, int what) {
  order.push_back(what);
  co_return;
}

asio::awaitable<void> wait_and_note(Event& event, std::vector<std::string>& log) {
  const bool set = co_await event.wait();
  log.push_back(set ? "set" : "cancelled");
}

Task<int> slow(Duration duration, int value) {
  co_await sleep_for(duration);
  co_return value;
}

Task<int> fail_at_once() { co_return Error(Errc::corrupt, "as asked"); }

TEST(Event, IsRememberedUntilWaitedFor) {
  asio::io_context context;
  Event event;
  event.set();
  EXPECT_TRUE(event.is_set());
  EXPECT_TRUE(run(context, event.wait()));
  EXPECT_FALSE(event.is_set());
}

TEST(Event, WakesItsWaiterFromTheLoop) {
  asio::io_context context;
  TaskGroup group(context.get_executor());
  Event event;
  std::vector<std::string> log;
  group.spawn(wait_and_note(event, log));
  auto set_event = [&] {
    event.set();
    log.push_back("after set");
  };
  asio::post(context, [&] { asio::post(context, [&] { asio::post(context, set_event); }); });
  context.run();
  EXPECT_EQ(log, (std::vector<std::string>{"after set", "set"}));
}

TEST(TaskGroup, EntersCoroutinesFromTheLoopInOrder) {
  asio::io_context context;
  TaskGroup group(context.get_executor());
  std::vector<int> order;
  auto inside = [&] {
    group.spawn(note(order, 1));
    group.spawn(note(order, 2));
    order.push_back(0);
  };
  asio::post(context, inside);
  context.run();
  EXPECT_EQ(order, (std::vector<int>{0, 1, 2}));
  EXPECT_EQ(group.size(), 0u);
}

TEST(TaskGroup, StopCancelsAndJoins) {
  asio::io_context context;
  TaskGroup group(context.get_executor());
  Event never;
  std::vector<std::string> log;
  std::vector<int> order;
  group.spawn(wait_and_note(never, log));
  context.poll();
  EXPECT_EQ(group.size(), 1u);
  group.spawn(note(order, 1));  // not entered yet: it never is
  run(context, group.stop());
  EXPECT_EQ(log, std::vector<std::string>{"cancelled"});
  EXPECT_TRUE(order.empty());
  EXPECT_EQ(group.size(), 0u);
  EXPECT_TRUE(group.stopping());
  group.spawn(note(order, 2));
  run(context, group.stop());
  EXPECT_TRUE(order.empty());
}

TEST(TaskGroup, StopWaitsForWorkThatCannotBeCancelled) {
  asio::io_context context;
  TaskGroup group(context.get_executor());
  BlockingPool pool(1, "test");
  std::promise<void> release;
  bool finished = false;
  auto body = [&]() -> asio::awaitable<void> {
    auto work = [&]() -> Result<void> {
      release.get_future().wait();
      return ok();
    };
    (void)co_await pool.run(std::move(work));
    finished = true;
  };
  group.spawn(body());
  context.poll();
  auto stop = [&]() -> asio::awaitable<bool> {
    asio::post(context, [&] { release.set_value(); });
    co_await group.stop();
    co_return finished;
  };
  EXPECT_TRUE(run(context, stop()));
}

TEST(WithTimeout, GivesTheValueOrTheError) {
  asio::io_context context;
  const SystemClock clock;
  const auto value = run(context, with_timeout(clock, Deadline::after(clock, 10s), slow(1ms, 7)));
  ASSERT_TRUE(value);
  EXPECT_EQ(value.value(), 7);
  const auto error = run(context, with_timeout(clock, Deadline::after(clock, 10s), fail_at_once()));
  ASSERT_FALSE(error);
  EXPECT_EQ(error.error().code(), Errc::corrupt);
}

TEST(WithTimeout, CancelsAtTheDeadline) {
  asio::io_context context;
  const SystemClock clock;
  const auto begin = clock.now();
  Event never;
  auto wait = [&]() -> Task<int> {
    const bool woken = co_await never.wait();
    if (!woken) co_return Error(Errc::cancelled);
    co_return 1;
  };
  const auto result = run(context, with_timeout(clock, Deadline::after(clock, 20ms), wait()));
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().code(), Errc::timed_out);
  EXPECT_GE(clock.now() - begin, 20ms);
  EXPECT_LT(clock.now() - begin, 5s);
}

TEST(WithTimeout, DoesNotStartWhatIsAlreadyLate) {
  asio::io_context context;
  const SystemClock clock;
  bool started = false;
  auto work = [&]() -> Task<int> {
    started = true;
    co_return 1;
  };
  const auto result = run(context, with_timeout(clock, Deadline::after(clock, -1ms), work()));
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().code(), Errc::timed_out);
  EXPECT_FALSE(started);
}

TEST(BlockingPool, RunsOnAnotherThreadAndResumesOnTheLoop) {
  asio::io_context context;
  BlockingPool pool(2, "test");
  std::thread::id worked_on;
  std::thread::id resumed_on;
  auto body = [&]() -> Task<std::string> {
    auto work = [&]() -> Result<std::string> {
      worked_on = std::this_thread::get_id();
      return std::string("done");
    };
    auto result = co_await pool.run(std::move(work));
    resumed_on = std::this_thread::get_id();
    co_return result;
  };
  const auto result = run(context, body());
  ASSERT_TRUE(result);
  EXPECT_EQ(result.value(), "done");
  EXPECT_NE(worked_on, std::this_thread::get_id());
  EXPECT_EQ(resumed_on, std::this_thread::get_id());
}

TEST(BlockingPool, RunsAllThatWasQueuedBeforeItEnds) {
  std::atomic<int> count = 0;
  {
    BlockingPool pool(2, "test");
    for (int i = 0; i < 1000; ++i) pool.post([&] { ++count; });
  }
  EXPECT_EQ(count, 1000);
}

TEST(BlockingPool, HasAsManyThreadsAsThereIsWorkForAndOneWithout) {
  const auto threads = [] {
    int named = 0;
    for (const auto& entry : std::filesystem::directory_iterator("/proc/self/task")) {
      std::string name;
      std::ifstream(entry.path() / "comm") >> name;
      if (name == "growing") ++named;
    }
    return named;
  };
  const auto become = [&](int wanted) {
    const auto patience = std::chrono::steady_clock::now() + 10s;
    while (threads() != wanted && std::chrono::steady_clock::now() < patience) std::this_thread::yield();
    return threads();
  };
  BlockingPool pool(3, "growing", 50ms);
  EXPECT_EQ(become(1), 1);
  std::mutex gate;
  std::atomic<int> passed = 0;
  const auto pass = [&] {
    const std::lock_guard at_the_gate(gate);
    ++passed;
  };
  {
    const std::lock_guard closed(gate);
    pool.post(pass);
    EXPECT_EQ(become(1), 1) << "it had nothing to do";
    pool.post(pass);
    EXPECT_EQ(become(2), 2);
    for (int i = 0; i < 5; ++i) pool.post(pass);
    EXPECT_EQ(become(3), 3);
  }
  EXPECT_EQ(become(1), 1);
  EXPECT_EQ(passed, 7);
}

}  // namespace
}  // namespace reelfs
