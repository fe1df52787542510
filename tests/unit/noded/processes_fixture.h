#pragma once

#include <chrono>
#include <fstream>
#include <iostream>
#include <iterator>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include <boost/asio/io_context.hpp>
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

extern const char* const kNodedProgram;  // the noded of this build

using namespace std::chrono_literals;
using wire::Method;

inline constexpr Duration kPatience = 20s;

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
  void set_epoch(Epoch epoch) { epoch_ = epoch; }

 private:
  Task<rpc::Response> answer(rpc::Request request) {
    if (request.method == Method::register_worker) {
      REELFS_CO_TRY(const auto message, request.parse<wire::RegisterWorkerRequest>());
      incarnations_[message.incarnation()] = true;
      statuses_[message.status().worker()] = message.status();
      wire::RegisterWorkerReply reply;
      reply.set_cluster(cluster_.raw());
      reply.set_node(1);
      reply.set_epoch(epoch_.value);
      reply.set_heartbeat_ms(50);
      co_return rpc::Response(reply);
    }
    if (request.method == Method::heartbeat) {
      REELFS_CO_TRY(const auto message, request.parse<wire::HeartbeatRequest>());
      statuses_[message.status().worker()] = message.status();
      wire::HeartbeatReply reply;
      reply.set_epoch(epoch_.value);
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
  Epoch epoch_{3};
};

/// A node's configuration, and its worker processes, each started by the test.
class ProcessesTest : public ::testing::Test {
 protected:
  ProcessesTest() : index(context, clock, files.cluster) {
    files.add_device("dev1", 64 * kMiB);
    std::ofstream config(config_path());
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

  std::string config_path() const { return (files.directory() / "noded.toml").string(); }
  /// A noded process with these options.
  static pid_t spawn(std::vector<std::string> options) {
    options.insert(options.begin(), kNodedProgram);
    std::vector<char*> arguments;
    for (auto& option : options) arguments.push_back(option.data());
    arguments.push_back(nullptr);
    pid_t pid = 0;
    EXPECT_EQ(posix_spawn(&pid, kNodedProgram, nullptr, nullptr, arguments.data(), environ), 0);
    return pid;
  }
  void start(std::uint32_t worker) {
    pids[worker] = spawn({"--config", config_path(), "--worker", std::to_string(worker)});
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
        context, client.call(method, request, Deadline::after(clock, patience), std::move(payload)));
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
  Duration patience = kPatience;  // of a call
  const std::uint64_t unit = round_up(wire::record_bytes(5000), kPageBytes);
};

}  // namespace reelfs::noded
