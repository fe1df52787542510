#include "noded/segment/shared_flush.h"

#include <atomic>
#include <future>
#include <latch>
#include <memory>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

namespace reelfs::noded {
namespace {

using namespace std::chrono_literals;
using Answer = std::future<Result<void>>;

class SharedFlushTest : public ::testing::Test {
 protected:
  /// One process of the node: its mapping of the area, and what it flushes with.
  struct Process {
    std::unique_ptr<DeviceTable> table;
    std::unique_ptr<SharedFlush> flush;
  };

  SharedFlushTest() {
    DeviceTable::Identity identity;
    identity.cluster = cluster;
    identity.superblock.cluster = cluster;
    identity.superblock.uuid = Uuid::random();
    identity.superblock.device = DeviceId(7);
    identity.superblock.node_name = "node1";
    identity.superblock.geometry = plan_geometry(kMiB + 4 * 4 * kMiB + kPageBytes, 4 * kMiB).value();
    const std::vector<DeviceTable::Found> blocks(identity.superblock.geometry.block_count);
    table = DeviceTable::create(name, identity, blocks).value();
    for (std::uint32_t worker = 1; worker <= 3; ++worker) processes.push_back(process(worker));
  }
  ~SharedFlushTest() override { remove_shm(name); }

  Process process(std::uint32_t worker, Duration patience = 60s) const {
    Process made;
    made.table = DeviceTable::attach(name, cluster, Uuid{}).value();
    made.flush = std::make_unique<SharedFlush>(*made.table, WorkerId(worker), patience);
    return made;
  }
  void be_impatient() {
    for (std::uint32_t worker = 1; worker <= 3; ++worker) processes[worker - 1] = process(worker, 20ms);
  }
  /// That process flushes, on a thread of its own.
  Answer run(std::size_t index, DeviceFile::BlockingSync sync) {
    auto& flush = *processes[index].flush;
    return std::async(std::launch::async, [&flush, sync = std::move(sync)] { return flush.run(sync, 5); });
  }
  static DeviceFile::BlockingSync counting(std::atomic<int>& syncs) {
    return [&syncs]() -> Result<void> {
      ++syncs;
      return ok();
    };
  }
  static bool waits(const Answer& answer, Duration how_long = 20ms) {
    return answer.wait_for(how_long) == std::future_status::timeout;
  }

  const Uuid cluster = Uuid::random();
  const std::string name = "/reelfs-test-" + cluster.to_string();
  std::unique_ptr<DeviceTable> table;
  std::vector<Process> processes;
};

/// A flush that has begun and ends when it is told to.
struct Held {
  std::latch begun{1};
  std::promise<Result<void>> end;

