#include "indexd/service/compactor.h"

#include <algorithm>
#include <utility>

#include <fmt/format.h>

#include "common/async/timeout.h"
#include "common/observe/log.h"
#include "common/wire/record.h"
#include "indexd/journal/executor.h"
#include "indexd/service/counter.h"
#include "indexd/service/node_registry.h"
#include "indexd/service/overwriter.h"
#include "indexd/service/segment_keeper.h"

namespace reelfs::indexd {

namespace {

using namespace std::chrono_literals;

/// What is copied at once: a record of the largest size, or as many small ones. A recorder's append that
/// comes meanwhile waits for no more than this.
constexpr std::uint64_t kUnitBytes = wire::kMaxHeaderBytes + wire::kMaxRecordPayload;
constexpr std::size_t kExtentsLookedAt = 4096;    // in one read of the index
constexpr std::size_t kMostExtents = 256 * 1024;  // of one segment: the rest has its turn the next time
constexpr std::size_t kExtentsRelocated = 256;    // in one transaction
constexpr std::size_t kMostUses = 64 * 1024;      // candidates of one look
constexpr int kSegmentsPerRound = 16;             // then it looks anew at what is worth emptying
/// Mounts commit what they have placed within half a second: what is sealed later than this may be less dead
/// than it looks.
constexpr WallNs kYoung = std::chrono::nanoseconds(10s).count();

spdlog::logger& log() {
  static auto& instance = logger("indexd.compactor");
  return instance;
}

/// Bytes that the parts take as records of their own, the padding at the end of their units left out.
std::uint64_t bytes_as_records(std::span<const tree::RecordPart> parts) {
  std::uint64_t bytes = 0;
  for (const auto& part : parts) bytes += wire::record_bytes(part.length);
  return bytes;
}

}  // namespace

Compactor::Compactor(asio::any_io_executor executor, const Clock& clock, Executor& index, NodeRegistry& nodes,
                     SegmentKeeper& segments, const Overwriter& overwriter, const ServiceOptions& options,
                     prometheus::Registry& registry)
    : clock_(clock),
      index_(index),
      nodes_(nodes),
      segments_(segments),
      overwriter_(overwriter),
      options_(options),
      freed_segments_(counter(registry, "reelfs_indexd_compacted_segments_total",
                              "Segments that were emptied by moving what lived in them.")),
      freed_bytes_(counter(registry, "reelfs_indexd_compaction_freed_bytes_total",
                           "Bytes of the blocks of emptied segments, all copies.")),
      copied_bytes_(counter(registry, "reelfs_indexd_compaction_copied_bytes_total",
                            "Bytes written to other segments by compaction, each copy once.")),
      mostly_dead_(prometheus::BuildGauge()
                       .Name("reelfs_indexd_mostly_dead_segments")
                       .Help("Sealed segments of which less than half lives.")
                       .Register(registry)
                       .Add({})),
      group_(std::move(executor)) {
  status_.set_rate(options_.compaction_rate);
}

Task<void> Compactor::start() {
  if (options_.compaction_rate == 0) co_return ok();
  auto take_number = [](Transaction& txn) { return txn.next(Counter::session); };
  REELFS_CO_TRY(const auto number, co_await index_.run(std::move(take_number)));
  // Never given again: what is open under it is nobody else's.
  REELFS_CO_TRY(co_await index_.sync());
  session_ = SessionId{number};
  group_.spawn(run());
  co_return ok();
}

asio::awaitable<void> Compactor::stop() { co_await group_.stop(); }

wire::CompactionStatus Compactor::status() const {
  auto status = status_;
  status.set_freed_segments(static_cast<std::uint64_t>(freed_segments_.Value()));
  status.set_copied_bytes(static_cast<std::uint64_t>(copied_bytes_.Value()));
  if (options_.compaction_rate > 0) status.set_waits_for(waits_for());
  return status;
}

asio::awaitable<void> Compactor::run() {
  std::string last_trouble;
  for (bool busy = false;;) {
    if (!busy) co_await sleep_for(options_.compaction_interval);
    const auto done = co_await round();
    busy = done && done.value();
    auto trouble = done ? std::string() : done.error().describe();
    // Said once for each reason: a cluster that is full stays so for a while.
    if (!trouble.empty() && trouble != last_trouble) log().warn("not compacted why=\"{}\"", trouble);
    last_trouble = std::move(trouble);
  }
}

CompactionSpace Compactor::space() const {
  const auto net = nodes_.net_space(most_copies_);
  return {net.total_bytes, net.free_bytes, options_.block_bytes, overwriter_.reserve_bytes()};
}

/// Empty: nothing. What is degraded has better use for its devices, and a node that is late is not to be
/// asked for more.
std::string Compactor::waits_for() const {
  for (const auto& load : nodes_.loads()) {
    if (!load.online()) return fmt::format("node {} to come back", load.name);
    if (load.suspect) return fmt::format("node {} to answer", load.name);
  }
  for (const auto& device : nodes_.out_of_service())
    return fmt::format("device {} of node {} to come back", device.path(),
                       nodes_.name(NodeId{device.node()}));
  return {};
}

Task<bool> Compactor::round() {
  REELFS_CO_TRY(auto seen, co_await look());
  most_copies_ = seen.most_copies;
  has_room_ = std::move(seen.room);
  status_.set_mostly_dead_segments(seen.mostly_dead);
  status_.set_dead_bytes(seen.dead_bytes);
  mostly_dead_.Set(static_cast<double>(seen.mostly_dead));
  if (!waits_for().empty()) co_return false;
  auto order = CompactionPlan::choose(space(), seen.uses, has_room_);
  if (order.empty()) co_return false;
  if (order.size() > kSegmentsPerRound) order.resize(kSegmentsPerRound);
  std::map<SegmentId, SegmentUse> uses;
  for (const auto& use : seen.uses) uses.emplace(use.segment, use);
  avoid_.clear();
  Result<void> outcome = ok();
  for (const auto segment : order) {
    if (!waits_for().empty()) break;
    outcome = co_await empty(uses.at(segment));
    status_.clear_moving_segment();
    if (!outcome) break;
  }
  const auto finished = co_await finish_target();
  REELFS_CO_TRY(std::move(outcome));
  if (!finished) co_return finished.error();
  co_return true;
}

/// Some rows of the table of segments.
struct Compactor::Page {
  std::vector<std::pair<SegmentId, SegmentRow>> rows;
  std::map<InodeId, std::uint32_t> copies;  // of channels
};

Task<Compactor::Seen> Compactor::look() {
  Seen seen;
  const auto sealed_before = clock_.wall().time_since_epoch().count() - kYoung;
  std::set<SegmentId> still_not_worth;
  for (SegmentId from;;) {
    auto read = [from, limit = options_.sweep_rows](const View& view) -> Result<Page> {
      Page page;
      REELFS_TRY(view.scan_table<ChannelKey>([&](const ChannelKey& key, const ChannelRow& row) {
        page.copies.emplace(key.inode, row.copies);
        return true;
      }));
      REELFS_TRY(
          view.scan(SegmentKey{from}, SegmentKey{SegmentId{UINT64_MAX}}, [&](SegmentKey key, SegmentRow row) {
            page.rows.emplace_back(key.segment, std::move(row));
            return page.rows.size() < limit;
          }));
      return page;
    };
    REELFS_CO_TRY(const auto page, co_await index_.read(std::move(read)));
    for (const auto& [channel, copies] : page.copies) seen.most_copies = std::max(seen.most_copies, copies);
    for (const auto& [segment, row] : page.rows) {
      const auto copies = static_cast<std::uint32_t>(row.copies.size());
      if (row.state == SegmentState::unfilled && row.block_bytes > row.length)
        seen.room[{row.channel, copies}] += row.block_bytes - row.length;
      if (row.state != SegmentState::sealed || row.live_bytes == 0 || row.sealed_ns > sealed_before) continue;
      if (CompactionPlan::is_mostly_dead(row.live_bytes, row.block_bytes)) {
        ++seen.mostly_dead;
        seen.dead_bytes += row.block_bytes - row.live_bytes;
      }
      const auto looked_at = not_worth_.find(segment);
      if (looked_at != not_worth_.end() && looked_at->second == row.live_bytes) {
        still_not_worth.insert(segment);
        continue;
      }
      const auto channel = page.copies.find(row.channel);
      if (channel == page.copies.end() || row.live_bytes > CompactionPlan::most_live(row.block_bytes) ||
          seen.uses.size() >= kMostUses) {
        continue;
      }
      // What has more copies than are made today keeps them.
      const CompactionGroup group{row.channel, std::max(copies, channel->second)};
      seen.uses.push_back({segment, group, row.live_bytes});
    }
    if (page.rows.size() < options_.sweep_rows) break;
    from = SegmentId{page.rows.back().first.value + 1};
  }
  std::erase_if(not_worth_, [&](const auto& entry) { return !still_not_worth.contains(entry.first); });
  co_return seen;
}

// ---- one segment

Task<void> Compactor::empty(SegmentUse use) {
  REELFS_CO_TRY(auto source, co_await find_source(use));
  if (!source) co_return ok();
  status_.set_moving_segment(use.segment.value);
  status_.set_moved_bytes(0);
  status_.set_to_move_bytes(bytes_as_records(source->parts));
  auto copied = co_await copy_all(*source);
  if (!copied) {
    co_return std::move(copied).error().within(
        fmt::format("moving what lives in segment {}", use.segment.value));
  }
  co_return co_await relocate(*source);
}

/// None: it is not worth it, or not there any more.
Task<std::optional<Compactor::Source>> Compactor::find_source(SegmentUse use) {
  Source source;
  source.segment = use.segment;
  source.group = use.group;
  auto find = [segment = use.segment](const View& view) { return view.find(SegmentKey{segment}); };
  REELFS_CO_TRY(auto row, co_await index_.read(std::move(find)));
  if (!row || row->state != SegmentState::sealed || row->live_bytes == 0) co_return std::nullopt;
  source.row = std::move(*row);
  std::optional<tree::LiveCursor> cursor = tree::LiveCursor{};
  while (cursor && source.extents.size() < kMostExtents) {
    auto read = [segment = use.segment, from = *cursor](const View& view) {
      return tree::live_extents(view, segment, from, kExtentsLookedAt);
    };
    REELFS_CO_TRY(auto live, co_await index_.read(std::move(read)));
    source.extents.insert(source.extents.end(), live.extents.begin(), live.extents.end());
    cursor = live.next;
  }
  source.parts = tree::parts_of(source.extents);
  if (source.parts.empty() ||
      bytes_as_records(source.parts) > CompactionPlan::most_live(source.row.block_bytes)) {
    log().info("segment takes as much as small records segment={} live_bytes={} records={}",
               use.segment.value, source.row.live_bytes, source.parts.size());
    not_worth_[use.segment] = source.row.live_bytes;
    co_return std::nullopt;
  }
  co_return std::move(source);
}

Task<void> Compactor::copy_all(Source& source) {
  const CompactionPace pace(options_.compaction_rate);
  for (std::size_t next = 0; next < source.parts.size();) {
    if (auto reason = waits_for(); !reason.empty()) co_return Error(Errc::unavailable, "waits for " + reason);
    CompactionPace::Step step;
    const auto began = clock_.now();
    const auto before = copied_bytes_.Value();
    REELFS_CO_TRY(next, co_await copy_unit(source, next));
    step.took = clock_.now() - began;
    step.bytes = static_cast<std::uint64_t>(copied_bytes_.Value() - before);
    step.appends_waiting = appends_waiting(source);
    step.space_is_short = CompactionPlan::is_short(space());
    status_.set_moved_bytes(bytes_as_records(std::span(source.parts).first(next)));
    co_await sleep_for(pace.rest_after(step));
  }
  co_return co_await sync_target();
}

std::uint32_t Compactor::appends_waiting(const Source& source) const {
  std::set<NodeId> nodes;
  for (const auto& copy : source.row.copies) nodes.insert(copy.node);
  if (target_) {
    for (const auto& copy : target_->row.copies) nodes.insert(copy.node);
  }
  std::uint32_t most = 0;
  for (const auto& load : nodes_.loads()) {
    if (!nodes.contains(load.node)) continue;
    for (const auto& worker : load.workers) most = std::max(most, worker.appends_in_flight);
  }
  return most;
}

/// Copies as many parts as one unit holds. @return the first that is left
Task<std::size_t> Compactor::copy_unit(Source& source, std::size_t first) {
  REELFS_CO_TRY(co_await begin_target(source.group, wire::record_bytes(source.parts[first].length)));
  const auto most = std::min(kUnitBytes, target_->room());
  wire::CopyRecordsRequest request;
  request.set_source(source.segment.value);
  request.set_target(target_->segment.value);
  request.set_generation(target_->row.generation.value);
  request.set_offset(target_->offset);
  for (const auto& copy : target_->row.copies) {
    auto addresses = nodes_.workers(copy.node, copy.worker);
    if (addresses.empty()) co_return Error(Errc::unavailable, nodes_.name(copy.node) + " is offline");
    *request.add_copies() = std::move(addresses.front());
  }
  if (source.moved.empty() || source.moved.back().target != target_->segment)
    source.moved.push_back({source.segment, target_->segment, {}});
  auto& moved = source.moved.back();
  auto at = target_->offset;
  auto next = first;
  for (; next < source.parts.size(); ++next) {
    const auto& part = source.parts[next];
    const auto bytes = wire::record_bytes(part.length);
    if (next > first && at + bytes > target_->offset + most) break;
    auto& piece = *request.add_pieces();
    piece.set_record_offset(part.record_offset);
    piece.set_payload_offset(part.payload_offset);
    piece.set_length(part.length);
    piece.set_inode(part.inode.value);
    piece.set_file_offset(part.file_offset);
    moved.parts.emplace(part.record_offset,
                        tree::Moved::Part{part.payload_offset, part.length, static_cast<std::uint32_t>(at)});
    at += bytes;
  }
  const auto end = round_up(at, kPageBytes);
  REELFS_CO_TRY(const auto answered, co_await copy_by_any(source, std::move(request)));
  if (answered != end) {
    REELFS_CO_TRY(co_await end_target(Ending::failed));
    co_return Error(Errc::protocol, "a node put what it copied to another place");
  }
  copied_bytes_.Increment(static_cast<double>(end - target_->offset));
  target_->offset = end;
  co_return next;
}

/// Has one node after the other of those with a copy of the source do it. The same bytes come to lie at the
/// same place, so that asking another one is safe where an answer was lost.
Task<std::uint64_t> Compactor::copy_by_any(const Source& source, wire::CopyRecordsRequest request) {
  const auto order = std::make_shared<const wire::CopyRecordsRequest>(std::move(request));
  Error error(Errc::unavailable, "no copy is within reach");
  bool may_be_written = false;
  for (const auto& copy : source.row.copies) {
    if (!nodes_.reachable(copy.node, copy.device)) continue;
    const auto reply = co_await nodes_.call(copy.node, copy.worker, wire::Method::copy_records, order);
    if (!reply) {
      error = reply.error();
      may_be_written = may_be_written || is_retryable(error.code()) || error.code() == Errc::timed_out;
      log().warn("not copied segment={} target={} why=\"{}\"", source.segment.value, order->target(),
                 error.describe());
      continue;
    }
    wire::CopyRecordsReply message;
    if (!message.ParseFromString(reply.value().message))
      co_return Error(Errc::protocol, "reply does not parse");
    if (message.failures().empty()) co_return message.end();
    for (const auto& failure : message.failures()) {
      avoid_.insert(NodeId{failure.node()});
      log().warn("data not taken segment={} node={} why=\"{}\"", order->target(),
                 nodes_.name(NodeId{failure.node()}), failure.message());
    }
    error = Error(Errc::unavailable, message.failures(0).message());
    may_be_written = true;
    break;
  }
  if (may_be_written) {
    REELFS_CO_TRY(co_await end_target(Ending::failed));
  } else {  // until something else in it dies
    log().error("segment cannot be read segment={} why=\"{}\"", source.segment.value, error.describe());
    not_worth_[source.segment] = source.row.live_bytes;
  }
  co_return error;
}

/// What was copied is on stable storage: from here on it is where the index looks for it.
Task<void> Compactor::relocate(const Source& source) {
  std::uint64_t bytes = 0;
  bool emptied = false;
  for (const auto& moved : source.moved) {
    for (std::size_t from = 0; from < source.extents.size(); from += kExtentsRelocated) {
      const auto count = std::min(kExtentsRelocated, source.extents.size() - from);
      const auto some = std::span(source.extents).subspan(from, count);
      auto change = [&moved, some](Transaction& txn) { return tree::relocate(txn, moved, some); };
      REELFS_CO_TRY(const auto done, co_await index_.run(std::move(change)));
      bytes += done.bytes;
      emptied = emptied ||
                std::find(done.emptied.begin(), done.emptied.end(), source.segment) != done.emptied.end();
      segments_.emptied(done.emptied);
    }
  }
  log().info("segment compacted segment={} records={} bytes={} emptied={}", source.segment.value,
             source.parts.size(), bytes, emptied);
  if (bytes == 0) not_worth_[source.segment] = source.row.live_bytes;  // all of it has changed meanwhile
  if (emptied) {
    freed_segments_.Increment();
    freed_bytes_.Increment(static_cast<double>(source.row.block_bytes * source.row.copies.size()));
  }
  co_return ok();
}

// ---- where it goes

/// Makes sure that there is a target with room for so much.
Task<void> Compactor::begin_target(const CompactionGroup& group, std::uint64_t bytes) {
  const auto needed = round_up(bytes, kPageBytes);
  if (target_ && target_->group == group && target_->room() >= needed) co_return ok();
  REELFS_CO_TRY(co_await finish_target());
  const auto room = has_room_.find(group);
  const bool has_room = room != has_room_.end() && room->second >= needed;
  if (!has_room && !CompactionPlan::may_begin_segment(space()))
    co_return Error(Errc::no_space, "the last free segment is left to recorders");
  OpenParams params;
  params.session = session_;
  params.channel = group.channel;
  params.copies = group.copies;
  params.count = 1;
  params.avoid.assign(avoid_.begin(), avoid_.end());
  REELFS_CO_TRY(auto granted, co_await segments_.open(std::move(params)));
  auto& grant = granted.front();
  target_ = Target{group, grant.segment, grant.row, grant.row.length};
  if (target_->room() >= needed) co_return ok();
  REELFS_CO_TRY(co_await end_target(Ending::clean));
  co_return Error(Errc::no_space, "a segment was granted that has no room");
}

Task<void> Compactor::sync_target() {
  if (!target_) co_return ok();
  auto request = std::make_shared<wire::SyncSegmentsRequest>();
  request->add_segments(target_->segment.value);
  request->add_lengths(target_->offset);
  for (const auto& copy : target_->row.copies) {
    const auto synced = co_await nodes_.call(copy.node, copy.worker, wire::Method::sync_segments, request);
    if (synced) continue;
    avoid_.insert(copy.node);
    auto error = synced.error();
    REELFS_CO_TRY(co_await end_target(Ending::failed));
    co_return error;
  }
  co_return ok();
}

Task<void> Compactor::end_target(Ending ending) {
  const auto target = *std::exchange(target_, std::nullopt);
  const bool failed = ending == Ending::failed;
  co_return co_await segments_.close(target.segment,
                                     {session_, target.row.generation, target.offset, failed});
}

/// What was put into it is on stable storage before it is let go.
Task<void> Compactor::finish_target() {
  if (!target_) co_return ok();
  REELFS_CO_TRY(co_await sync_target());
  co_return co_await end_target(Ending::clean);
}

}  // namespace reelfs::indexd
