// A child process is killed at each crash point of the shared-memory code; whoever survives goes on, and what
// must hold, holds.
#include <cstdlib>
#include <map>
#include <string>

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "noded/shm/crash_point.h"
#include "noded/shm/device_table.h"
#include "noded/shm/process_table.h"
#include "noded/shm/unfilled_table.h"

namespace reelfs::noded {
namespace {

constexpr WorkerId kChild{1};
constexpr WorkerId kSurvivor{2};
constexpr std::uint64_t kBlockBytes = 4 * kMiB;
constexpr std::uint64_t kSegments = 12;

/// What the "device" holds of the descriptor table: in memory that parent and child share, as a disk would
/// be.
class TablePages {
 public:
  explicit TablePages(std::uint32_t pages)
      : area_(ShmArea::create(name_, ShmShape(), 0, (pages + 1) * kPageBytes).value()) {}
  ~TablePages() { remove_shm(name_); }
  std::span<std::byte> page(std::uint32_t page) {
    return {area_->data() + (page + 1) * kPageBytes, kPageBytes};
  }

 private:
  const std::string name_ = "/reelfs-test-pages-" + Uuid::random().to_string();
  std::unique_ptr<ShmArea> area_;
};

class ShmCrash : public ::testing::TestWithParam<std::string> {
 protected:
  ShmCrash() {
    DeviceTable::Identity identity;
    identity.cluster = cluster;
    identity.superblock.cluster = cluster;
    identity.superblock.device = DeviceId(3);
    identity.superblock.geometry = plan_geometry(kMiB + 40 * kBlockBytes + kPageBytes, kBlockBytes).value();
    std::vector<DeviceTable::Found> blocks(identity.superblock.geometry.block_count);
    for (auto& found : blocks) found.rewrite = true;
    table = DeviceTable::create(table_name, identity, blocks).value();
    unfilled = UnfilledTable::create(unfilled_name, cluster, Uuid{}, 64).value();
    process = ProcessTable::create(process_name, cluster, Uuid{}, kChild, ProcessIdentity::self()).value();
    persist(kSurvivor, 0);
    persist(kSurvivor, 1);
  }
  ~ShmCrash() override {
    for (const auto& name : {table_name, unfilled_name, process_name}) remove_shm(name);
  }

  bool persist(WorkerId worker, std::uint32_t page) {
    Buffer copy(kPageBytes);
    const auto claimed = table->claim_page(page, {worker, 1, {}}, table->page_changes(page), copy.span());
    if (claimed.claim == DeviceTable::PageClaim::busy) return false;
    if (claimed.claim == DeviceTable::PageClaim::written) return true;
    std::copy(copy.span().begin(), copy.span().end(), pages.page(page).begin());
    table->release_page(page, worker, claimed.changes, true);
    return true;
  }

  /// @return whether it was this worker's turn
  bool flush(WorkerId worker) {
    const auto state = table->flushes();
    DeviceTable::FlushWish wish;
    wish.worker = worker;
    wish.wanted = state.begun + 1;
    wish.trusts = state.lost;
    const auto turn = table->join_flush(wish);
    if (turn.kind != FlushTurn::Kind::mine) return false;
    table->end_flush(turn.number, worker, true);
    return true;
  }

  /// A segment's whole life, several times over, as a worker leads it.
  void work(WorkerId worker, std::uint64_t first_segment) {
    for (std::uint64_t i = 0; i < kSegments; ++i) {
      const SegmentId segment(first_segment + i);
      const UnfilledTable::AllocationLock lock(*unfilled);
      const auto block = table->allocate(segment, Generation(1), InodeId(2), worker, 1);
      if (!block) continue;
      const BlockAddress address{DeviceId(3), block.value()};
      persist(worker, DeviceTable::page_of(block.value()));
      if (worker == kChild) process->add(address);
      DeviceTable::Append append;
      append.block = block.value();
      append.segment = segment;
      append.generation = Generation(1);
      append.worker = worker;
      (void)table->begin_append(append, 0, kPageBytes, false);
      (void)table->end_append(append, kPageBytes);
      (void)flush(worker);
      if (i % 4 == 0) continue;  // stays open, and owned
      (void)table->fence(block.value(), segment, Generation(2));
      (void)table->settle_fence(block.value(), segment, Generation(2));
      if (i % 4 == 1) {
        (void)table->reopen(block.value(), segment, Generation(3), kPageBytes);
        UnfilledTable::Entry entry;
        entry.segment = segment.value;
        entry.device = 3;
        entry.block = block.value();
        unfilled->put(entry);
        (void)table->release(block.value(), segment, Generation(3));
      } else {
        (void)table->seal(block.value(), segment, Generation(3), kPageBytes);
      }
      if (i % 4 == 3) {
        (void)table->begin_free(block.value(), segment, worker);
        table->finish_free(block.value());
      }
      persist(worker, DeviceTable::page_of(block.value()));
    }
  }

  /// What the leader does after a worker's death.
  void adopt() {
    for (const auto address : process->blocks()) table->disown(address.block, kChild);
    table->release_claims(kChild);
    for (const auto page : table->dirty_pages()) EXPECT_TRUE(persist(kSurvivor, page));
  }

