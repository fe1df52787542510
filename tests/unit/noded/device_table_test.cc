#include "noded/shm/device_table.h"

#include <map>
#include <random>
#include <thread>

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "noded/shm/process_identity.h"
#include "noded/shm/process_table.h"
#include "noded/shm/unfilled_table.h"

namespace reelfs::noded {
namespace {

constexpr SegmentId kSegment{1};
constexpr Generation kFirst{1};
constexpr WorkerId kOne{1};
constexpr WorkerId kTwo{2};

class DeviceTableTest : public ::testing::Test {
 protected:
  DeviceTableTest() {
    DeviceTable::Identity identity;
    identity.cluster = cluster;
    identity.incarnation = incarnation;
    identity.superblock.cluster = cluster;
    identity.superblock.uuid = Uuid::random();
    identity.superblock.device = DeviceId(7);
    identity.superblock.node_name = "node1";
    identity.superblock.geometry = plan_geometry(kMiB + 40 * 4 * kMiB + kPageBytes, 4 * kMiB).value();
    identity.path = "/dev/sdx";
    const std::vector<DeviceTable::Found> blocks(identity.superblock.geometry.block_count);
    table = DeviceTable::create(name, identity, blocks).value();
  }
  ~DeviceTableTest() override { remove_shm(name); }
  std::unique_ptr<DeviceTable> attach() { return DeviceTable::attach(name, cluster, incarnation).value(); }
  std::uint32_t allocate(SegmentId segment = kSegment) {
    return table->allocate(segment, kFirst, InodeId(2), kOne, 5).value();
  }
  static DeviceTable::Append append_of(std::uint32_t block, WorkerId worker = kOne,
                                       Generation generation = kFirst) {
    DeviceTable::Append append;
    append.block = block;
    append.segment = kSegment;
    append.generation = generation;
    append.worker = worker;
    return append;
  }

