#include "tests/unit/client/fake_cluster.h"

#include <algorithm>
#include <chrono>

#include <sys/stat.h>

#include "common/base/assert.h"
#include "common/wire/node.pb.h"
#include "common/wire/record.h"

namespace reelfs::testing {
namespace {

using namespace std::chrono_literals;

const rpc::Endpoint kAnyPort{"127.0.0.1", 0};

rpc::Endpoint listen(rpc::Server& server, const rpc::Endpoint& endpoint) {
  auto listening = server.listen(endpoint);
  REELFS_ASSERT(listening.has_value());
  return listening.value();
}

SharedBuffer shared(Buffer buffer) { return std::make_shared<const Buffer>(std::move(buffer)); }

}  // namespace

// ---- node

FakeNode::FakeNode(asio::io_context& context, const Clock& clock, std::uint32_t number)
    : clock_(clock),
      number_(number),
      server_(context, clock, {}, [this](rpc::Request request) { return handle(std::move(request)); }),
      endpoint_(listen(server_, kAnyPort)) {}

asio::awaitable<void> FakeNode::stop() { co_await server_.stop(); }

wire::WorkerAddress FakeNode::address() const {
  wire::WorkerAddress address;
  address.set_node(number_);
  address.set_worker(1);
  address.mutable_endpoint()->set_host(endpoint_.host);
  address.mutable_endpoint()->set_port(endpoint_.port);
  return address;
}

Task<rpc::Response> FakeNode::handle(rpc::Request request) {
  switch (request.method) {
    case wire::Method::append:
      co_return append(request);
    case wire::Method::read_record:
      ++reads;
      if (silent) {
        REELFS_CO_TRY(co_await never_.wait(clock_, Deadline::after(clock_, 60s)));
      }
      co_return read(request);
    case wire::Method::sync_segments:
      ++syncs;
      co_return rpc::Response(wire::Empty());
    default:
      co_return Error(Errc::unsupported);
  }
}

Result<rpc::Response> FakeNode::append(const rpc::Request& request) {
  if (refuses) return Error(*refuses, "as the test wants");
  REELFS_TRY(const auto message, request.parse<wire::AppendRequest>());
  REELFS_TRY(wire::verify_append_unit(request.payload.span(), SegmentId(message.segment()),
                                      Generation(message.generation()), message.offset()));
  auto& bytes = segments[message.segment()];
  bytes.resize(std::max<std::size_t>(bytes.size(), message.offset() + request.payload.size()));
  bytes.replace(message.offset(), request.payload.size(), request.payload.view());
  wire::AppendReply reply;
  reply.set_end(message.offset() + request.payload.size());
  return rpc::Response(reply);
}

Result<rpc::Response> FakeNode::read(const rpc::Request& request) {
  REELFS_TRY(const auto message, request.parse<wire::ReadRecordRequest>());
  const auto segment = segments.find(message.segment());
  if (segment == segments.end()) return Error(Errc::not_found, "no such segment here");
  const auto all = std::as_bytes(std::span<const char>(segment->second)).subspan(message.record_offset());
  REELFS_TRY(const auto record, wire::decode_record_header(all));
  const auto first = message.payload_offset() / wire::kChunkBytes;
  const auto end = std::min<std::size_t>(
      round_up(message.payload_offset() + message.length(), wire::kChunkBytes), record.header.payload_bytes);
  std::string bytes(segment->second, message.record_offset(), record.header.header_bytes);
  bytes.append(segment->second,
               message.record_offset() + record.header.header_bytes + first * wire::kChunkBytes,
               end - first * wire::kChunkBytes);
  if (corrupts) bytes.back() = static_cast<char>(bytes.back() ^ 1);
  wire::ReadRecordReply reply;
  reply.set_header_bytes(record.header.header_bytes);
  reply.set_first_chunk(first);
  rpc::Response response(reply);
  response.payload_bytes = bytes.size();
  response.payload = shared(Buffer::copy_of(std::as_bytes(std::span<const char>(bytes))));
  return response;
}

// ---- index

FakeCluster::FakeCluster(asio::io_context& context, const Clock& clock, std::size_t node_count)
    : context_(context), clock_(clock) {
  for (std::size_t i = 0; i < node_count; ++i) {
    nodes.push_back(std::make_unique<FakeNode>(context, clock, static_cast<std::uint32_t>(i + 1)));
  }
  server_ = std::make_unique<rpc::Server>(context, clock, rpc::ServerOptions(), [this](rpc::Request request) {
    return handle(std::move(request));
  });
  endpoint_ = listen(*server_, kAnyPort);
  auto& root = files_[1].attributes;
  root.set_inode(1);
  root.set_mode(S_IFDIR | 0755);
}

asio::awaitable<void> FakeCluster::stop() {
  let_go();
  co_await server_->stop();
  for (auto& node : nodes) co_await node->stop();
}

asio::awaitable<void> FakeCluster::restart_index(bool forget_sessions) {
  co_await server_->stop();
  if (forget_sessions) {
    open_inodes.clear();
    answered_.clear();
  }
  server_ =
      std::make_unique<rpc::Server>(context_, clock_, rpc::ServerOptions(),
                                    [this](rpc::Request request) { return handle(std::move(request)); });
  listen(*server_, endpoint_);
}

client::ClusterConfig FakeCluster::config() const {
  client::ClusterConfig config;
  config.cluster = cluster_;
  config.indexes.push_back(endpoint_);
  return config;
}

int FakeCluster::calls(wire::Method method) const {
  const auto found = calls_.find(method);
  return found == calls_.end() ? 0 : found->second;
}

void FakeCluster::let_go() {
  held_.clear();
  released_.notify_all();
}

void FakeCluster::free_segment(std::uint64_t segment) {
  for (auto& node : nodes) node->segments.erase(segment);
}

Task<rpc::Response> FakeCluster::handle(rpc::Request request) {
  ++calls_[request.method];
  while (held_.contains(request.method)) {
    REELFS_CO_TRY(co_await released_.wait(clock_, Deadline::after(clock_, 60s)));
  }
  auto answer = carry_out(request);
  if (swallow == request.method) {
    swallow.reset();
    co_return Error(Errc::unavailable, "the connection broke");
  }
  if (!answer) co_return std::move(answer.error());
  rpc::Response response;
  response.message = std::move(answer.value());
  co_return std::move(response);
}

FakeCluster::Answer FakeCluster::carry_out(const rpc::Request& request) {
  REELFS_TRY(before(request.method));
  const auto session_is_open = [&](std::uint64_t session) { return open_inodes.contains(session); };
  // A changing call is carried out once per session and request id.
  const auto once = [&](const auto& message, auto body) -> Answer {
    if (!session_is_open(message.header().session())) return Error(Errc::no_session);
    const auto key = std::pair(message.header().session(), message.header().request());
    const auto found = answered_.find(key);
    if (found != answered_.end()) return found->second;
    const Answer answer = body(message);
    answered_.emplace(key, answer);
    return answer;
  };
  switch (request.method) {
    case wire::Method::open_session: {
      REELFS_TRY(const auto message, request.parse<wire::OpenSessionRequest>());
      return open_session(message);
    }
    case wire::Method::renew_session: {
      REELFS_TRY(const auto message, request.parse<wire::RenewSessionRequest>());
      if (!session_is_open(message.session())) return Error(Errc::no_session);
      wire::RenewSessionReply reply;
      reply.set_lease_ms(3000);
      return reply.SerializeAsString();
    }
    case wire::Method::close_session: {
      REELFS_TRY(const auto message, request.parse<wire::CloseSessionRequest>());
      open_inodes.erase(message.session());
      return std::string();
    }
    case wire::Method::lookup: {
      REELFS_TRY(const auto message, request.parse<wire::LookupRequest>());
      return lookup(message);
    }
    case wire::Method::get_attributes: {
      REELFS_TRY(const auto message, request.parse<wire::GetAttributesRequest>());
      return attributes(message.inode());
    }
    case wire::Method::set_attributes: {
      REELFS_TRY(const auto message, request.parse<wire::SetAttributesRequest>());
      return once(message, [this](const auto& m) { return set_attributes(m); });
    }
    case wire::Method::create: {
      REELFS_TRY(const auto message, request.parse<wire::CreateRequest>());
      return once(message, [this](const auto& m) { return create(m); });
    }
    case wire::Method::unlink: {
      REELFS_TRY(const auto message, request.parse<wire::UnlinkRequest>());
      return once(message, [this](const auto& m) { return unlink(m); });
    }
    case wire::Method::open: {
      REELFS_TRY(const auto message, request.parse<wire::OpenRequest>());
      if (!session_is_open(message.session())) return Error(Errc::no_session);
      const auto found = files_.find(message.inode());
      if (found == files_.end()) return Error(Errc::stale_handle);
      open_inodes[message.session()].insert(message.inode());
      wire::AttributesReply reply;
      *reply.mutable_attributes() = found->second.attributes;
      reply.set_held(held.contains(message.inode()));
      return reply.SerializeAsString();
    }
    case wire::Method::release: {
      REELFS_TRY(const auto message, request.parse<wire::ReleaseRequest>());
      if (!session_is_open(message.session())) return Error(Errc::no_session);
      for (const auto inode : message.inodes()) open_inodes[message.session()].erase(inode);
      for (const auto inode : message.forgotten()) kept.erase(inode);
      return std::string();
    }
    case wire::Method::get_extents: {
      REELFS_TRY(const auto message, request.parse<wire::GetExtentsRequest>());
      return get_extents(message);
    }
    case wire::Method::commit: {
      REELFS_TRY(const auto message, request.parse<wire::CommitRequest>());
      return once(message, [this](const auto& m) { return commit(m); });
    }
    case wire::Method::punch_hole: {
      REELFS_TRY(const auto message, request.parse<wire::PunchHoleRequest>());
      return once(message, [this](const auto& m) { return punch_hole(m); });
    }
    case wire::Method::clone_range: {
      REELFS_TRY(const auto message, request.parse<wire::CloneRangeRequest>());
      return once(message, [this](const auto& m) { return clone_range(m); });
    }
    case wire::Method::sync:
      return std::string();
    case wire::Method::open_segment: {
      REELFS_TRY(const auto message, request.parse<wire::OpenSegmentRequest>());
      return open_segment(message);
    }
    case wire::Method::close_segment:
      return std::string();
    case wire::Method::locate_segments: {
      REELFS_TRY(const auto message, request.parse<wire::LocateSegmentsRequest>());
      wire::LocateSegmentsReply reply;
      for (const auto segment : message.segments()) {
        auto found = location(segment);
        if (found.copies_size() > 0) *reply.add_locations() = std::move(found);
      }
      return reply.SerializeAsString();
    }
    default:
      return Error(Errc::unsupported);
  }
}

FakeCluster::Answer FakeCluster::open_session(const wire::OpenSessionRequest& request) {
  if (request.resume() != 0 && !open_inodes.contains(request.resume())) return Error(Errc::no_session);
  const auto session = request.resume() != 0 ? request.resume() : ++last_session_;
  auto& open = open_inodes[session];
  if (request.resume() != 0) open = {request.open_inodes().begin(), request.open_inodes().end()};
  wire::OpenSessionReply reply;
  reply.set_session(session);
  reply.set_cluster(cluster_.raw());
  reply.set_epoch(1);
  reply.set_block_bytes(block_bytes);
  reply.set_lease_ms(3000);
  reply.set_root(1);
  return reply.SerializeAsString();
}

FakeCluster::Answer FakeCluster::attributes(std::uint64_t inode) {
  const auto found = files_.find(inode);
  if (found == files_.end()) return Error(Errc::stale_handle);
  wire::AttributesReply reply;
  *reply.mutable_attributes() = found->second.attributes;
  return reply.SerializeAsString();
}

FakeCluster::Answer FakeCluster::lookup(const wire::LookupRequest& request) {
  const auto found = names_.find({request.parent(), request.name()});
  if (found == names_.end()) return Error(Errc::not_found);
  return attributes(found->second);
}

FakeCluster::File& FakeCluster::make(std::uint64_t parent, const std::string& name, std::uint32_t mode) {
  const auto inode = ++last_inode_;
  names_[{parent, name}] = inode;
  auto& file = files_[inode];
  file.attributes.set_inode(inode);
  file.attributes.set_mode(mode);
  file.attributes.set_nlink(1);
  file.attributes.set_channel(parent == 1 ? inode : files_.at(parent).attributes.channel());
  file.attributes.set_version(++version_);
  return file;
}

FakeCluster::Answer FakeCluster::create(const wire::CreateRequest& request) {
  const auto found = names_.find({request.parent(), request.name()});
  if (found != names_.end() && request.exclusive()) return Error(Errc::exists);
  const auto inode = found != names_.end()
                         ? found->second
                         : make(request.parent(), request.name(), request.mode()).attributes.inode();
  if (request.open()) open_inodes[request.header().session()].insert(inode);
  return attributes(inode);
}

FakeCluster::Answer FakeCluster::unlink(const wire::UnlinkRequest& request) {
  const auto found = names_.find({request.parent(), request.name()});
  if (found == names_.end()) return Error(Errc::not_found);
  auto& file = files_.at(found->second);
  names_.erase(found);
  file.attributes.set_nlink(0);
  if (request.keep()) kept.insert(file.attributes.inode());
  file.attributes.set_version(++version_);
  wire::UnlinkReply reply;
  *reply.mutable_attributes() = file.attributes;
  return reply.SerializeAsString();
}

void FakeCluster::cut_out(File& file, std::uint64_t begin, std::uint64_t end) {
  const auto before = file.extents;
  for (const auto& [offset, extent] : before) {
    if (extent.end() <= begin || extent.file_offset >= end) continue;
    file.extents.erase(offset);
    if (extent.file_offset < begin)
      file.extents.emplace(offset, client::cut(extent, extent.file_offset, begin));
    if (extent.end() > end) file.extents.emplace(end, client::cut(extent, end, extent.end()));
  }
}

FakeCluster::Answer FakeCluster::set_attributes(const wire::SetAttributesRequest& request) {
  const auto found = files_.find(request.inode());
  if (found == files_.end()) return Error(Errc::stale_handle);
  auto& attributes = found->second.attributes;
  if (request.has_size()) {
    cut_out(found->second, request.size(), UINT64_MAX);
    attributes.set_size(request.size());
  }
  if (request.has_mtime_ns()) attributes.set_mtime_ns(request.mtime_ns());
  if (request.has_mode()) attributes.set_mode(request.mode());
  attributes.set_version(++version_);
  return this->attributes(request.inode());
}

FakeCluster::Answer FakeCluster::get_extents(const wire::GetExtentsRequest& request) {
  const auto found = files_.find(request.inode());
  if (found == files_.end()) return Error(Errc::stale_handle);
  wire::GetExtentsReply reply;
  *reply.mutable_attributes() = found->second.attributes;
  reply.set_held(held.contains(request.inode()));
  std::set<std::uint64_t> segments;
  for (const auto& [offset, extent] : found->second.extents) {
    if (extent.end() <= request.offset() || offset >= request.offset() + request.length()) continue;
    if (reply.extents_size() == static_cast<int>(request.limit())) {
      reply.set_more(true);
      break;
    }
    auto& message = *reply.add_extents();
    message.set_file_offset(extent.file_offset);
    message.set_length(extent.length);
    message.set_segment(extent.segment.value);
    message.set_record_offset(extent.record_offset);
    message.set_payload_offset(extent.payload_offset);
    message.set_origin(extent.origin.value);
    message.set_origin_offset(extent.origin_offset);
    if (segments.insert(extent.segment.value).second) *reply.add_locations() = location(extent.segment.value);
  }
  return reply.SerializeAsString();
}

FakeCluster::Answer FakeCluster::commit(const wire::CommitRequest& request) {
  commits.push_back(request);
  wire::CommitReply reply;
  for (const auto& change : request.files()) {
    auto& answer = *reply.add_attributes();
    const auto found = files_.find(change.inode());
    if (found == files_.end()) continue;
    auto& file = found->second;
    if (const auto why = refused.find(change.inode()); why != refused.end()) {
      if (!request.per_file()) return Error(why->second);
      auto& told = *reply.add_refused();
      told.set_file(static_cast<std::uint32_t>(reply.attributes_size() - 1));
      told.mutable_error()->set_code(static_cast<std::uint32_t>(why->second));
      answer = file.attributes;
      continue;
    }
    for (const auto& message : change.extents()) {
      client::Extent extent;
      extent.file_offset = message.file_offset();
      extent.length = message.length();
      extent.segment = SegmentId(message.segment());
      extent.record_offset = message.record_offset();
      cut_out(file, extent.file_offset, extent.end());
      file.extents.emplace(extent.file_offset, extent);
    }
    file.attributes.set_size(std::max(file.attributes.size(), change.size()));
    if (change.has_mtime_ns()) file.attributes.set_mtime_ns(change.mtime_ns());
    file.attributes.set_version(++version_);
    answer = file.attributes;
  }
  return reply.SerializeAsString();
}

FakeCluster::Answer FakeCluster::punch_hole(const wire::PunchHoleRequest& request) {
  const auto found = files_.find(request.inode());
  if (found == files_.end()) return Error(Errc::stale_handle);
  cut_out(found->second, request.offset(), request.offset() + request.length());
  found->second.attributes.set_version(++version_);
  return attributes(request.inode());
}

FakeCluster::Answer FakeCluster::clone_range(const wire::CloneRangeRequest& request) {
  auto& source = files_.at(request.source());
  auto& target = files_.at(request.target());
  const auto from = std::min(request.source_offset(), source.attributes.size());
  const auto length = std::min({request.length(), source.attributes.size() - from, clone_step});
  cut_out(target, request.target_offset(), request.target_offset() + length);
  for (const auto& [offset, extent] : source.extents) {
    if (extent.end() <= from || offset >= from + length) continue;
    auto shared = client::cut(extent, from, from + length);
    shared.origin = InodeId(request.source());
    shared.origin_offset = extent.file_offset - extent.payload_offset;
    shared.file_offset = shared.file_offset - from + request.target_offset();
    target.extents.emplace(shared.file_offset, shared);
  }
  target.attributes.set_size(std::max(target.attributes.size(), request.target_offset() + length));
  target.attributes.set_version(++version_);
  wire::CloneRangeReply reply;
  *reply.mutable_attributes() = target.attributes;
  reply.set_length(length);
  return reply.SerializeAsString();
}

FakeCluster::Answer FakeCluster::open_segment(const wire::OpenSegmentRequest& request) {
  if (!open_inodes.contains(request.session())) return Error(Errc::no_session);
  wire::OpenSegmentReply reply;
  for (std::uint32_t i = 0; i < request.count(); ++i) {
    auto& grant = *reply.add_grants();
    grant.set_segment(++last_segment_);
    grant.set_generation(1);
    grant.set_channel(request.channel());
    grant.set_block_bytes(block_bytes);
    for (auto& node : nodes) {
      node->segments[last_segment_];
      *grant.add_copies() = node->address();
    }
  }
  return reply.SerializeAsString();
}

wire::SegmentLocation FakeCluster::location(std::uint64_t segment) const {
  wire::SegmentLocation location;
  location.set_segment(segment);
  for (const auto& node : nodes) {
    if (node->segments.contains(segment)) *location.add_copies() = node->address();
  }
  return location;
}

}  // namespace reelfs::testing
