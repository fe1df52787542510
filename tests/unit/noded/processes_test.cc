// Real worker processes of one node, against an index that is part of the test.
#include <chrono>
#include <fstream>
#include <map>

#include <boost/asio/io_context.hpp>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>

#include "common/async/timeout.h"
#include "common/rpc/client.h"
#include "common/rpc/server.h"
#include "common/wire/node.pb.h"
#include "tests/unit/noded/node_fixture.h"

extern char** environ;

namespace reelfs::noded {
namespace {

using namespace std::chrono_literals;
using wire::Method;

constexpr Duration kPatience = 20s;

/// Answers workers' registrations and heartbeats, and remembers what they said last.
class FakeIndex {
 public:
  FakeIndex(asio::io_context& context, const Clock& clock, Uuid cluster)
      : cluster_(cluster),
        server_(context, clock, {}, [this](rpc::Request request) { return answer(std::move(request)); }) {
    endpoint_ = server_.listen({"127.0.0.1", 0}).value();
  }
  asio::awaitable<void> stop() { return server_.stop(); }
  const rpc::Endpoint& endpoint() const { return endpoint_; }
  /// What a worker said last; null before it said anything, and after `forget`.
  const wire::WorkerStatus* status(std::uint32_t worker) const {
    const auto at = statuses_.find(worker);
    return at == statuses_.end() ? nullptr : &at->second;
  }
  void forget() { statuses_.clear(); }
  void ask_for_blocks() { ask_for_blocks_ = true; }
  const wire::ReportBlocksRequest& blocks() const { return blocks_; }
  /// The next block report's answer names this segment.
  void have_freed(SegmentId segment) { free_ = segment; }

 private:
  Task<rpc::Response> answer(rpc::Request request) {
    if (request.method == Method::register_worker) {
      REELFS_CO_TRY(const auto message, request.parse<wire::RegisterWorkerRequest>());
      incarnations_[message.incarnation()] = true;
      statuses_[message.status().worker()] = message.status();
      wire::RegisterWorkerReply reply;
      reply.set_cluster(cluster_.raw());
      reply.set_node(1);
      reply.set_epoch(3);
      reply.set_heartbeat_ms(50);
      co_return rpc::Response(reply);
    }
    if (request.method == Method::heartbeat) {
      REELFS_CO_TRY(const auto message, request.parse<wire::HeartbeatRequest>());
      statuses_[message.status().worker()] = message.status();
      wire::HeartbeatReply reply;
      reply.set_epoch(3);
      reply.set_register_again(!incarnations_.contains(message.incarnation()));
      reply.set_report_blocks(ask_for_blocks_ && message.status().leader());
      co_return rpc::Response(reply);
    }
    REELFS_CO_TRY(blocks_, request.parse<wire::ReportBlocksRequest>());
    ask_for_blocks_ = false;
    wire::ReportBlocksReply reply;
    for (const auto& block : blocks_.blocks()) {
      if (block.segment() == free_.value) *reply.add_free() = block;
    }
    co_return rpc::Response(reply);
  }

  const Uuid cluster_;
  rpc::Server server_;
  rpc::Endpoint endpoint_;
  std::map<std::uint32_t, wire::WorkerStatus> statuses_;
  std::map<std::string, bool> incarnations_;
  bool ask_for_blocks_ = false;
  wire::ReportBlocksRequest blocks_;
  SegmentId free_;
};

class ProcessesTest : public ::testing::Test {
 protected:
  ProcessesTest() : index(context, clock, files.cluster) {
    files.add_device("dev1", 64 * kMiB);
    std::ofstream config(files.directory() / "noded.toml");
    config << "cluster = \"" << files.cluster.to_string() << "\"\n"
           << "name = \"node1\"\n"
           << "indexes = [\"" << index.endpoint().to_string() << "\"]\n"
           << "internal_port = " << free_port() << "\n"
           << "workers = 2\n"
           << "devices = [\"dev1\"]\n"
           << "[log]\nfile = \"" << (files.directory() / "log").string() << "\"\n";
  }
  ~ProcessesTest() override {
    end_predecessor();
    for (const auto& [worker, pid] : pids) {
      kill(pid, SIGKILL);
      waitpid(pid, nullptr, 0);
    }
    testing::run(context, index.stop());
    if (HasFailure()) {
      std::ifstream log(files.directory() / "log");
      std::cerr << log.rdbuf();
    }
  }

  std::uint16_t free_port() {
    rpc::Server probe(context, clock, {},
                      [](rpc::Request) -> Task<rpc::Response> { co_return Error(Errc::busy); });
    const auto port = probe.listen({"127.0.0.1", 0}).value().port;
    testing::run(context, probe.stop());
    return port;
  }