  const Uuid cluster = Uuid::random();
  const Uuid incarnation = Uuid::random();
  const std::string name = "/reelfs-test-" + cluster.to_string();
  std::unique_ptr<DeviceTable> table;
};

TEST_F(DeviceTableTest, ShowsTheSameToWhoeverAttaches) {
  const auto block = allocate();
  const auto other = attach();
  EXPECT_EQ(other->device(), DeviceId(7));
  EXPECT_EQ(other->path(), "/dev/sdx");
  EXPECT_EQ(other->geometry(), table->geometry());
  EXPECT_EQ(other->find(kSegment), block);
  EXPECT_EQ(other->slot(block).descriptor, table->slot(block).descriptor);
  EXPECT_EQ(other->counts(), (BlockCounts{.blocks = 40, .free = 39, .open = 1, .sealed = 0}));
  ASSERT_TRUE(other->seal(block, kSegment, kFirst, 0));
  EXPECT_EQ(table->counts().sealed, 1u);
}

TEST_F(DeviceTableTest, OneProcessAtATimeScrubsADevice) {
  DeviceTable::ScrubClaim claim;
  claim.worker = kOne;
  claim.now_ns = 100;
  claim.patience_ns = 50;
  const auto first = table->claim_scrub(claim);
  ASSERT_TRUE(first);
  claim.worker = kTwo;
  const auto other = attach();
  EXPECT_FALSE(other->claim_scrub(claim));
  EXPECT_TRUE(table->keep_scrub(*first, 140, 7));
  claim.now_ns = 189;
  EXPECT_FALSE(other->claim_scrub(claim)) << "it goes on";
  claim.now_ns = 190;
  const auto second = other->claim_scrub(claim);
  ASSERT_TRUE(second) << "it has stopped";
  EXPECT_FALSE(table->keep_scrub(*first, 191, 1)) << "continued, it finds its claim gone";
  table->end_scrub(*first, false);
  EXPECT_TRUE(other->keep_scrub(*second, 192, 0)) << "which changes nothing";
  table->release_claims(kTwo);
  EXPECT_TRUE(table->claim_scrub(claim)) << "a dead one is not waited for";
  table->order_scrub(33);
  EXPECT_EQ(other->scrub_state().ordered_ns, 33);
  EXPECT_EQ(other->scrub_state().read_bytes, 8u);
  other->end_ordered_scrub(32);
  EXPECT_EQ(table->scrub_state().ordered_ns, 33) << "another was ordered since";
  other->end_ordered_scrub(33);
  EXPECT_EQ(table->scrub_state().ordered_ns, 0);
}

TEST_F(DeviceTableTest, WhenABlockWasVerifiedIsNotedOfThatSegmentAlone) {
  const auto block = allocate();
  const auto seen = table->slot(block);
  ASSERT_TRUE(table->note_verified(block, seen, 77));
  EXPECT_EQ(table->slot(block).descriptor.verified_at_ns, 77);
  ASSERT_TRUE(table->begin_free(block, kSegment, kOne));
  EXPECT_FALSE(table->note_verified(block, seen, 78));
  table->finish_free(block);
  ASSERT_EQ(allocate(SegmentId(2)), block);
  EXPECT_FALSE(table->note_verified(block, seen, 79));
  EXPECT_EQ(table->slot(block).descriptor.verified_at_ns, 0);
}

TEST_F(DeviceTableTest, ABlockThatIsWrittenInPlaceIsNeitherFreedNorReopened) {
  const auto block = allocate();
  ASSERT_TRUE(table->begin_rewrite(block, kSegment, kTwo));
  EXPECT_EQ(table->begin_rewrite(block, kSegment, kOne).error().code(), Errc::busy);
  EXPECT_EQ(table->begin_rewrite(block, SegmentId(9), kOne).error().code(), Errc::not_found);
  EXPECT_EQ(table->begin_free(block, kSegment, kOne).error().code(), Errc::busy);
  EXPECT_EQ(table->reopen(block, kSegment, Generation(2), 0).error().code(), Errc::busy);
  EXPECT_TRUE(table->seal(block, kSegment, Generation(2), 0)) << "which moves nothing";
  table->end_rewrite(block, kOne);
  EXPECT_TRUE(table->is_rewritten(block)) << "it is another's";
  table->release_claims(kTwo);
  EXPECT_TRUE(table->begin_free(block, kSegment, kOne));
}

TEST_F(DeviceTableTest, RefusesAnotherLifesAreaAndADamagedHeader) {
  EXPECT_EQ(DeviceTable::attach(name, cluster, Uuid::random()).error().code(), Errc::corrupt);
  EXPECT_EQ(DeviceTable::attach(name, Uuid::random(), incarnation).error().code(), Errc::corrupt);
  EXPECT_EQ(DeviceTable::attach(name + "x", cluster, incarnation).error().code(), Errc::not_found);
  ShmShape shape;
  shape.kind = ShmKind::process;
  shape.cluster = cluster;
  shape.entry_bytes = 8;
  EXPECT_EQ(ShmArea::attach(name, shape).error().code(), Errc::corrupt);
}

TEST_F(DeviceTableTest, TakesEachBlockOnceAndFindsEachSegment) {
  for (std::uint64_t i = 1; i <= 40; ++i) EXPECT_EQ(allocate(SegmentId(i)), i - 1);
  EXPECT_EQ(table->allocate(SegmentId(41), kFirst, InodeId(2), kOne, 5).error().code(), Errc::no_space);
  for (std::uint64_t i = 1; i <= 40; ++i) EXPECT_EQ(table->find(SegmentId(i)), i - 1);
  ASSERT_TRUE(table->begin_free(10, SegmentId(11), kOne));
  EXPECT_FALSE(table->find(SegmentId(11)));
  EXPECT_FALSE(table->allocate(SegmentId(41), kFirst, InodeId(2), kOne, 5)) << "it is being discarded";
  table->finish_free(10);
  EXPECT_EQ(allocate(SegmentId(41)), 10u);
  EXPECT_TRUE(table->check());
}

TEST_F(DeviceTableTest, OneWorkerAtATimeHasWritesUnderWay) {
  const auto block = allocate();
  ASSERT_TRUE(table->begin_append(append_of(block), 0, 4096, false));
  EXPECT_EQ(table->begin_append(append_of(block, kTwo), 0, 4096, false).error().code(), Errc::busy);
  EXPECT_EQ(table->begin_free(block, kSegment, kOne).error().code(), Errc::busy);
  EXPECT_EQ(table->seal(block, kSegment, kFirst, 0).error().code(), Errc::busy);
  ASSERT_TRUE(table->end_append(append_of(block), 4096));
  EXPECT_EQ(table->begin_append(append_of(block, kTwo), 0, 4096, false).value(),
            DeviceTable::AppendStart::present);
  EXPECT_TRUE(table->begin_append(append_of(block, kTwo), 4096, 4096, false));
}

TEST_F(DeviceTableTest, BytesThatLandBehindAFenceDoNotCount) {
  const auto block = allocate();
  ASSERT_TRUE(table->begin_append(append_of(block), 0, 4096, false));
  ASSERT_TRUE(table->begin_append(append_of(block), 4096, 4096, true));
  ASSERT_TRUE(table->end_append(append_of(block), 4096));
  ASSERT_TRUE(table->fence(block, kSegment, Generation(2)));
  EXPECT_EQ(table->settle_fence(block, kSegment, Generation(2)).error().code(), Errc::busy);
  EXPECT_EQ(table->end_append(append_of(block), 8192).error().code(), Errc::stale_generation);
  EXPECT_EQ(table->settle_fence(block, kSegment, Generation(2)).value(), 4096u);
}

TEST_F(DeviceTableTest, ADeadWorkersWritesAreForgotten) {
  const auto block = allocate();
  ASSERT_TRUE(table->begin_append(append_of(block), 0, 4096, false));
  EXPECT_FALSE(table->disown(block, kTwo));
  EXPECT_EQ(table->owned_by(kOne), std::vector<std::uint32_t>{block});
  EXPECT_TRUE(table->disown(block, kOne));
  EXPECT_EQ(table->slot(block).in_flight, 0u);
  EXPECT_FALSE(table->extend_end(block, kSegment, 4096, 8192));
  EXPECT_TRUE(table->extend_end(block, kSegment, 0, 8192));
  EXPECT_EQ(table->slot(block).end, 8192u);
}

TEST_F(DeviceTableTest, APageIsWrittenByOneAtATimeUntilItIsWhatWasWanted) {
  Buffer copy(kPageBytes);
  const auto block = allocate();
  const auto wanted = table->page_changes(0);
  const auto claimed = table->claim_page(0, {kOne, 1, {}}, wanted, copy.span());
  ASSERT_EQ(claimed.claim, DeviceTable::PageClaim::claimed);
  const auto busy = table->claim_page(0, {kTwo, 2, {}}, wanted, copy.span());
  EXPECT_EQ(busy.claim, DeviceTable::PageClaim::busy);
  EXPECT_EQ(busy.writer, kOne);
  EXPECT_EQ(busy.writer_pid, 1u);
  const auto entry = copy.span().subspan(block * sizeof(DescriptorEntry), sizeof(DescriptorEntry));
  EXPECT_EQ(decode_descriptor({DeviceId(7), block}, 4 * kMiB, entry).value(), table->slot(block).descriptor);
  allocate(SegmentId(2));
  table->release_page(0, kOne, claimed.changes, true);
  EXPECT_EQ(table->claim_page(0, {kTwo, 2, {}}, wanted, copy.span()).claim, DeviceTable::PageClaim::written);
  EXPECT_EQ(table->dirty_pages(), std::vector<std::uint32_t>{0}) << "it changed meanwhile";
}

TEST_F(DeviceTableTest, AStoppedWritersPageIsTakenOverAndDirtyAgainWhenItsOldCopyMayBeThere) {
  using Claim = DeviceTable::PageClaim;
  constexpr WorkerId kThree{3};
  Buffer copy(kPageBytes);
  allocate();
  auto wanted = table->page_changes(0);
  ASSERT_EQ(table->claim_page(0, {kOne, 1, {}}, wanted, copy.span()).claim, Claim::claimed);
  EXPECT_EQ(table->claim_page(0, {kTwo, 2, kThree}, wanted, copy.span()).claim, Claim::busy) << "not its";
  const auto second = table->claim_page(0, {kTwo, 2, kOne}, wanted, copy.span());
  ASSERT_EQ(second.claim, Claim::claimed);
  EXPECT_EQ(table->claim_page(0, {kThree, 3, kTwo}, wanted, copy.span()).claim, Claim::busy)
      << "one at a time";
  EXPECT_FALSE(table->release_page(0, kTwo, second.changes, true));
  EXPECT_TRUE(table->dirty_pages().empty());
  allocate(SegmentId(2));
  wanted = table->page_changes(0);
  EXPECT_EQ(table->claim_page(0, {kOne, 1, {}}, wanted, copy.span()).claim, Claim::busy)
      << "its earlier write could pass this one";
  const auto third = table->claim_page(0, {kThree, 3, {}}, wanted, copy.span());
  ASSERT_EQ(third.claim, Claim::claimed);
  EXPECT_FALSE(table->release_page(0, kThree, third.changes, true));
  EXPECT_TRUE(table->release_page(0, kOne, wanted, true)) << "it is told to write once more";
  EXPECT_EQ(table->dirty_pages(), std::vector<std::uint32_t>{0});
  EXPECT_EQ(table->claim_page(0, {kOne, 1, {}}, table->page_changes(0), copy.span()).claim, Claim::claimed);
}

TEST_F(DeviceTableTest, WhatADeadWriterMayHaveOverwrittenIsWrittenAgain) {
  Buffer copy(kPageBytes);
  allocate();
  const auto wanted = table->page_changes(0);
  (void)table->claim_page(0, {kOne, 1, {}}, wanted, copy.span());
  const auto second = table->claim_page(0, {kTwo, 2, kOne}, wanted, copy.span());
  (void)table->release_page(0, kTwo, second.changes, true);
  table->release_claims(kTwo);
  EXPECT_TRUE(table->dirty_pages().empty());
  table->release_claims(kOne);
  EXPECT_EQ(table->dirty_pages(), std::vector<std::uint32_t>{0});
}

TEST_F(DeviceTableTest, ThreadsTakeDifferentBlocks) {
  std::vector<std::thread> threads;
  for (std::uint64_t thread = 0; thread < 4; ++thread) {
    threads.emplace_back([this, thread] {
      const auto mine = attach();
      for (std::uint64_t i = 1; i <= 10; ++i) {
        EXPECT_TRUE(mine->allocate(SegmentId(thread * 100 + i), kFirst, InodeId(2), kOne, 5));
      }
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(table->counts().free, 0u);
  EXPECT_TRUE(table->check());
}

TEST(ProcessTable, NamesWhatWasAddedAndSaysWhenItIsFull) {
  const auto cluster = Uuid::random();
  const auto name = "/reelfs-test-" + cluster.to_string();
  const auto table =
      ProcessTable::create(name, cluster, Uuid::random(), kOne, ProcessIdentity::self()).value();
  table->add({DeviceId(1), 5});
  table->add({DeviceId(1), 5});
  table->add({DeviceId(2), 0});
  const auto seen = ProcessTable::attach(name, cluster, Uuid{}).value();
  EXPECT_EQ(seen->blocks().size(), 2u);
  EXPECT_EQ(seen->worker(), kOne);
  EXPECT_TRUE(is_alive(seen->process()));
  table->remove({DeviceId(1), 5});
  EXPECT_EQ(seen->blocks(), (std::vector<BlockAddress>{{DeviceId(2), 0}}));
  for (std::uint32_t i = 0; i < 8192; ++i) table->add({DeviceId(3), i});
  EXPECT_TRUE(seen->overflowed());
  remove_shm(name);
}

TEST(UnfilledTable, KeepsBlocksBySegmentAndTheHighestEpoch) {
  const auto cluster = Uuid::random();
  const auto name = "/reelfs-test-" + cluster.to_string();
  const auto table = UnfilledTable::create(name, cluster, Uuid::random(), 2).value();
  UnfilledTable::Entry entry;
  entry.segment = 4;
  entry.device = 1;
  entry.block = 9;
  table->put(entry);
  entry.length = 4096;
  table->put(entry);
  ASSERT_EQ(table->entries().size(), 1u);
  EXPECT_EQ(table->find(SegmentId(4))->length, 4096u);
  EXPECT_EQ(table->find(SegmentId(4))->block, 9u);
  EXPECT_FALSE(table->find(SegmentId(5)));
  for (entry.segment = 10; entry.segment < 14; ++entry.segment) table->put(entry);
  EXPECT_EQ(table->entries().size(), 2u) << "a full table leaves blocks out";
  table->remove(SegmentId(4));
  table->remove(SegmentId(4));
  EXPECT_EQ(table->entries().size(), 1u);
  EXPECT_TRUE(table->observe_epoch(Epoch(5)));
  EXPECT_TRUE(table->observe_epoch(Epoch(5)));
  EXPECT_FALSE(table->observe_epoch(Epoch(4)));
  EXPECT_EQ(table->epoch(), Epoch(5));
  remove_shm(name);
}

TEST(UnfilledTable, FindsWhatIsNotedHoweverMuchCameAndWent) {
  const auto cluster = Uuid::random();
  const auto name = "/reelfs-test-" + cluster.to_string();
  const auto table = UnfilledTable::create(name, cluster, Uuid::random(), 32).value();
  std::map<std::uint64_t, std::uint32_t> noted;
  std::mt19937 dice(7);
  for (std::uint32_t step = 0; step < 20'000; ++step) {
    UnfilledTable::Entry entry;
    entry.segment = dice() % 48 + 1;
    entry.block = step;
    if (dice() % 2 == 0) {
      table->remove(SegmentId(entry.segment));
      noted.erase(entry.segment);
    } else if (noted.size() < 32 || noted.contains(entry.segment)) {
      table->put(entry);
      noted[entry.segment] = step;
    }
    const SegmentId segment(dice() % 48 + 1);
    const auto found = table->find(segment);
    ASSERT_EQ(found.has_value(), noted.contains(segment.value)) << step;
    if (found) {
      ASSERT_EQ(found->block, noted.at(segment.value));
    }
  }
  EXPECT_EQ(table->entries().size(), noted.size());
  remove_shm(name);
}

TEST(ProcessIdentity, AProcessThatCannotBeLookedAtIsNotCalledDead) {
  const auto self = ProcessIdentity::self();
  rlimit before{};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
  const rlimit none{0, before.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &none), 0);
  const bool alive = is_alive(self);
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &before), 0);
  EXPECT_TRUE(alive);
}

TEST(ProcessIdentity, IsStoppedWhenAllItsThreadsAre) {
  EXPECT_FALSE(is_stopped(static_cast<std::uint32_t>(getpid())));
  EXPECT_FALSE(is_stopped(0));
  const pid_t child = fork();
  if (child == 0) {
    raise(SIGSTOP);
    _exit(0);
  }
  ASSERT_EQ(waitpid(child, nullptr, WUNTRACED), child);
  EXPECT_TRUE(is_stopped(static_cast<std::uint32_t>(child)));
  kill(child, SIGCONT);
  ASSERT_EQ(waitpid(child, nullptr, 0), child);
  EXPECT_FALSE(is_stopped(static_cast<std::uint32_t>(child)));
}

TEST(ProcessIdentity, ADeadProcessIsNotAliveNorIsOneWithItsNumber) {
  EXPECT_TRUE(is_alive(ProcessIdentity::self()));
  auto other = ProcessIdentity::self();
  other.start_ticks += 1;
  EXPECT_FALSE(is_alive(other));
  int ready[2];
  ASSERT_EQ(pipe(ready), 0);
  const pid_t child = fork();
  if (child == 0) {
    const auto identity = ProcessIdentity::self();
    const bool written = write(ready[1], &identity, sizeof identity) == sizeof identity;
    while (written) pause();
    _exit(1);
  }
  ProcessIdentity identity;
  ASSERT_EQ(::read(ready[0], &identity, sizeof identity), static_cast<ssize_t>(sizeof identity));
  EXPECT_TRUE(is_alive(identity));
  kill(child, SIGKILL);
  siginfo_t ended{};
  waitid(P_PID, static_cast<id_t>(child), &ended, WEXITED | WNOWAIT);
  EXPECT_FALSE(is_alive(identity)) << "dead, though nobody waited for it yet";
  waitpid(child, nullptr, 0);
  EXPECT_FALSE(is_alive(identity));
  close(ready[0]);
  close(ready[1]);
}

TEST(ProcessIdentity, OneOfWhichOnlyACallIsLeftIsAliveAndDoesNotRun) {
  EXPECT_TRUE(is_running(ProcessIdentity::self()));
  int ready[2];
  ASSERT_EQ(pipe(ready), 0);
  const pid_t child = fork();
  if (child == 0) {
    const auto identity = ProcessIdentity::self();
    std::thread([&] {
      // Its first thread is to end before.
      while (is_running(identity)) std::this_thread::yield();
      const bool written = write(ready[1], &identity, sizeof identity) == sizeof identity;
      while (written) pause();
    }).detach();
    syscall(SYS_exit, 0);
  }
  ProcessIdentity identity;
  ASSERT_EQ(::read(ready[0], &identity, sizeof identity), static_cast<ssize_t>(sizeof identity));
  EXPECT_TRUE(is_alive(identity));
  EXPECT_FALSE(is_running(identity));
  kill(child, SIGKILL);
  waitpid(child, nullptr, 0);
  EXPECT_FALSE(is_alive(identity));
  EXPECT_FALSE(is_running(identity));
  close(ready[0]);
  close(ready[1]);
}

}  // namespace
}  // namespace reelfs::noded
