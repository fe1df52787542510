// Real worker processes of one node, against an index that is part of the test.
#include <cstddef>

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "common/base/crc32c.h"
#include "tests/unit/noded/processes_fixture.h"

namespace reelfs::noded {
namespace {

TEST_F(ProcessesTest, AnyWorkerServesWhatAnotherWrote) {
  start_node();
  EXPECT_EQ(append(2, {}).value().end(), unit);
  Buffer piece;
  ASSERT_TRUE(read(1, 1, piece));
  const auto expected = make_unit({});
  EXPECT_EQ(piece.view(), expected.view().substr(0, wire::record_header_bytes(5000) + 5000));
  EXPECT_EQ(append(1, {.offset = unit}).value().end(), 2 * unit) << "the writer comes through another worker";
  EXPECT_EQ(allocate(1, 1).value().block(), allocate(2, 1).value().block());
}

TEST_F(ProcessesTest, AFollowerTakesOverFromAKilledLeader) {
  start_node();
  ASSERT_TRUE(allocate(1, 2));
  ASSERT_TRUE(append(1, {.segment = SegmentId(2)}));
  end(1, SIGKILL);
  ASSERT_TRUE(wait_until([&] { return is_leader(2) && has_device(2, wire::STATE_ONLINE); }));
  EXPECT_EQ(append(2, {.segment = SegmentId(2), .offset = unit}).value().end(), 2 * unit);
  index.forget();
  start(1);
  ASSERT_TRUE(wait_until([&] { return index.status(1) != nullptr && is_leader(2); }));
  EXPECT_FALSE(is_leader(1));
  EXPECT_EQ(append(1, {.segment = SegmentId(2), .offset = 2 * unit}).value().end(), 3 * unit);
}

// A killed process lives on while one of its threads is in a system call; a stopped one looks the same.
TEST_F(ProcessesTest, AFollowerWaitsForItsDyingPredecessor) {
  start_node();
  pause_for_successor(2);
  ASSERT_TRUE(wait_until([&] { return log_has("runs already as process"); }));
  EXPECT_EQ(kill(pids.at(2), 0), 0) << "it has not given up";
  end_predecessor();
  ASSERT_TRUE(wait_until([&] { return index.status(2) != nullptr; }));
  EXPECT_TRUE(allocate(2, 1)) << "what the predecessor had is served again";
}

// With an old copy of a page in its hands, which it writes when it is continued.
TEST_F(ProcessesTest, AWorkerThatIsStoppedInAWriteOfTheTableHoldsUpNobody) {
  start_node();
  end(2, SIGKILL);
  index.forget();
  setenv("REELFS_CRASH_POINT", "page.copied:1:stop", 1);
  start(2);
  unsetenv("REELFS_CRASH_POINT");
  ASSERT_TRUE(wait_until([&] { return index.status(1) != nullptr && index.status(2) != nullptr; }));
  patience = 200ms;
  ASSERT_TRUE(wait_until([&] {
    (void)allocate(2, 2);
    int status = 0;
    return waitpid(pids.at(2), &status, WUNTRACED | WNOHANG) == pids.at(2) && WIFSTOPPED(status);
  }));
  patience = 5s;
  EXPECT_TRUE(allocate(1, 3)) << "in the same page";
  kill(pids.at(2), SIGCONT);
  wire::DescribeNodeRequest request;
  request.set_check(true);
  Result<wire::DescribeNodeReply> told = Error(Errc::busy);
  ASSERT_TRUE(wait_until([&] {
    told = call<wire::DescribeNodeReply>(1, Method::describe_node, request);
    return told && told.value().devices_size() == 1 && told.value().devices(0).dirty_pages() == 0;
  })) << "it makes good for what it has overwritten";
  for (const auto& fault : told.value().faults()) ADD_FAILURE() << fault;
}

TEST_F(ProcessesTest, ALeaderWaitsForItsDyingPredecessor) {
  start_node();
  kill(pids.at(2), SIGSTOP);
  end(1, SIGKILL);
  pause_for_successor(2);
  ASSERT_TRUE(wait_until([&] { return log_has("adopting the shared memory of the running node"); }));
  end_predecessor();
  ASSERT_TRUE(wait_until([&] { return is_leader(2) && has_device(2, wire::STATE_ONLINE); }));
  EXPECT_TRUE(allocate(2, 1));
}

TEST_F(ProcessesTest, FindsEverythingAfterAllWereKilled) {
  start_node();
  for (std::uint64_t i = 0; i < 3; ++i) ASSERT_TRUE(append(2, {.offset = i * unit}));
  end(1, SIGKILL);
  end(2, SIGKILL);
  index.forget();
  index.ask_for_blocks();
  start(2);
  ASSERT_TRUE(wait_until([&] { return is_leader(2) && index.blocks().blocks_size() > 0; }));
  ASSERT_EQ(index.blocks().blocks_size(), 1);
  EXPECT_EQ(index.blocks().blocks(0).segment(), 1u);
  EXPECT_EQ(index.blocks().blocks(0).length(), 3 * unit);
  EXPECT_FALSE(index.blocks().blocks(0).sealed());
  EXPECT_EQ(append(2, {.offset = 3 * unit}).value().end(), 4 * unit);
}

TEST_F(ProcessesTest, FreesWhatTheIndexDoesNotKnow) {
  start_node();
  const auto free_blocks = [&] { return index.status(1)->devices(0).free_blocks(); };
  ASSERT_TRUE(wait_until([&] { return free_blocks() == 14; }));
  index.have_freed(SegmentId(1));
  index.ask_for_blocks();
  EXPECT_TRUE(wait_until([&] { return free_blocks() == 15; }));
}

TEST_F(ProcessesTest, AnEarlierEpochsIndexIsNotAskedWhatToFree) {
  start_node();
  index.set_epoch(Epoch(2));
  index.have_freed(SegmentId(1));
  index.ask_for_blocks();
  EXPECT_TRUE(wait_until([&] { return log_has("epoch 2 is over") || index.blocks().blocks_size() > 0; }));
  EXPECT_EQ(index.blocks().blocks_size(), 0);
}

TEST_F(ProcessesTest, RefusesAnEarlierEpochsCommands) {
  start_node();
  rpc::Client client(context, clock,
                     {"127.0.0.1", static_cast<std::uint16_t>(index.status(1)->endpoint().port())}, {});
  client.set_epoch(Epoch(2));
  wire::FreeSegmentRequest request;
  request.set_segment(1);
  const auto reply =
      testing::run(context, client.call(Method::free_segment, request, Deadline::after(clock, kPatience)));
  testing::run(context, client.stop());
  ASSERT_FALSE(reply);
  EXPECT_EQ(reply.error().code(), Errc::stale_epoch);
}

TEST_F(ProcessesTest, ACommandThatComesAfterALaterOneIsRefused) {
  start_node();
  const auto path = (files.directory() / "dev1").string();
  wire::AttachDeviceRequest attach;
  attach.set_path(path);
  attach.set_cluster(files.cluster.raw());
  attach.set_block_bytes(4 * kMiB);
  attach.set_command(5);
  wire::DetachDeviceRequest detach;
  detach.set_path(path);
  detach.set_cluster(files.cluster.raw());
  detach.set_command(6);
  ASSERT_TRUE(call<wire::AttachDeviceReply>(1, Method::attach_device, attach));
  ASSERT_TRUE(call<wire::DetachDeviceReply>(1, Method::detach_device, detach));
  for (const std::uint32_t worker : {1, 2}) {
    const auto late = call<wire::AttachDeviceReply>(worker, Method::attach_device, attach);
    ASSERT_FALSE(late) << "through worker " << worker;
    EXPECT_EQ(late.error().code(), Errc::stale_generation) << late.error().describe();
    EXPECT_TRUE(call<wire::DetachDeviceReply>(worker, Method::detach_device, detach)) << "a repetition";
  }
  attach.set_command(7);
  EXPECT_TRUE(call<wire::AttachDeviceReply>(2, Method::attach_device, attach));
}

/// Makes the node's shared memory look like another version's, and back.
class OtherVersionTest : public ProcessesTest {
 protected:
  std::vector<std::string> areas() const {
    return list_shm("/reelfs-" + files.cluster.to_string().substr(0, 8));
  }
  void set_layout_version(std::uint32_t version) const {
    for (const auto& name : areas()) {
      const int fd = shm_open(name.c_str(), O_RDWR | O_CLOEXEC, 0);
      ASSERT_GE(fd, 0);
      void* mapped = mmap(nullptr, sizeof(ShmHeader), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
      close(fd);
      ASSERT_NE(mapped, MAP_FAILED);
      auto& header = *static_cast<ShmHeader*>(mapped);
      header.layout_version = version;
      header.checksum = crc32c({static_cast<const std::byte*>(mapped), offsetof(ShmHeader, checksum)});
      munmap(mapped, sizeof(ShmHeader));
    }
  }
  int status_at_end(std::uint32_t worker) {
    int status = 0;
    EXPECT_TRUE(wait_until([&] { return waitpid(pids.at(worker), &status, WNOHANG) != 0; }));
    pids.erase(worker);
    return WEXITSTATUS(status);
  }
  static constexpr std::uint32_t kOther = kShmLayoutVersion + 1;
};

TEST_F(OtherVersionTest, ANodeWithoutProcessesIsRebuiltFromItsDevices) {
  start_node();
  ASSERT_TRUE(append(2, {}));
  end(1, SIGKILL);
  end(2, SIGKILL);
  set_layout_version(kOther);
  index.forget();
  start(2);
  ASSERT_TRUE(wait_until([&] { return has_device(2, wire::STATE_ONLINE); }));
  EXPECT_EQ(append(2, {.offset = unit}).value().end(), 2 * unit);
}

TEST_F(OtherVersionTest, ANewLeaderLeavesALivingProcessOfAnotherVersionAlone) {
  start_node();
  ASSERT_TRUE(append(2, {}));
  kill(pids.at(2), SIGSTOP);  // so that it does not lead at once
  end(1, SIGKILL);
  const auto before = areas();
  set_layout_version(kOther);
  start(1);
  EXPECT_EQ(status_at_end(1), 1);
  EXPECT_EQ(areas(), before);
  set_layout_version(kShmLayoutVersion);
  kill(pids.at(2), SIGCONT);
  ASSERT_TRUE(wait_until([&] { return is_leader(2); }));
  EXPECT_EQ(append(2, {.offset = unit}).value().end(), 2 * unit);
}

TEST_F(OtherVersionTest, AFollowerOfALeaderOfAnotherVersionEnds) {
  start_node();
  ASSERT_TRUE(append(1, {}));
  end(2, SIGKILL);
  set_layout_version(kOther);
  start(2);
  EXPECT_EQ(status_at_end(2), 1);
  EXPECT_EQ(append(1, {.offset = unit}).value().end(), 2 * unit) << "the leader goes on";
  set_layout_version(kShmLayoutVersion);
  index.forget();
  start(2);
  ASSERT_TRUE(wait_until([&] { return index.status(2) != nullptr; }));
  EXPECT_EQ(append(2, {.offset = 2 * unit}).value().end(), 3 * unit);
}

TEST_F(ProcessesTest, AnyWorkerDescribesTheNode) {
  start_node();
  ASSERT_TRUE(append(1, {}));
  ASSERT_TRUE(allocate(1, 2));
  for (const std::uint32_t worker : {1, 2}) {
    const auto told =
        call<wire::DescribeNodeReply>(worker, Method::describe_node, wire::DescribeNodeRequest());
    ASSERT_TRUE(told) << told.error().describe();
    const auto& node = told.value();
    EXPECT_EQ(node.node_name(), "node1");
    EXPECT_EQ(node.worker(), worker);
    EXPECT_EQ(node.epoch(), 3u);
    ASSERT_EQ(node.devices_size(), 1);
    const auto& device = node.devices(0);
    EXPECT_EQ(device.path(), (files.directory() / "dev1").string());
    EXPECT_EQ(device.free_blocks(), 13u);
    EXPECT_EQ(device.open_blocks(), 1u);
    EXPECT_EQ(device.unfilled_blocks(), 1u) << "granted, and not written yet";
    EXPECT_EQ(device.sealed_blocks() + device.freeing_blocks() + device.appends_in_flight(), 0u);
    ASSERT_EQ(node.processes_size(), 2);
    for (const auto& process : node.processes()) {
      EXPECT_EQ(process.pid(), static_cast<std::uint32_t>(pids.at(process.worker())));
      EXPECT_EQ(process.leader(), process.worker() == 1);
      EXPECT_TRUE(process.alive());
      EXPECT_EQ(process.owned_blocks(), process.worker() == 1 ? 1u : 0u);
      const std::chrono::nanoseconds age(clock.wall().time_since_epoch().count() - process.started_ns());
      EXPECT_TRUE(age > -1s && age < 60s) << age.count();
    }
    ASSERT_EQ(node.processes(0).blocks_size(), 1);
    EXPECT_EQ(node.processes(0).blocks(0).segment(), 1u);
  }
}

TEST_F(ProcessesTest, DescribesWhatADeadWorkerLeftBehind) {
  start_node();
  ASSERT_TRUE(append(2, {}));
  end(2, SIGKILL);
  const auto unfilled = [&] {
    const auto told = call<wire::DescribeNodeReply>(1, Method::describe_node, wire::DescribeNodeRequest());
    return told && told.value().unfilled_size() == 1 ? told.value().unfilled(0) : wire::UnfilledBlock();
  };
  ASSERT_TRUE(wait_until([&] { return unfilled().segment() == 1; }));
  EXPECT_EQ(unfilled().length(), unit);
}

TEST_F(ProcessesTest, LeavesNoSharedMemoryAfterACleanEnd) {
  start_node();
  const auto areas = list_shm("/reelfs-" + files.cluster.to_string().substr(0, 8));
  EXPECT_EQ(areas.size(), 4u) << "device, two processes, unfilled";
  EXPECT_EQ(end(1, SIGTERM), 0);
  ASSERT_TRUE(wait_until([&] { return is_leader(2); }));
  EXPECT_EQ(end(2, SIGTERM), 0);
  EXPECT_TRUE(list_shm("/reelfs-" + files.cluster.to_string().substr(0, 8)).empty());
}

}  // namespace
}  // namespace reelfs::noded
