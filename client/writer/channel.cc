#include "client/writer/channel.h"

#include <algorithm>
#include <optional>
#include <utility>
#include <variant>

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/use_awaitable.hpp>

#include "client/index_client.h"
#include "common/observe/log.h"
#include "common/wire/index.pb.h"
#include "common/wire/node.pb.h"
#include "common/wire/record.h"
#include "common/wire/unit.h"

namespace reelfs::client {
namespace {

/// Once nobody uses the channel any more, an index server that does not answer is waited for only so long:
/// the end of the session returns the grants as well.
constexpr Duration kFarewell = std::chrono::seconds(5);
/// A little longer than the index waits for a node that does not answer.
constexpr Duration kGrantPatience = std::chrono::milliseconds(2500);
constexpr std::size_t kMaxCopies = 16;  // more in one grant is a mistake

spdlog::logger& log() { return logger("client.writer"); }

WriterCoreOptions core_options(const WriterOptions& options) {
  WriterCoreOptions core;
  core.spares = options.spares;
  core.window_bytes = options.window_bytes;
  core.piece_timeout = options.timeout;
  core.switch_timeout = options.switch_timeout;
  core.append_timeout = options.append_timeout;
  core.idle_timeout = options.idle_timeout;
  return core;
}

}  // namespace

struct ChannelWriter::Pending {
  Piece piece;
  std::int64_t written_at_ns;
  std::optional<Result<Placed>> result;
  Event settled;
};

struct ChannelWriter::OpenSegment {
  OpenSegment(asio::io_context& context, Generation granted)
      : generation(granted), appends(context.get_executor()) {}

