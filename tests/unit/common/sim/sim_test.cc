#include <algorithm>
#include <set>

#include <boost/asio/io_context.hpp>
#include <gtest/gtest.h>
#include <stdlib.h>

#include "common/base/buffer.h"
#include "common/sim/seeds.h"
#include "common/sim/sim_clock.h"
#include "common/sim/sim_disk.h"
#include "tests/unit/common/run.h"

namespace reelfs::sim {
namespace {

using namespace std::chrono_literals;

Buffer filled(std::size_t bytes, int with) {
  Buffer buffer(bytes);
  std::fill(buffer.span().begin(), buffer.span().end(), static_cast<std::byte>(with));
  return buffer;
}

class SimDiskTest : public ::testing::Test {
 protected:
  template <class T>
  T run(asio::awaitable<T> coroutine) {
    return testing::run(context_, std::move(coroutine));
  }
  void write(SimDisk& disk, std::uint64_t offset, const Buffer& bytes) {
    ASSERT_TRUE(run(disk.write(offset, bytes.span())));
  }
  std::string read(SimDisk& disk, std::uint64_t offset, std::size_t bytes) {
    Buffer buffer(bytes);
    EXPECT_TRUE(run(disk.read(offset, buffer.span())));
    return std::string(buffer.view());
  }
  asio::io_context context_;
};

TEST_F(SimDiskTest, KeepsWhatWasSyncedAndLosesTheRest) {
  SimDisk disk(1 << 20, 1);
  write(disk, 0, filled(8192, 1));
  ASSERT_TRUE(run(disk.sync()));
  write(disk, 4096, filled(4096, 2));
  EXPECT_EQ(read(disk, 4096, 4096), filled(4096, 2).view());
  disk.crash(CrashFault::lose_unsynced);
  EXPECT_EQ(read(disk, 0, 8192), filled(8192, 1).view());
  EXPECT_EQ(disk.writes(), 2u);
  EXPECT_EQ(disk.syncs(), 1u);
}

TEST_F(SimDiskTest, ReordersWholeWritesAndTearsSectors) {
  std::set<std::string> reordered;
  bool torn = false;
  for (const auto seed : seeds(64)) {
    SimDisk disk(1 << 20, seed);
    write(disk, 0, filled(4096, 1));
    write(disk, 4096, filled(4096, 2));
    disk.crash(CrashFault::reorder_unsynced);
    const auto first = read(disk, 0, 4096);
    const auto second = read(disk, 4096, 4096);
    ASSERT_TRUE(first == filled(4096, 0).view() || first == filled(4096, 1).view());
    ASSERT_TRUE(second == filled(4096, 0).view() || second == filled(4096, 2).view());
    reordered.insert({first[0], second[0]});
    write(disk, 8192, filled(4096, 3));
    disk.crash(CrashFault::tear_unsynced);
    const auto page = read(disk, 8192, 4096);
    for (std::size_t at = 0; at < page.size(); ++at) {
      ASSERT_EQ(page[at], page[at / 512 * 512]);
      torn = torn || (page[at] == 3) != (page[0] == 3);
    }
  }
  EXPECT_EQ(reordered.size(), 4u);  // neither, either, both
  EXPECT_TRUE(torn);
}

TEST_F(SimDiskTest, AFailedSyncCoversNothing) {
  SimDisk disk(1 << 20, 1);
  write(disk, 0, filled(4096, 1));
  disk.fail_syncs(true);
  EXPECT_EQ(run(disk.sync()).error().code(), Errc::io);
  disk.crash(CrashFault::lose_unsynced);
  EXPECT_EQ(read(disk, 0, 4096), filled(4096, 0).view());
}

TEST_F(SimDiskTest, FailsRotsAndMisdirectsOnRequest) {
  SimDisk disk(1 << 20, 1);
  write(disk, 0, filled(4096, 0));
  disk.flip_bit(100, 3);
  EXPECT_EQ(read(disk, 0, 4096)[100], 8);
  disk.misdirect_next_write(8192);
  write(disk, 4096, filled(4096, 7));
  EXPECT_EQ(read(disk, 4096, 4096), filled(4096, 0).view());
  EXPECT_EQ(read(disk, 8192, 4096), filled(4096, 7).view());
  auto page = filled(4096, 1);
  disk.fail_reads(true);
  EXPECT_EQ(run(disk.read(0, page.span())).error().code(), Errc::io);
  disk.fail_writes(true);
  EXPECT_EQ(run(disk.write(0, page.span())).error().code(), Errc::io);
  EXPECT_EQ(run(disk.write(1 << 20, page.span())).error().code(), Errc::out_of_range);
}

TEST_F(SimDiskTest, DiscardedPagesReadAsZero) {
  SimDisk disk(1 << 20, 1);
  write(disk, 0, filled(3 * 4096, 1));
  ASSERT_TRUE(run(disk.discard(4096, 4096)));
  EXPECT_EQ(read(disk, 0, 4096), filled(4096, 1).view());
  EXPECT_EQ(read(disk, 4096, 4096), filled(4096, 0).view());
  EXPECT_EQ(read(disk, 8192, 4096), filled(4096, 1).view());
}

TEST(SimClock, PassesWhenTold) {
  SimClock clock;
  const auto begin = clock.now();
  const auto wall = clock.wall();
  EXPECT_EQ(clock.now(), begin);
  clock.advance(5s);
  EXPECT_EQ(clock.now() - begin, 5s);
  EXPECT_EQ(clock.wall() - wall, 5s);
}

TEST(Seeds, ComeFromTheEnvironmentWhereGiven) {
  const char* before = getenv("REELFS_SEED");
  const std::string kept = before != nullptr ? before : "";
  setenv("REELFS_SEED", "8817", 1);
  EXPECT_EQ(seeds(), std::vector<std::uint64_t>{8817});
  unsetenv("REELFS_SEED");
  EXPECT_EQ(seeds(3), (std::vector<std::uint64_t>{1, 2, 3}));
  if (before != nullptr) setenv("REELFS_SEED", kept.c_str(), 1);
}

}  // namespace
}  // namespace reelfs::sim