  void start(std::uint32_t worker) {
    const auto config = (files.directory() / "noded.toml").string();
    const auto number = std::to_string(worker);
    std::string program = NODED_PROGRAM;
    std::string options[] = {"--config", config, "--worker", number};
    char* arguments[] = {program.data(),    options[0].data(), options[1].data(),
                         options[2].data(), options[3].data(), nullptr};
    pid_t pid = 0;
    ASSERT_EQ(posix_spawn(&pid, program.c_str(), nullptr, nullptr, arguments, environ), 0);
    pids[worker] = pid;
  }
  int end(std::uint32_t worker, int signal) {
    kill(pids.at(worker), signal);
    int status = 0;
    waitpid(pids.at(worker), &status, 0);
    pids.erase(worker);
    return status;
  }

  /// Starts a worker while the process that has its number is there still.
  void pause_for_successor(std::uint32_t worker) {
    predecessor = pids.at(worker);
    kill(predecessor, SIGSTOP);
    index.forget();
    start(worker);
  }
  void end_predecessor() {
    if (predecessor == 0) return;
    kill(predecessor, SIGKILL);
    waitpid(predecessor, nullptr, 0);
    predecessor = 0;
  }
  bool log_has(const std::string& words) {
    std::ifstream log(files.directory() / "log");
    const std::string text{std::istreambuf_iterator<char>(log), {}};
    return text.find(words) != std::string::npos;
  }

  /// Runs the loop until it is so.
  template <class Condition>
  bool wait_until(Condition condition) {
    const auto deadline = Deadline::after(clock, kPatience);
    while (!condition()) {
      if (deadline.left(clock) <= Duration::zero()) return false;
      testing::run(context, sleep_for(5ms));
    }
    return true;
  }
  bool is_leader(std::uint32_t worker) const {
    const auto* status = index.status(worker);
    return status != nullptr && status->leader();
  }
  bool has_device(std::uint32_t worker, wire::State state) const {
    const auto* status = index.status(worker);
    return status != nullptr && status->devices_size() == 1 && status->devices(0).state() == state;
  }

  template <class R>
  Result<R> call(std::uint32_t worker, Method method, const google::protobuf::MessageLite& request,
                 SharedBuffer payload = nullptr, Buffer* answered = nullptr) {
    const auto& endpoint = index.status(worker)->endpoint();
    rpc::Client client(context, clock, {endpoint.host(), static_cast<std::uint16_t>(endpoint.port())}, {});
    client.set_epoch(Epoch(3));
    auto reply = testing::run(
        context, client.call(method, request, Deadline::after(clock, kPatience), std::move(payload)));
    testing::run(context, client.stop());
    if (!reply) return reply.error();
    if (answered != nullptr) *answered = std::move(reply.value().payload);
    R message;
    EXPECT_TRUE(message.ParseFromString(reply.value().message));
    return message;
  }
  Result<wire::Empty> initialise(std::uint32_t worker) {
    wire::InitialiseDeviceRequest request;
    request.set_path((files.directory() / "dev1").string());
    request.set_uuid(device_uuid.raw());
    request.set_device(1);
    request.set_cluster(files.cluster.raw());
    request.set_block_bytes(4 * kMiB);
    return call<wire::Empty>(worker, Method::initialise_device, request);
  }
  Result<wire::AllocateBlockReply> allocate(std::uint32_t worker, std::uint64_t segment) {
    wire::AllocateBlockRequest request;
    request.set_segment(segment);
    request.set_generation(1);
    request.set_channel(2);
    return call<wire::AllocateBlockReply>(worker, Method::allocate_block, request);
  }
  Result<wire::AppendReply> append(std::uint32_t worker, const UnitOptions& options) {
    wire::AppendRequest request;
    request.set_segment(options.segment.value);
    request.set_generation(options.generation.value);
    request.set_offset(options.offset);
    return call<wire::AppendReply>(worker, Method::append, request,
                                   std::make_shared<Buffer>(make_unit(options)));
  }
  Result<wire::ReadRecordReply> read(std::uint32_t worker, std::uint64_t segment, Buffer& payload) {
    wire::ReadRecordRequest request;
    request.set_segment(segment);
    request.set_length(5000);
    return call<wire::ReadRecordReply>(worker, Method::read_record, request, nullptr, &payload);
  }
  void start_node() {
    start(1);
    ASSERT_TRUE(wait_until([&] { return is_leader(1) && has_device(1, wire::STATE_BLANK); }));
    start(2);
    ASSERT_TRUE(wait_until([&] { return index.status(2) != nullptr; }));
    EXPECT_FALSE(is_leader(2));
    ASSERT_TRUE(initialise(2)) << "a follower passes it on";
    ASSERT_TRUE(initialise(1)) << "and a repetition is harmless";
    ASSERT_TRUE(wait_until([&] { return has_device(1, wire::STATE_ONLINE); }));
    ASSERT_TRUE(wait_until([&] { return allocate(2, 1).has_value(); }))
        << "the follower attaches the new device";
  }

  NodeFiles files;
  const SystemClock clock;
  asio::io_context context{1};
  FakeIndex index;
  const Uuid device_uuid = Uuid::random();
  std::map<std::uint32_t, pid_t> pids;
  pid_t predecessor = 0;
  const std::uint64_t unit = round_up(wire::record_bytes(5000), kPageBytes);
};

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