  const Generation generation;
  std::vector<WorkerAddress> copies;
  std::size_t needed = 0;           // copies that are to flush where the others are sick
  std::uint64_t last_sequence = 0;  // of the records sent there
  TaskGroup appends;
};

ChannelWriter::ChannelWriter(asio::io_context& context, const Clock& clock, IndexClient& index,
                             NodePool& nodes, Syncer& syncer, InodeId channel, const WriterOptions& options)
    : context_(context),
      clock_(clock),
      index_(index),
      nodes_(nodes),
      syncer_(syncer),
      channel_(channel),
      options_(options),
      core_(core_options(options)),
      timer_(context),
      tasks_(context.get_executor()) {
  tasks_.spawn(drive());
}

ChannelWriter::~ChannelWriter() = default;

Task<Placed> ChannelWriter::append(Piece piece) {
  if (closed_) co_return Error(Errc::cancelled, "the writer was stopped");
  last_piece_ = PieceId(last_piece_.value + 1);
  const auto id = last_piece_;
  const auto pending = std::make_shared<Pending>();
  pending->piece = std::move(piece);
  pending->written_at_ns = clock_.wall().time_since_epoch().count();
  pending_.emplace(id, pending);
  core_.queue(id, static_cast<std::uint32_t>(pending->piece.bytes->size()), clock_.now());
  wake();
  while (!pending->result) {
    const bool woken = co_await pending->settled.wait();
    if (woken) continue;
    pending_.erase(id);
    core_.abandon(id);
    wake();
    co_return Error(Errc::cancelled, "storing a piece");
  }
  co_return std::move(*pending->result);
}

void ChannelWriter::copy_is_sick(SegmentId segment, NodeId node, const Error& why) {
  const auto found = segments_.find(segment);
  if (found == segments_.end()) return;
  const auto& copies = found->second->copies;
  for (std::size_t copy = 0; copy < copies.size(); ++copy) {
    if (copies[copy].node != node) continue;
    core_.copy_failed(segment, found->second->generation, copy, why, clock_.now());
    wake();
  }
}

void ChannelWriter::close() {
  closed_ = true;
  core_.close();
  wake();
}

asio::awaitable<void> ChannelWriter::stop() {
  close();
  // Whoever stops it is about to destroy it: being cancelled does not make the wait shorter.
  const bool throws = co_await asio::this_coro::throw_if_cancelled();
  co_await asio::this_coro::throw_if_cancelled(false);
  while (driving_ || returning_ > 0) co_await ended_.wait();
  co_await tasks_.stop();
  // Grants that the index was still asked for die with the session.
  segments_.clear();
  co_await asio::this_coro::throw_if_cancelled(throws);
}

// ---- the core's events and decisions

/// Several events of one turn of the loop are decided upon together: pieces queued together share a unit.
void ChannelWriter::wake() {
  woken_ = true;
  timer_.cancel();
}

asio::awaitable<void> ChannelWriter::drive() {
  while (!core_.finished()) {
    woken_ = false;
    auto actions = core_.advance(clock_.now());
    for (auto& action : actions) {
      std::visit([this](auto& known) { perform(known); }, action);
    }
    if (woken_ || core_.finished()) continue;
    const auto deadline = core_.next_deadline();
    timer_.expires_after(deadline ? std::max(*deadline - clock_.now(), Duration::zero())
                                  : Duration::max() / 4);
    co_await timer_.async_wait(asio::as_tuple(asio::use_awaitable));
  }
  driving_ = false;
  ended_.set();
}

void ChannelWriter::perform(RequestGrants& action) { tasks_.spawn(request_grants(std::move(action))); }

void ChannelWriter::perform(SendUnit& action) {
  std::vector<wire::UnitRecord> records;
  records.reserve(action.pieces.size());
  auto& segment = *segments_.at(action.segment);
  for (const auto& [id, record_offset] : action.pieces) {
    const auto& pending = *pending_.at(id);
    wire::UnitRecord record;
    record.info.segment = action.segment;
    record.info.generation = action.generation;
    record.info.segment_offset = record_offset;
    record.info.channel = channel_;
    record.info.inode = pending.piece.inode;
    record.info.file_offset = pending.piece.file_offset;
    record.info.sequence = pending.piece.sequence;
    segment.last_sequence = std::max(segment.last_sequence, pending.piece.sequence);
    record.info.written_at_ns = pending.written_at_ns;
    record.payload = pending.piece.bytes->span();
    records.push_back(record);
  }
  const SharedBuffer unit =
      std::make_shared<const Buffer>(wire::form_unit(action.bytes, action.offset, records));
  for (std::size_t copy = 0; copy < segment.copies.size(); ++copy) {
    segment.appends.spawn(
        append_to_copy(segment.copies[copy], action.segment, action.generation, copy, action.offset, unit));
  }
}

void ChannelWriter::perform(PiecePlaced& action) {
  const auto& segment = *segments_.at(action.segment);
  const auto pending = pending_.find(action.piece);
  const auto bytes =
      pending == pending_.end() ? 0 : static_cast<std::uint32_t>(pending->second->piece.bytes->size());
  const auto end = bytes == 0 ? 0 : action.record_offset + wire::record_bytes(bytes);
  syncer_.written({action.segment, segment.copies, segment.needed, end});
  settle(action.piece, Placed{action.segment, action.record_offset});
}

void ChannelWriter::perform(PieceFailed& action) { settle(action.piece, std::move(action.error)); }

void ChannelWriter::settle(PieceId piece, Result<Placed> result) {
  auto settled = pending_.extract(piece);
  if (!settled) return;  // its caller gave up after the core had decided
  settled.mapped()->result.emplace(std::move(result));
  settled.mapped()->settled.set();
}

void ChannelWriter::perform(ReturnGrant& action) {
  if (action.failure) {
    log().warn("segment given up segment={} generation={} length={} node={} error={}", action.segment.value,
               action.generation.value, action.length, action.failure->node.value,
               action.failure->error.describe());
    if (action.failure->error.code() != Errc::stale_generation) syncer_.suspect(action.failure->node);
  }
  auto segment = segments_.extract(action.segment);
  ++returning_;
  tasks_.spawn(return_grant(std::move(segment.mapped()), std::move(action)));
}

// ---- towards the index

asio::awaitable<void> ChannelWriter::request_grants(RequestGrants wanted) {
  wire::OpenSegmentRequest request;
  request.set_channel(channel_.value);
  request.set_count(wanted.count);
  request.set_use(static_cast<wire::GrantUse>(wanted.use));
  for (const auto node : wanted.avoid) request.add_avoid_nodes(node.value);
  // Asked again after a while: by then the core may know of more nodes that are to be avoided.
  const auto deadline = Deadline::after(clock_, kGrantPatience);
  auto reply =
      co_await index_.call<wire::OpenSegmentReply>(wire::Method::open_segment, std::move(request), deadline);
  if (!reply) {
    log().info("no grant channel={} error={}", channel_.value, reply.error().describe());
    core_.grants_failed(wanted.use, std::move(reply).error(), clock_.now());
  } else {
    std::vector<SegmentGrant> grants;
    for (const auto& grant : reply.value().grants()) {
      auto accepted = accept_grant(grant);
      if (accepted) {
        grants.push_back(std::move(accepted).value());
      } else {
        log().error("unusable grant segment={} error={}", grant.segment(), accepted.error().describe());
      }
    }
    core_.grants_arrived(wanted.use, std::move(grants), clock_.now());
  }
  wake();
}

Result<SegmentGrant> ChannelWriter::accept_grant(const wire::Grant& grant) {
  if (grant.segment() == 0 || grant.channel() != channel_.value)
    return Error(Errc::protocol, "of another channel");
  if (grant.copies().empty() || static_cast<std::size_t>(grant.copies_size()) > kMaxCopies) {
    return Error(Errc::protocol, "number of copies");
  }
  if (grant.offset() % kPageBytes != 0 || grant.offset() > grant.block_bytes() ||
      grant.block_bytes() > kGiB) {
    return Error(Errc::protocol, "offset or block size");
  }
  SegmentGrant accepted{SegmentId(grant.segment()),
                        Generation(grant.generation()),
                        grant.offset(),
                        round_down(grant.block_bytes(), kPageBytes),
                        {},
                        grant.wanted_copies()};
  if (segments_.contains(accepted.segment)) return Error(Errc::protocol, "granted twice");
  auto segment = std::make_unique<OpenSegment>(context_, accepted.generation);
  for (const auto& copy : grant.copies()) {
    auto endpoint = rpc::Endpoint::from(copy.endpoint());
    if (endpoint.port == 0) return Error(Errc::protocol, "port");
    accepted.nodes.emplace_back(copy.node());
    segment->copies.push_back({NodeId(copy.node()), WorkerId(copy.worker()), std::move(endpoint)});
  }
  segment->needed = std::clamp<std::size_t>(grant.min_copies(), 1, segment->copies.size());
  segments_.emplace(accepted.segment, std::move(segment));
  return accepted;
}

asio::awaitable<void> ChannelWriter::return_grant(std::unique_ptr<OpenSegment> segment,
                                                  ReturnGrant returned) {
  const auto id = returned.segment;
  const auto patience = closed_ ? kFarewell : Duration(options_.timeout);
  // Nothing may be sent under the grant once the index counts it as returned.
  co_await segment->appends.stop();
  const auto told =
      co_await tell_index(std::move(returned), segment->last_sequence, Deadline::after(clock_, patience));
  if (told) {
    syncer_.left(id);
  } else {
    log().warn("grant not returned segment={} error={}", id.value, told.error().describe());
  }
  // Nobody writes there any more: flushed now, it need not be remembered, and no later fsync waits for it.
  std::vector<SegmentId> closed(1, id);
  const auto synced = co_await syncer_.sync(std::move(closed), Deadline::after(clock_, kFarewell));
  if (!synced) log().warn("segment not flushed segment={} error={}", id.value, synced.error().describe());
  --returning_;
  ended_.set();
}

Task<void> ChannelWriter::tell_index(ReturnGrant returned, std::uint64_t last_sequence, Deadline deadline) {
  wire::CloseSegmentRequest request;
  request.set_segment(returned.segment.value);
  request.set_generation(returned.generation.value);
  request.set_length(returned.length);
  request.set_failed(returned.failure.has_value());
  request.set_last_sequence(last_sequence);
  REELFS_CO_TRY(co_await index_.call<wire::Empty>(wire::Method::close_segment, std::move(request), deadline));
  co_return ok();
}

// ---- towards the nodes

asio::awaitable<void> ChannelWriter::append_to_copy(WorkerAddress worker, SegmentId segment,
                                                    Generation generation, std::size_t copy,
                                                    std::uint64_t offset, SharedBuffer unit) {
  wire::AppendRequest request;
  request.set_segment(segment.value);
  request.set_generation(generation.value);
  request.set_offset(offset);
  const auto end = offset + unit->size();
  // A copy that stands still is noticed by the core; this bound only ends calls that nobody waits for.
  const auto deadline = Deadline::after(clock_, options_.timeout);
  auto reply =
      co_await nodes_.for_appends(worker).call(wire::Method::append, request, deadline, std::move(unit));
  wire::AppendReply answer;
  if (!reply) {
    core_.copy_failed(segment, generation, copy, std::move(reply).error(), clock_.now());
  } else if (!answer.ParseFromString(reply.value().message) || answer.end() < end) {
    core_.copy_failed(segment, generation, copy, Error(Errc::protocol, "append half acknowledged"),
                      clock_.now());
  } else {
    core_.copy_acked(segment, generation, copy, answer.end(), clock_.now());
  }
  wake();
}

}  // namespace reelfs::client
