#include "indexd/placement/slow_watch.h"

#include <chrono>
#include <map>

#include <gtest/gtest.h>

namespace reelfs::indexd {
namespace {

using namespace std::chrono_literals;

constexpr Duration kBeat = 250ms;

/// Devices that tell four times a second how long their calls take.
class SlowWatchTest : public testing::Test {
 protected:
  struct Disk {
    Duration write{};
    Duration flush{};
  };
  /// @return what changed meanwhile
  std::vector<SlowWatch::Change> run(Duration time) {
    std::vector<SlowWatch::Change> changes;
    for (const auto end = now_ + time; now_ < end;) {
      now_ += kBeat;
      for (const auto& [number, disk] : disks) {
        DeviceCalls calls;
        if (disk.write > Duration::zero()) {
          calls.writes = 10;
          calls.write_time = 10 * disk.write;
        }
        if (disk.flush > Duration::zero()) {
          calls.flushes = 2;
          calls.flush_time = 2 * disk.flush;
        }
        watch.heard(DeviceId(number), WorkerId(1), now_, calls);
      }
      for (const auto& change : watch.look(now_)) changes.push_back(change);
    }
    return changes;
  }
  std::map<std::uint32_t, Disk> disks{{1, {1ms, 5ms}}, {2, {1ms, 6ms}}, {3, {2ms, 5ms}}};
  SlowWatch watch{{.factor = 4, .slow_after = 2s, .fast_after = 5s}};
  TimePoint now_{1h};
};

TEST_F(SlowWatchTest, OneThatIsSlowerThanItsPeersForAWhileIsSlowUntilItIsFastForLonger) {
  EXPECT_TRUE(run(10s).empty());
  disks[2].flush = 150ms;
  EXPECT_TRUE(run(1s).empty()) << "not at once";
  const auto slow = run(3s);
  ASSERT_EQ(slow.size(), 1u);
  EXPECT_EQ(slow[0].device, DeviceId(2));
  EXPECT_TRUE(slow[0].slow);
  EXPECT_TRUE(slow[0].by_flushes);
  EXPECT_LT(slow[0].peers_take, 10ms);
  EXPECT_GT(slow[0].takes, 100ms);
  EXPECT_TRUE(watch.slow(DeviceId(2)));
  EXPECT_TRUE(run(60s).empty());
  disks[2].flush = 5ms;
  EXPECT_TRUE(run(4s).empty());
  const auto fast = run(8s);
  ASSERT_EQ(fast.size(), 1u);
  EXPECT_FALSE(fast[0].slow);
  EXPECT_FALSE(watch.slow(DeviceId(2)));
}

TEST_F(SlowWatchTest, WhereAllAreSlowNoneIs) {
  for (auto& [number, disk] : disks) disk = {30ms, 300ms};
  EXPECT_TRUE(run(10s).empty());
  disks[1].flush = 400ms;
  EXPECT_TRUE(run(10s).empty());
}

TEST_F(SlowWatchTest, WhatIsQuickIsNotSlowHoweverQuickTheOthersAre) {
  for (auto& [number, disk] : disks) disk = {20us, 100us};
  disks[1] = {5ms, 20ms};
  EXPECT_TRUE(run(10s).empty());
}

TEST_F(SlowWatchTest, ASpikeIsForgiven) {
  for (int i = 0; i < 5; ++i) {
    disks[1].flush = 500ms;
    EXPECT_TRUE(run(500ms).empty());
    disks[1].flush = 5ms;
    EXPECT_TRUE(run(8s).empty());
  }
}

TEST_F(SlowWatchTest, SilenceProvesNothing) {
  disks[3].write = 200ms;
  ASSERT_EQ(run(5s).size(), 1u);
  disks[3] = {};
  EXPECT_TRUE(run(120s).empty());
  EXPECT_TRUE(watch.slow(DeviceId(3)));
  disks[3] = {1ms, 5ms};
  ASSERT_EQ(run(10s).size(), 1u);
  EXPECT_FALSE(watch.slow(DeviceId(3)));
}

TEST_F(SlowWatchTest, ALoneDeviceHasNoPeers) {
  disks = {{1, {500ms, 500ms}}};
  EXPECT_TRUE(run(10s).empty());
}

TEST_F(SlowWatchTest, ACallThatDoesNotEndCountsForAsLongAsItHasTaken) {
  run(2s);
  disks[1] = {};
  std::vector<SlowWatch::Change> changes;
  for (Duration waited{}; waited < 4s; waited += kBeat) {
    DeviceCalls calls;
    calls.oldest_write = waited + 1ms;
    watch.heard(DeviceId(1), WorkerId(2), now_ + kBeat, calls);
    for (const auto& change : run(kBeat)) changes.push_back(change);
  }
  ASSERT_EQ(changes.size(), 1u);
  EXPECT_EQ(changes[0].device, DeviceId(1));
}

TEST_F(SlowWatchTest, WhatIsOutOfServiceIsForgotten) {
  disks[2].flush = 500ms;
  ASSERT_EQ(run(5s).size(), 1u);
  watch.forget(DeviceId(2));
  EXPECT_FALSE(watch.slow(DeviceId(2)));
  EXPECT_EQ(watch.latency(DeviceId(2)).flush, Duration::zero());
}

}  // namespace
}  // namespace reelfs::indexd
