#pragma once

#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>
#include <gtest/gtest.h>
#include <prometheus/registry.h>

#include "common/async/event.h"
#include "common/async/timeout.h"
#include "common/rpc/client.h"
#include "common/rpc/server.h"
#include "common/wire/index.pb.h"
#include "common/wire/node.pb.h"
#include "indexd/journal/executor.h"
#include "indexd/service/index_service.h"
#include "tests/unit/common/run.h"
#include "tests/unit/indexd/temp_directory.h"

namespace reelfs::indexd {

using wire::Method;

inline constexpr auto kPatience = std::chrono::seconds(60);
inline constexpr std::uint64_t kTestBlock = 4 * kMiB;

using testing::run;

/// A worker process that keeps its node's blocks in memory.
class FakeNode {
 public:
  struct Block {
    std::uint64_t generation = 0;
    std::uint64_t length = 0;
    bool sealed = false;
  };

  FakeNode(asio::io_context& context, const Clock& clock, std::string name, std::uint32_t worker = 1)
      : context_(context),
        clock_(clock),
        name_(std::move(name)),
        worker_(worker),
        server_(context, clock, {}, [this](rpc::Request request) { return answer(std::move(request)); }) {
    endpoint_ = server_.listen({"127.0.0.1", 0}).value();
  }

  /// Tells the index that it is there.
  void register_with(const rpc::Endpoint& index, const Uuid& cluster) {
    if (link_) run(context_, link_->stop());
    link_ = std::make_unique<rpc::Client>(context_, clock_, index, rpc::ClientOptions{});
    wire::RegisterWorkerRequest request;
    request.set_cluster(cluster.raw());
    request.set_node_name(name_);
    request.set_incarnation(incarnation_.raw());
    fill_status(*request.mutable_status());
    const auto reply =
        run(context_, link_->call_for<wire::RegisterWorkerReply>(Method::register_worker, request,
                                                                 Deadline::after(clock_, kPatience)));
    ASSERT_TRUE(reply) << reply.error().describe();
    node_ = reply.value().node();
    heartbeat();  // the device has a row by now, or soon
  }
  wire::HeartbeatReply heartbeat() {
    wire::HeartbeatRequest request;
    request.set_node(node_);
    request.set_incarnation(incarnation_.raw());
    fill_status(*request.mutable_status());
    const auto reply = run(context_, link_->call_for<wire::HeartbeatReply>(
                                         Method::heartbeat, request, Deadline::after(clock_, kPatience)));
    return reply ? reply.value() : wire::HeartbeatReply();
  }
  /// Lists its blocks, or those of a part of the segments, and frees what it is told to.
  std::set<std::uint64_t> report(std::uint64_t from = 0, std::uint64_t upto = 0) {
    wire::ReportBlocksRequest request;
    request.set_node(node_);
    request.set_from_segment(from);
    request.set_upto_segment(upto);
    for (const auto& [segment, block] : blocks) {
      if (segment < from || (upto != 0 && segment >= upto)) continue;
      auto& described = *request.add_blocks();
      described.set_device(device_);
      described.set_segment(segment);
      described.set_generation(block.generation);
      described.set_length(block.length);
      described.set_sealed(block.sealed);
    }
    const auto reply = run(context_, link_->call_for<wire::ReportBlocksReply>(
                                         Method::report_blocks, request, Deadline::after(clock_, kPatience)));
    std::set<std::uint64_t> freed;
    if (!reply) return freed;
    for (const auto& block : reply.value().free()) {
      freed.insert(block.segment());
      blocks.erase(block.segment());
    }
    return freed;
  }
  void go_silent() {
    if (link_) run(context_, link_->stop());
    link_.reset();
  }
  void stop() {
    go_silent();
    for (auto& event : held_) event->set();
    run(context_, server_.stop());
  }
  std::uint32_t node() const { return node_; }