  DeviceFile::BlockingSync sync() {
    return [this] {
      begun.count_down();
      return end.get_future().get();
    };
  }
};

TEST_F(SharedFlushTest, OneThatBeginsAfterTheirWritesServesAllWhoWait) {
  Held held;
  std::atomic<int> syncs{0};
  auto first = run(0, held.sync());
  held.begun.wait();
  auto second = run(1, counting(syncs));
  auto third = run(2, counting(syncs));
  EXPECT_TRUE(waits(second));
  EXPECT_TRUE(waits(third));
  EXPECT_EQ(syncs, 0) << "one at a time";
  held.end.set_value(ok());
  EXPECT_TRUE(first.get());
  EXPECT_TRUE(second.get());
  EXPECT_TRUE(third.get());
  EXPECT_EQ(syncs, 1) << "the one that was under way began too early, one more is enough";
  EXPECT_EQ(table->flushes().begun, 2u);
  EXPECT_EQ(table->flushes().stable, 2u);
  EXPECT_FALSE(table->flushes().flusher);
}

TEST_F(SharedFlushTest, OneThatFailsFailsForAllWhoWaitAndEndsTheDevice) {
  Held held;
  std::atomic<int> syncs{0};
  auto first = run(0, held.sync());
  held.begun.wait();
  auto second = run(1, counting(syncs));
  EXPECT_TRUE(waits(second));
  held.end.set_value(Error(Errc::io, "the disk lost it"));
  EXPECT_EQ(first.get().error().message(), "the disk lost it");
  const auto refused = second.get();
  ASSERT_FALSE(refused) << "the kernel told of it once: its own flush would have succeeded";
  EXPECT_EQ(refused.error().code(), Errc::io);
  EXPECT_EQ(syncs, 0);
  EXPECT_EQ(table->verdict().health, DeviceHealth::failed);
  EXPECT_EQ(table->verdict().reason, "the disk lost it");
  EXPECT_TRUE(processes[0].flush->found_failure());
  EXPECT_FALSE(processes[1].flush->found_failure());
  EXPECT_FALSE(run(2, counting(syncs)).get());
}

TEST_F(SharedFlushTest, WhoWaitsInVainFlushesItself) {
  be_impatient();
  Held held;
  std::atomic<int> syncs{0};
  auto first = run(0, held.sync());
  held.begun.wait();
  auto second = run(1, counting(syncs));
  EXPECT_TRUE(second.get()) << "whether the first was killed, stopped or is slow";
  EXPECT_EQ(syncs, 1);
  EXPECT_TRUE(waits(first));
  held.end.set_value(ok());
  EXPECT_TRUE(first.get());
  EXPECT_EQ(table->flushes().stable, 2u) << "an earlier one that ends late takes nothing back";
  EXPECT_EQ(table->flushes().lost, 1u);
}

TEST_F(SharedFlushTest, AFailureThatIsToldLateFailsTheFlushThatTookItsPlace) {
  be_impatient();
  Held first_held;
  Held second_held;
  auto first = run(0, first_held.sync());
  first_held.begun.wait();
  auto second = run(1, second_held.sync());
  second_held.begun.wait();  // it has waited in vain
  first_held.end.set_value(Error(Errc::io, "the disk lost it"));
  EXPECT_FALSE(first.get());
  second_held.end.set_value(ok());
  EXPECT_FALSE(second.get()) << "the bytes may be those that were lost";
}

TEST_F(SharedFlushTest, AfterALostFlushEachProcessAsksTheKernelItself) {
  be_impatient();
  Held held;
  std::atomic<int> syncs{0};
  auto first = run(0, held.sync());
  held.begun.wait();
  auto second = run(1, counting(syncs));
  auto third = run(2, counting(syncs));
  EXPECT_TRUE(second.get());
  EXPECT_TRUE(third.get());
  EXPECT_EQ(syncs, 2) << "whose open file is to be told of a failed write is not known";
  held.end.set_value(ok());
  EXPECT_TRUE(first.get());
  const auto young = process(4);
  EXPECT_EQ(table->flushes().lost, 1u);
  EXPECT_TRUE(young.flush->run(counting(syncs), 5));
  EXPECT_EQ(syncs, 3);
}

TEST_F(SharedFlushTest, AdoptingADeadProcessEndsItsFlush) {
  DeviceTable::FlushWish wish;
  wish.worker = WorkerId(9);
  wish.wanted = 1;
  ASSERT_EQ(table->join_flush(wish).kind, FlushTurn::Kind::mine);
  wish.worker = WorkerId(2);
  wish.wanted = 2;
  const auto waiting = table->join_flush(wish);
  ASSERT_EQ(waiting.kind, FlushTurn::Kind::wait);
  table->release_claims(WorkerId(9));
  table->wait_for_flush(waiting.bell, 60s);  // returns at once: the bell has rung
  const auto turn = table->join_flush(wish);
  EXPECT_EQ(turn.kind, FlushTurn::Kind::mine);
  EXPECT_EQ(turn.lost, 1u);
}

TEST_F(SharedFlushTest, WhatIsAnsweredIsAlwaysOnTheDisk) {
  constexpr int kFlushes = 300;
  std::atomic<int> written{0};
  std::atomic<int> on_disk{0};
  const auto sync = [&]() -> Result<void> {
    const int covered = written;  // what comes while it goes on is not
    std::this_thread::yield();
    for (int before = on_disk; before < covered && !on_disk.compare_exchange_weak(before, covered);) continue;
    return ok();
  };
  std::vector<std::thread> threads;
  std::atomic<int> broken{0};
  for (auto& process : processes) {
    threads.emplace_back([&] {
      for (int i = 0; i < kFlushes; ++i) {
        const int mine = ++written;
        if (!process.flush->run(sync, 5) || on_disk < mine) ++broken;
      }
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(broken, 0);
  EXPECT_LE(table->flushes().begun, 3u * kFlushes);
  EXPECT_EQ(table->flushes().stable, table->flushes().begun);
}

}  // namespace
}  // namespace reelfs::noded