  void expect_invariants() {
    const auto good = table->check();
    EXPECT_TRUE(good) << good.error().describe();
    EXPECT_TRUE(table->owned_by(kChild).empty());
    EXPECT_TRUE(table->dirty_pages().empty());
    EXPECT_LE(table->flushes().stable, table->flushes().begun);
    std::map<std::uint64_t, int> seen;
    for (std::uint32_t block = 0; block < table->geometry().block_count; ++block) {
      const auto slot = table->slot(block);
      EXPECT_EQ(slot.discarding, 0u);
      EXPECT_EQ(slot.in_flight, 0u);
      const auto at = block % kDescriptorsPerPage * sizeof(DescriptorEntry);
      const auto entry = pages.page(DeviceTable::page_of(block)).subspan(at, sizeof(DescriptorEntry));
      EXPECT_EQ(decode_descriptor({DeviceId(3), block}, kBlockBytes, entry).value(), slot.descriptor)
          << block;
      if (slot.descriptor.segment != 0) {
        EXPECT_EQ(++seen[slot.descriptor.segment], 1);
      }
    }
  }

  const Uuid cluster = Uuid::random();
  const std::string table_name = "/reelfs-test-dev-" + cluster.to_string();
  const std::string unfilled_name = "/reelfs-test-unfilled-" + cluster.to_string();
  const std::string process_name = "/reelfs-test-proc-" + cluster.to_string();
  TablePages pages{2};
  std::unique_ptr<DeviceTable> table;
  std::unique_ptr<UnfilledTable> unfilled;
  std::unique_ptr<ProcessTable> process;
};

TEST_P(ShmCrash, TheSurvivorGoesOnAndNothingIsLostOrOwnedTwice) {
  std::uint64_t next_segment = 1;
  int killed = 0;
  // At the first, second … arrival there, until the child gets through its work alive.
  for (int arrival = 1;; ++arrival) {
    const auto armed = GetParam() + ":" + std::to_string(arrival);
    const pid_t child = fork();
    if (child == 0) {
      setenv("REELFS_CRASH_POINT", armed.c_str(), 1);
      arm_crash_point();
      work(kChild, next_segment);
      _exit(0);
    }
    int status = 0;
    waitpid(child, &status, 0);
    adopt();
    expect_invariants();
    EXPECT_TRUE(flush(kSurvivor)) << "nobody is waited for";
    EXPECT_EQ(table->flushes().stable, table->flushes().begun);
    if (HasFailure()) FAIL() << "killed at " << armed;
    // The survivor leads the same segments to their ends, and frees all, so that each round begins alike.
    for (std::uint32_t block = 0; block < table->geometry().block_count; ++block) {
      const auto slot = table->slot(block);
      if (slot.descriptor.segment == 0) continue;
      ASSERT_TRUE(table->begin_free(block, SegmentId(slot.descriptor.segment), kSurvivor));
      table->finish_free(block);
      unfilled->remove(SegmentId(slot.descriptor.segment));
      process->remove({DeviceId(3), block});
    }
    work(kSurvivor, next_segment + kSegments);
    EXPECT_EQ(table->counts().free, table->counts().blocks - kSegments + kSegments / 4);
    for (std::uint32_t block = 0; block < table->geometry().block_count; ++block) {
      const auto slot = table->slot(block);
      if (slot.descriptor.segment == 0) continue;
      table->disown(block, kSurvivor);
      ASSERT_TRUE(table->begin_free(block, SegmentId(slot.descriptor.segment), kSurvivor));
      table->finish_free(block);
      unfilled->remove(SegmentId(slot.descriptor.segment));
    }
    next_segment += 2 * kSegments;
    if (WIFEXITED(status)) break;
    ASSERT_EQ(WTERMSIG(status), SIGKILL);
    ++killed;
  }
  EXPECT_GT(killed, 0) << "the point was never reached";
  RecordProperty("killed", killed);
}

INSTANTIATE_TEST_SUITE_P(EachPoint, ShmCrash,
                         ::testing::Values("table.redo.filled", "table.redo.published",
                                           "table.change.unlinked", "table.change.half",
                                           "table.change.applied", "table.append.owned",
                                           "table.append.counted", "table.append.advanced", "page.claimed",
                                           "page.written", "page.marked", "process.added", "unfilled.filled",
                                           "flush.counted", "flush.claimed", "flush.counted_stable",
                                           "flush.ended"),
                         [](const auto& info) {
                           auto name = info.param;
                           for (auto& letter : name) letter = letter == '.' ? '_' : letter;
                           return name;
                         });

class RetireCrash : public ShmCrash {};

TEST_P(RetireCrash, ADeviceServesUntilItsReasonIsThere) {
  const pid_t child = fork();
  if (child == 0) {
    setenv("REELFS_CRASH_POINT", GetParam().c_str(), 1);
    arm_crash_point();
    table->retire(DeviceHealth::failed, "the child's reason, which nobody is to see", 1);
    _exit(0);
  }
  int status = 0;
  waitpid(child, &status, 0);
  ASSERT_TRUE(WIFSIGNALED(status)) << "the point was never reached";
  EXPECT_TRUE(table->serving());
  EXPECT_EQ(table->verdict().reason, "");
  EXPECT_TRUE(table->retire(DeviceHealth::stuck, "the survivor's", 2));
  const auto verdict = table->verdict();
  EXPECT_EQ(verdict.health, DeviceHealth::stuck);
  EXPECT_EQ(verdict.reason, "the survivor's");
  EXPECT_EQ(verdict.since_ns, 2);
  EXPECT_EQ(table->repair_count(), 1u);
  expect_invariants();
}

INSTANTIATE_TEST_SUITE_P(EachPoint, RetireCrash, ::testing::Values("table.retire.filled"));

}  // namespace
}  // namespace reelfs::noded