  std::map<std::uint64_t, Block> blocks;                             // by segment
  std::map<std::uint64_t, std::vector<wire::ListedRecord>> records;  // by segment
  int lists = 0;                                                     // of records that it was asked for
  bool refuse_allocation = false;
  bool hold_allocation = false;      // takes the block and does not answer
  bool hold_initialisation = false;  // does not answer, and leaves the device blank
  bool hold_commands = false;        // as a stopped process does
  bool hold_copies = false;          // takes a block for a copy and does not make it
  void let_copies_go() {
    hold_copies = false;
    for (auto& event : held_) event->set();
  }
  std::map<std::uint64_t, std::string> bytes;  // by segment: what was appended
  bool hold_appends = false;                   // does not answer them
  void let_appends_go() {
    hold_appends = false;
    for (auto& event : held_) event->set();
  }
  std::optional<Errc> refuse_commands;
  const FakeNode* commands_after = nullptr;  // who is to be asked before it answers
  int commands = 0;
  std::vector<std::uint64_t> numbers;      // of those to attach a device
  bool blank = false;                      // its device has no superblock
  wire::State state = wire::STATE_ONLINE;  // of its device, where that is not blank
  std::int64_t since_ns = 0;               // that it is in this state; 0: it does not say
  int allocations_refused = 0;
  int initialised = 0;
  std::uint32_t appends_in_flight = 0;

 private:
  void fill_status(wire::WorkerStatus& status) {
    status.set_worker(worker_);
    status.mutable_endpoint()->set_host(endpoint_.host);
    status.mutable_endpoint()->set_port(endpoint_.port);
    status.set_appends_in_flight(appends_in_flight);
    status.set_leader(worker_ == 1);
    if (worker_ != 1) return;
    fill_device(*status.add_devices());
  }
  void fill_device(wire::DeviceInfo& device) {
    device.set_path("/dev/" + name_);
    device.set_state(blank ? wire::STATE_BLANK : state);
    device.set_since_ns(since_ns);
    if (blank) return;
    if (device_ == 0) device_ = next_device();
    device.set_device(device_);
    device.set_uuid(uuid_.raw());
    device.set_block_bytes(kTestBlock);
    device.set_blocks(64);
    device.set_free_blocks(static_cast<std::uint32_t>(64 - blocks.size()));
  }
  static std::uint32_t next_device() {
    static std::uint32_t last = 0;
    return ++last;
  }

