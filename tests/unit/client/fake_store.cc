#include "tests/unit/client/fake_store.h"

#include <algorithm>
#include <utility>

#include "common/base/assert.h"
#include "common/wire/common.pb.h"
#include "common/wire/node.pb.h"
#include "common/wire/record.h"

namespace reelfs::client {
namespace {

const rpc::Endpoint kAnyPort{"127.0.0.1", 0};

rpc::Endpoint listen_anywhere(rpc::Server& server) {
  auto endpoint = server.listen(kAnyPort);
  REELFS_ASSERT(endpoint.has_value());
  return std::move(endpoint).value();
}

}  // namespace

FakeNode::FakeNode(asio::io_context& context, const Clock& clock, std::uint32_t id, std::size_t workers)
    : id_(id) {
  for (std::size_t i = 0; i < workers; ++i) {
    auto handler = [this](rpc::Request request) { return handle(std::move(request)); };
    servers_.push_back(std::make_unique<rpc::Server>(context, clock, rpc::ServerOptions{}, handler));
    endpoints_.push_back(listen_anywhere(*servers_.back()));
  }
}

wire::WorkerAddress FakeNode::address(std::size_t worker) const {
  wire::WorkerAddress address;
  address.set_node(id_);
  address.set_worker(static_cast<std::uint32_t>(worker + 1));
  address.mutable_endpoint()->set_host(endpoints_[worker].host);
  address.mutable_endpoint()->set_port(endpoints_[worker].port);
  return address;
}

asio::awaitable<void> FakeNode::kill(std::size_t worker) { co_await servers_[worker]->stop(); }

asio::awaitable<void> FakeNode::stop() {
  for (auto& server : servers_) co_await server->stop();
}

Task<rpc::Response> FakeNode::handle(rpc::Request request) {
  if (stands_still) {
    Event never;
    bool woken = true;
    while (woken) woken = co_await never.wait();
    co_return Error(Errc::cancelled);
  }
  if (request.method == wire::Method::append) {
    REELFS_CO_TRY(const auto append, request.parse<wire::AppendRequest>());
    const auto found = blocks.find(append.segment());
    if (found == blocks.end()) co_return Error(Errc::not_found, "no such block");
    auto& block = found->second;
    if (append.generation() != block.generation) co_return Error(Errc::stale_generation);
    if (append.offset() != block.bytes.size()) co_return Error(Errc::invalid, "not at the end");
    REELFS_CO_TRY(wire::verify_append_unit(request.payload.span(), SegmentId(append.segment()),
                                           Generation(append.generation()), append.offset()));
    block.bytes.append(request.payload.view());
    wire::AppendReply reply;
    reply.set_end(block.bytes.size());
    co_return rpc::Response(reply);
  }
  if (request.method == wire::Method::sync_segments) {
    REELFS_CO_TRY(const auto sync, request.parse<wire::SyncSegmentsRequest>());
    std::map<std::uint64_t, std::size_t> covered;
    for (int i = 0; i < sync.segments_size(); ++i) {
      const auto segment = sync.segments(i);
      if (!blocks.contains(segment)) co_return Error(Errc::not_found, "no such block");
      covered[segment] = blocks[segment].bytes.size();
      const auto wanted = i < sync.lengths_size() ? sync.lengths(i) : 0;
      if (covered[segment] < wanted) co_return Error(Errc::not_found, "the copy is shorter");
    }
    ++syncs;
    sync_sizes.push_back(covered.size());
    if (hold_syncs != nullptr) co_await hold_syncs->wait();
    for (const auto& [segment, length] : covered)
      blocks[segment].synced = std::max(blocks[segment].synced, length);
    co_return rpc::Response(wire::Empty());
  }
  co_return Error(Errc::unsupported);
}

FakeIndex::FakeIndex(asio::io_context& context, const Clock& clock, std::vector<FakeNode*> nodes,
                     std::size_t copies, std::uint64_t block_bytes)
    : nodes_(std::move(nodes)),
      copies_(copies),
      block_bytes_(block_bytes),
      server_(context, clock, {}, [this](rpc::Request request) { return handle(std::move(request)); }),
      endpoint_(listen_anywhere(server_)) {}

ClusterConfig FakeIndex::config() const {
  ClusterConfig config;
  config.cluster = cluster_;
  config.indexes.push_back(endpoint_);
  return config;
}

asio::awaitable<void> FakeIndex::stop() { co_await server_.stop(); }

std::size_t FakeIndex::open_segments() const {
  const auto open = [](const auto& entry) { return entry.second.open; };
  return static_cast<std::size_t>(std::count_if(segments.begin(), segments.end(), open));
}

Task<rpc::Response> FakeIndex::handle(rpc::Request request) {
  switch (request.method) {
    case wire::Method::open_session: {
      wire::OpenSessionReply reply;
      reply.set_session(1);
      reply.set_cluster(cluster_.raw());
      reply.set_epoch(1);
      reply.set_block_bytes(block_bytes_);
      reply.set_lease_ms(30'000);
      reply.set_root(1);
      co_return rpc::Response(reply);
    }
    case wire::Method::renew_session: {
      wire::RenewSessionReply reply;
      reply.set_lease_ms(30'000);
      co_return rpc::Response(reply);
    }
    case wire::Method::close_session:
      co_return rpc::Response(wire::Empty());
    case wire::Method::open_segment: {
      REELFS_CO_TRY(const auto open, request.parse<wire::OpenSegmentRequest>());
      co_return open_segments_for(open);
    }
    case wire::Method::close_segment: {
      REELFS_CO_TRY(const auto close, request.parse<wire::CloseSegmentRequest>());
      co_return close_segment(close);
    }
    case wire::Method::locate_segments: {
      REELFS_CO_TRY(const auto locating, request.parse<wire::LocateSegmentsRequest>());
      co_return locate(locating);
    }
    default:
      co_return Error(Errc::unsupported);
  }
}

Result<rpc::Response> FakeIndex::open_segments_for(const wire::OpenSegmentRequest& request) {
  avoided.emplace_back(request.avoid_nodes().begin(), request.avoid_nodes().end());
  if (refuse_grants != Errc{}) return Error(refuse_grants, "refused by the test");
  auto candidates = nodes_;
  const auto usable = [&](const FakeNode* node) {
    return std::count(request.avoid_nodes().begin(), request.avoid_nodes().end(), node->id()) == 0;
  };
  wire::OpenSegmentReply reply;
  for (std::uint32_t i = 0; i < request.count(); ++i) {
    std::rotate(candidates.begin(), candidates.begin() + 1, candidates.end());
    auto ordered = candidates;
    const auto good = static_cast<std::size_t>(std::stable_partition(ordered.begin(), ordered.end(), usable) -
                                               ordered.begin());
    const bool is_spare = request.use() != wire::GRANT_NOW || i > 0;
    if (is_spare && good < std::min<std::size_t>(2, copies_)) break;
    const auto copies = std::min(copies_, good > 0 ? good : copies_);
    const auto id = segments.empty() ? 1 : segments.rbegin()->first + 1;
    auto& segment = segments[id];
    segment.generation = 1;
    segment.open = true;
    segment.nodes.assign(ordered.begin(), ordered.begin() + static_cast<std::ptrdiff_t>(copies));
    auto& grant = *reply.add_grants();
    grant.set_segment(id);
    grant.set_generation(1);
    grant.set_channel(request.channel());
    grant.set_block_bytes(block_bytes_);
    grant.set_min_copies(min_copies);
    grant.set_wanted_copies(static_cast<std::uint32_t>(copies_));
    for (auto* node : segment.nodes) {
      node->blocks[id].generation = 1;
      *grant.add_copies() = node->address(0);
    }
  }
  return rpc::Response(reply);
}

Result<rpc::Response> FakeIndex::close_segment(const wire::CloseSegmentRequest& request) {
  auto& segment = segments[request.segment()];
  if (request.generation() != segment.generation || !segment.open) return Error(Errc::stale_generation);
  segment.open = false;
  segment.failed = request.failed();
  segment.length = request.length();
  return rpc::Response(wire::Empty());
}

rpc::Response FakeIndex::locate(const wire::LocateSegmentsRequest& request) {
  wire::LocateSegmentsReply reply;
  for (const auto id : request.segments()) {
    if (!segments.contains(id)) continue;
    auto& location = *reply.add_locations();
    location.set_segment(id);
    for (const auto* node : segments[id].nodes) {
      for (std::size_t worker = 0; worker < node->workers(); ++worker)
        *location.add_copies() = node->address(worker);
    }
  }
  return rpc::Response(reply);
}

}  // namespace reelfs::client