  Task<void> take_command() {
    ++commands;
    if (hold_commands) {
      held_.push_back(std::make_unique<Event>());
      (void)co_await held_.back()->wait();
      co_return Error(Errc::cancelled);
    }
    while (commands_after != nullptr && commands_after->commands == 0) {
      co_await sleep_for(std::chrono::milliseconds(1));
    }
    if (refuse_commands) co_return Error(*refuse_commands, "the node was made to refuse");
    co_return ok();
  }
  Task<rpc::Response> answer(rpc::Request request) {
    switch (request.method) {
      case Method::initialise_device: {
        REELFS_CO_TRY(const auto message, request.parse<wire::InitialiseDeviceRequest>());
        REELFS_CO_TRY(co_await take_command());
        ++initialised;
        if (hold_initialisation) {
          held_.push_back(std::make_unique<Event>());
          (void)co_await held_.back()->wait();
          co_return Error(Errc::cancelled);
        }
        blank = false;
        device_ = message.device();
        uuid_ = Uuid::from_bytes(message.uuid()).value();
        co_return rpc::Response(wire::Empty());
      }
      case Method::attach_device: {
        REELFS_CO_TRY(const auto message, request.parse<wire::AttachDeviceRequest>());
        REELFS_CO_TRY(co_await take_command());
        numbers.push_back(message.command());
        wire::AttachDeviceReply reply;
        fill_device(*reply.mutable_device());
        co_return rpc::Response(reply);
      }
      case Method::allocate_block: {
        REELFS_CO_TRY(const auto message, request.parse<wire::AllocateBlockRequest>());
        allocations_refused += refuse_allocation;
        if (refuse_allocation) co_return Error(Errc::io, "the disk is broken");
        blocks[message.segment()].generation = message.generation();
        if (hold_allocation) {
          held_.push_back(std::make_unique<Event>());
          (void)co_await held_.back()->wait();
        }
        wire::AllocateBlockReply reply;
        reply.set_device(device_);
        reply.set_block(static_cast<std::uint32_t>(message.segment()));
        co_return rpc::Response(reply);
      }
      case Method::fence_segment: {
        REELFS_CO_TRY(const auto message, request.parse<wire::FenceSegmentRequest>());
        const auto block = blocks.find(message.segment());
        if (block == blocks.end()) co_return Error(Errc::not_found);
        if (message.generation() < block->second.generation) co_return Error(Errc::stale_generation);
        block->second.generation = message.generation();
        wire::FenceSegmentReply reply;
        reply.set_length(block->second.length);
        co_return rpc::Response(reply);
      }
      case Method::seal_segment: {
        REELFS_CO_TRY(const auto message, request.parse<wire::SealSegmentRequest>());
        const auto block = blocks.find(message.segment());
        if (block == blocks.end()) co_return Error(Errc::not_found);
        if (message.generation() < block->second.generation) co_return Error(Errc::stale_generation);
        if (message.length() > block->second.length) co_return Error(Errc::invalid, "shorter");
        block->second = {message.generation(), message.length(), !message.reopen()};
        co_return rpc::Response(wire::Empty());
      }
      case Method::append: {
        REELFS_CO_TRY(const auto message, request.parse<wire::AppendRequest>());
        if (hold_appends) {
          held_.push_back(std::make_unique<Event>());
          (void)co_await held_.back()->wait();
        }
        const auto block = blocks.find(message.segment());
        if (block == blocks.end()) co_return Error(Errc::not_found);
        if (message.generation() < block->second.generation) co_return Error(Errc::stale_generation);
        auto& stored = bytes[message.segment()];
        if (message.offset() > stored.size()) co_return Error(Errc::invalid, "a gap");
        stored.resize(message.offset());
        stored += request.payload.view();
        block->second.length = stored.size();
        wire::AppendReply reply;
        reply.set_end(stored.size());
        co_return rpc::Response(reply);
      }
      case Method::sync_segments: {
        REELFS_CO_TRY(const auto message, request.parse<wire::SyncSegmentsRequest>());
        for (int i = 0; i < message.segments_size(); ++i) {
          const auto stored = bytes.find(message.segments(i));
          if (stored == bytes.end() || stored->second.size() < message.lengths(i))
            co_return Error(Errc::not_found);
        }
        co_return rpc::Response(wire::Empty());
      }
      case Method::list_records: {
        REELFS_CO_TRY(const auto message, request.parse<wire::ListRecordsRequest>());
        if (!blocks.contains(message.segment())) co_return Error(Errc::not_found);
        ++lists;
        wire::ListRecordsReply reply;
        for (const auto& record : records[message.segment()]) {
          if (record.record_offset() < message.offset()) continue;
          if (reply.records_size() == 2) {  // in parts, as large segments are
            reply.set_next(record.record_offset());
            break;
          }
          *reply.add_records() = record;
        }
        co_return rpc::Response(reply);
      }
      case Method::copy_segment: {
        REELFS_CO_TRY(const auto message, request.parse<wire::CopySegmentRequest>());
        auto& block = blocks[message.segment()];
        if (message.generation() < block.generation) co_return Error(Errc::stale_generation);
        block.generation = message.generation();
        if (hold_copies) {
          held_.push_back(std::make_unique<Event>());
          (void)co_await held_.back()->wait();
        }
        wire::CopySegmentReply reply;
        reply.set_device(device_);
        reply.set_block(static_cast<std::uint32_t>(message.segment()));
        reply.set_copied_bytes(message.length() - blocks[message.segment()].length);
        reply.set_valid(message.length());
        blocks[message.segment()] = {message.generation(), message.length(), true};
        co_return rpc::Response(reply);
      }
      case Method::free_segment: {
        REELFS_CO_TRY(const auto message, request.parse<wire::FreeSegmentRequest>());
        const auto block = blocks.find(message.segment());
        const bool is_newer = block != blocks.end() && message.generation() != 0 &&
                              block->second.generation > message.generation();
        if (is_newer) co_return Error(Errc::stale_generation);
        blocks.erase(message.segment());
        co_return rpc::Response(wire::Empty());
      }
      default:
        co_return Error(Errc::unsupported);
    }
  }

  asio::io_context& context_;
  const Clock& clock_;
  const std::string name_;
  const std::uint32_t worker_;  // the first leads, and has the device
  const Uuid incarnation_ = Uuid::random();
  Uuid uuid_ = Uuid::random();
  rpc::Server server_;
  rpc::Endpoint endpoint_;
  std::unique_ptr<rpc::Client> link_;
  std::uint32_t node_ = 0;
  std::uint32_t device_ = 0;
  std::vector<std::unique_ptr<Event>> held_;
};

/// An index server over real connections, which can be started again on what it has stored.
class IndexTest : public ::testing::Test {
 protected:
  IndexTest() {
    options.cluster = cluster;
    options.block_bytes = kTestBlock;
    options.silence_limit = kPatience;  // nodes are silent here when they disconnect
    options.suspect_limit = kPatience;
    options.lease = kPatience;
    options.sweep_interval = std::chrono::milliseconds(20);
    options.dead_segment_grace = kPatience;
  }
  ~IndexTest() override {
    stop();
    for (auto& node : nodes) node->stop();
  }

  void start() {
    Executor::Options store;
    store.directory = directory.path();
    auto opened = Executor::open(std::move(store));
    ASSERT_TRUE(opened) << opened.error().describe();
    index = std::move(opened).value();
    const auto claimed = run(context, claim_cluster(*index, clock, {cluster, kTestBlock}));
    ASSERT_TRUE(claimed) << claimed.error().describe();
    options.epoch = index->epoch();
    registry = std::make_unique<prometheus::Registry>();
    service =
        std::make_unique<IndexService>(context, clock, *index, options, rpc::ClientOptions{}, *registry);
    const auto started = run(context, service->start());
    ASSERT_TRUE(started) << started.error().describe();
    server = std::make_unique<rpc::Server>(
        context, clock, rpc::ServerOptions{},
        [this](rpc::Request request) { return service->handle(std::move(request)); });
    server->on_disconnect([this](std::uint64_t connection) { service->disconnected(connection); });
    endpoint = server->listen({"127.0.0.1", 0}).value();
    client = std::make_unique<rpc::Client>(context, clock, endpoint, rpc::ClientOptions{});
    for (auto& node : nodes) node->register_with(endpoint, cluster);
  }
  void stop() {
    if (!server) return;
    for (auto& node : nodes) node->go_silent();
    run(context, client->stop());
    run(context, server->stop());
    run(context, service->stop());
    client.reset();
    server.reset();
    service.reset();
    registry.reset();
    index.reset();
  }
  void restart() {
    stop();
    start();
  }
  FakeNode& add_node(bool blank = false) {
    nodes.push_back(std::make_unique<FakeNode>(context, clock, "node" + std::to_string(nodes.size() + 1)));
    nodes.back()->blank = blank;
    nodes.back()->register_with(endpoint, cluster);
    return *nodes.back();
  }

  /// Another worker process of the last node.
  FakeNode& add_worker(std::uint32_t worker) {
    nodes.push_back(
        std::make_unique<FakeNode>(context, clock, "node" + std::to_string(nodes.size()), worker));
    nodes.back()->register_with(endpoint, cluster);
    return *nodes.back();
  }

  template <class R, class Q>
  Result<R> call(Method method, const Q& request) {
    return run(context, client->call_for<R>(method, request, Deadline::after(clock, kPatience)));
  }
  /// Runs the loop until it is so.
  ::testing::AssertionResult eventually(const std::function<bool()>& so) {
    const auto give_up = clock.now() + kPatience;
    context.restart();
    while (!so()) {
      if (clock.now() > give_up) return ::testing::AssertionFailure() << "never";
      context.run_one_for(std::chrono::milliseconds(10));
    }
    return ::testing::AssertionSuccess();
  }

  std::uint64_t open_session(std::uint64_t resume = 0, std::vector<std::uint64_t> open = {}) {
    wire::OpenSessionRequest request;
    request.set_purpose("test");
    request.set_resume(resume);
    for (const auto inode : open) request.add_open_inodes(inode);
    const auto reply = call<wire::OpenSessionReply>(Method::open_session, request);
    return reply ? reply.value().session() : 0;
  }
  void close_session(std::uint64_t session) {
    wire::CloseSessionRequest request;
    request.set_session(session);
    EXPECT_TRUE(call<wire::Empty>(Method::close_session, request));
  }
  wire::CreateRequest create_request(std::uint64_t session, std::uint64_t number, std::uint64_t parent,
                                     std::string name, std::uint32_t mode) {
    wire::CreateRequest request;
    request.mutable_header()->set_session(session);
    request.mutable_header()->set_request(number);
    request.set_parent(parent);
    request.set_name(std::move(name));
    request.set_mode(mode);
    request.set_exclusive(true);
    return request;
  }
  std::uint64_t create(std::uint64_t session, std::uint64_t number, std::uint64_t parent, std::string name,
                       std::uint32_t mode = S_IFREG | 0644, bool open = false) {
    auto request = create_request(session, number, parent, std::move(name), mode);
    request.set_open(open);
    const auto reply = call<wire::AttributesReply>(Method::create, request);
    EXPECT_TRUE(reply) << reply.error().describe();
    return reply ? reply.value().attributes().inode() : 0;
  }
  Result<wire::UnlinkReply> unlink(std::uint64_t session, std::uint64_t number, std::uint64_t parent,
                                   std::string name) {
    wire::UnlinkRequest request;
    request.mutable_header()->set_session(session);
    request.mutable_header()->set_request(number);
    request.set_parent(parent);
    request.set_name(std::move(name));
    return call<wire::UnlinkReply>(Method::unlink, request);
  }
  Result<wire::AttributesReply> attributes(std::uint64_t inode) {
    wire::GetAttributesRequest request;
    request.set_inode(inode);
    return call<wire::AttributesReply>(Method::get_attributes, request);
  }
  Result<wire::OpenSegmentReply> open_segment(std::uint64_t session, std::uint64_t channel,
                                              std::uint32_t count = 1, wire::GrantUse use = wire::GRANT_NOW) {
    wire::OpenSegmentRequest request;
    request.set_session(session);
    request.set_channel(channel);
    request.set_count(count);
    request.set_use(use);
    return call<wire::OpenSegmentReply>(Method::open_segment, request);
  }
  Result<wire::Empty> close_segment(std::uint64_t session, const wire::Grant& grant, std::uint64_t length,
                                    bool failed = false) {
    wire::CloseSegmentRequest request;
    request.set_session(session);
    request.set_segment(grant.segment());
    request.set_generation(grant.generation());
    request.set_length(length);
    request.set_failed(failed);
    return call<wire::Empty>(Method::close_segment, request);
  }
  Result<wire::CommitReply> commit(std::uint64_t session, std::uint64_t number, std::uint64_t inode,
                                   std::uint64_t segment, std::uint64_t bytes) {
    wire::CommitRequest request;
    request.mutable_header()->set_session(session);
    request.mutable_header()->set_request(number);
    auto& file = *request.add_files();
    file.set_inode(inode);
    auto& extent = *file.add_extents();
    extent.set_length(bytes);
    extent.set_segment(segment);
    request.set_sync(true);
    return call<wire::CommitReply>(Method::commit, request);
  }
  Result<wire::ShowSegmentReply> show(std::uint64_t segment) {
    wire::ShowSegmentRequest request;
    request.set_segment(segment);
    return call<wire::ShowSegmentReply>(Method::show_segment, request);
  }
  /// What was appended to every copy.
  void append(std::uint64_t segment, std::uint64_t length) {
    for (auto& node : nodes) {
      if (node->blocks.contains(segment)) node->blocks[segment].length = length;
    }
  }
  std::size_t blocks_taken() const {
    std::size_t taken = 0;
    for (const auto& node : nodes) taken += node->blocks.size();
    return taken;
  }

  const Uuid cluster = Uuid::random();
  const SystemClock clock;
  reelfs::testing::TempDirectory directory;
  asio::io_context context{1};
  ServiceOptions options;
  std::unique_ptr<Executor> index;
  std::unique_ptr<prometheus::Registry> registry;
  std::unique_ptr<IndexService> service;
  std::unique_ptr<rpc::Server> server;
  std::unique_ptr<rpc::Client> client;
  rpc::Endpoint endpoint;
  std::vector<std::unique_ptr<FakeNode>> nodes;
};

}  // namespace reelfs::indexd
