#include "indexd/service/node_log.h"

#include <algorithm>
#include <cstring>
#include <mutex>
#include <span>
#include <utility>

#include <boost/asio/post.hpp>
#include <fmt/format.h>

#include "common/async/event.h"
#include "common/async/timeout.h"
#include "common/base/buffer.h"
#include "common/observe/log.h"
#include "common/wire/node.pb.h"
#include "common/wire/record.h"
#include "indexd/journal/executor.h"
#include "indexd/schema/change.h"
#include "indexd/service/counter.h"
#include "indexd/service/node_registry.h"
#include "indexd/service/segment_keeper.h"

namespace reelfs::indexd {

namespace {

using namespace std::chrono_literals;

constexpr Duration kUnwanted =
    100ms;  // what nobody waits for is sent after so long, as the journal is synced
/// A copy that has not flushed after so long is left where another one has,
constexpr Duration kSwitchLimit = 300ms;
/// and after so long where all are as slow.
constexpr Duration kSilenceLimit = 2s;
/// Who syncs waits no longer: finding out that a node hangs, and going on in another segment, takes half of
/// it.
constexpr Duration kWaitLimit = 700ms;
constexpr Duration kAvoid = 10s;    // a node that failed
constexpr Duration kRetry = 250ms;  // between attempts to have a segment
constexpr int kFailuresAtOnce = 2;
constexpr Duration kLook = 1s;  // between looks at the copies that there are
constexpr Duration kLacking =
    5s;  // nodes come and go: so long the log is left with fewer copies than it could have
constexpr Duration kMostLacking = 10min;
constexpr Duration kTold = 3s;  // behind for so long it is a problem; at the start nodes are on their way
constexpr Duration kToldAtStart = 15s;
constexpr std::size_t kUnitBytes = 2 * kMiB;     // shipped at once
constexpr std::size_t kMostQueued = 64 * kMiB;   // of entries; beyond it a checkpoint is cheaper
constexpr std::size_t kRowBytes = 512 * kKiB;    // of rows in a piece
constexpr std::uint64_t kLeastLog = 4 * kMiB;    // between two checkpoints
constexpr std::uint64_t kLeastRoom = 64 * kKiB;  // a segment with less is left

spdlog::logger& log() {
  static auto& instance = logger("indexd.nodelog");
  return instance;
}

}  // namespace

/// What the journal's thread hands over.
struct NodeLog::Queue {
  explicit Queue(asio::any_io_executor on) : executor(std::move(on)) {}

  const asio::any_io_executor executor;
  Event wake;  // the loop's alone
  std::mutex mutex;
  std::string entries;            // guarded by mutex
  std::uint64_t first_index = 0;  // guarded by mutex; 0: there are none
  std::uint64_t last_index = 0;   // guarded by mutex
  bool dropped = false;           // guarded by mutex: there were more than are kept
  std::uint64_t wanted = 0;       // guarded by mutex
  bool posted = false;            // guarded by mutex

  /// @pre mutex is held
  static void wake_up(const std::shared_ptr<Queue>& queue) {
    if (std::exchange(queue->posted, true)) return;
    asio::post(queue->executor, [queue] {
      {
        const std::scoped_lock held(queue->mutex);
        queue->posted = false;
      }
      queue->wake.set();
    });
  }
};

/// One unit on its way to all copies.
struct NodeLog::Round {
  std::shared_ptr<const wire::AppendRequest> append;
  std::shared_ptr<const wire::SyncSegmentsRequest> sync;
  SharedBuffer unit;
  std::vector<SegmentCopy> copies;
  std::vector<std::optional<Result<void>>> outcomes;  // of each copy
  Event told;
};

NodeLog::NodeLog(asio::any_io_executor executor, const Clock& clock, Executor& index, NodeRegistry& nodes,
                 SegmentKeeper& segments, const ServiceOptions& options, prometheus::Registry& registry)
    : clock_(clock),
      index_(index),
      nodes_(nodes),
      segments_(segments),
      options_(options),
      shipped_bytes_(counter(registry, "reelfs_indexd_node_log_bytes_total",
                             "Bytes of the journal and of checkpoints stored on nodes, each copy once.")),
      switches_(counter(registry, "reelfs_indexd_node_log_switches_total",
                        "Segments of the log on the nodes that were left because a copy failed.")),
      unwaited_(counter(registry, "reelfs_indexd_node_log_unwaited_total",
                        "Syncs that were answered though the nodes did not have the entries.")),
      behind_gauge_(prometheus::BuildGauge()
                        .Name("reelfs_indexd_node_log_behind")
                        .Help("1: nodes do not have all of the journal, and nobody waits for them.")
                        .Register(registry)
                        .Add({})),
      queue_(std::make_shared<Queue>(executor)),
      lacking_patience_(kLacking),
      behind_since_(clock.wall()),
      group_(std::move(executor)) {}

NodeLog::~NodeLog() = default;

Task<void> NodeLog::start() {
  // The log of earlier lives is kept whether or not this one goes on with it.
  auto read = [](const View& view) -> Result<std::map<SegmentId, Held>> {
    std::map<SegmentId, Held> held;
    REELFS_TRY(view.scan_table<SegmentKey>([&](SegmentKey key, const SegmentRow& row) {
      const bool holds = row.state != SegmentState::allocating && row.state != SegmentState::freeing;
      if (row.channel == kNodeLogChannel && holds) held[key.segment].copies = row.copies;
      return true;
    }));
    return held;
  };
  REELFS_CO_TRY(held_, co_await index_.read(std::move(read)));
  if (options_.journal_copies == 0) {
    held_.clear();  // it was switched off: what is left of it goes
    co_return ok();
  }
  auto take_number = [](Transaction& txn) { return txn.next(Counter::session); };
  REELFS_CO_TRY(const auto number, co_await index_.run(std::move(take_number)));
  // Never given again: what is open under it is nobody else's.
  REELFS_CO_TRY(co_await index_.sync_here());
  session_ = SessionId{number};
  stored_index_ = index_.mirror_to(this);  // what was before is in checkpoints
  behind_gauge_.Set(1);
  group_.spawn(run());
  co_return ok();
}

asio::awaitable<void> NodeLog::stop() {
  (void)index_.mirror_to(nullptr);
  stopped_ = true;
  behind_ = true;
  progress_.notify_all();
  co_await group_.stop();
}

// ---- the journal's side

void NodeLog::written(std::uint64_t first_index, std::uint64_t last_index, std::string entries) {
  const std::scoped_lock held(queue_->mutex);
  if (queue_->entries.size() + entries.size() > kMostQueued && !queue_->entries.empty()) {
    queue_->entries.clear();
    queue_->first_index = 0;
    queue_->dropped = true;
  }
  if (queue_->first_index == 0) {
    queue_->first_index = first_index;
    Queue::wake_up(queue_);
  }
  queue_->last_index = last_index;
  queue_->entries += entries;
}

void NodeLog::want(std::uint64_t index) {
  const std::scoped_lock held(queue_->mutex);
  if (index <= queue_->wanted) return;
  queue_->wanted = index;
  Queue::wake_up(queue_);
}

asio::awaitable<void> NodeLog::stored(std::uint64_t index) {
  const auto deadline = Deadline::after(clock_, kWaitLimit);
  while (!behind_ && stored_index_ < index) {
    const auto waited = co_await progress_.wait(clock_, deadline);
    if (waited) continue;
    if (waited.error().code() == Errc::timed_out && !behind_ && stored_index_ < index)
      fall_behind(last_trouble_.empty() ? "nodes do not answer in time" : last_trouble_);
    break;
  }
  if (stored_index_ < index && !stopped_) unwaited_.Increment();
}

void NodeLog::fall_behind(std::string why) {
  behind_ = true;
  behind_since_ = clock_.wall();
  why_ = std::move(why);
  behind_gauge_.Set(1);
  log().warn("behind stored={} newest={} why=\"{}\"", stored_index_, index_.journal_index(), why_);
  progress_.notify_all();
}

/// With a checkpoint of this life and nothing that waits, what is synced is on the nodes again.
void NodeLog::catch_up() {
  if (!behind_ || stopped_ || making_ || wants_checkpoint_ || !waiting_.empty()) return;
  {
    const std::scoped_lock held(queue_->mutex);
    if (queue_->dropped) return;
  }
  behind_ = false;
  why_.clear();
  behind_gauge_.Set(0);
  log().info("caught up stored={}", stored_index_);
}

// ---- the loop

asio::awaitable<void> NodeLog::run() {
  for (;;) {
    co_await wait_for_work();
    look_at_copies();
    Result<void> outcome = ok();
    const auto gathered = co_await gather();
    if (!gathered) {
      outcome = gathered.error();
    } else if (gathered.value()) {
      outcome = co_await ship();
    }
    if (outcome) {
      last_trouble_.clear();
      failures_ = 0;
      catch_up();
      continue;
    }
    if (outcome.error().code() == Errc::cancelled) co_return;
    auto trouble = outcome.error().describe();
    if (trouble != last_trouble_) log().warn("not stored on nodes why=\"{}\"", trouble);
    last_trouble_ = std::move(trouble);
    if (behind_) why_ = last_trouble_;
    // The first failures in a row are a node's that hangs or is gone: the next segment is taken at once.
    if (++failures_ > kFailuresAtOnce || !has_segments_) co_await sleep_for(kRetry);
  }
}

/// Until somebody waits for entries, or the oldest has been there for a while, or there is something else to
/// do.
asio::awaitable<void> NodeLog::wait_for_work() {
  if (!waiting_.empty() || making_ || wants_checkpoint_) co_return;
  const auto began = clock_.now();
  std::optional<TimePoint> oldest;
  for (;;) {
    bool is_wanted = false;
    {
      const std::scoped_lock held(queue_->mutex);
      if (queue_->first_index != 0 && !oldest) oldest = clock_.now();
      is_wanted = queue_->first_index != 0 && queue_->wanted > stored_index_;
    }
    const auto until = oldest ? *oldest + kUnwanted : began + kLook;
    if (is_wanted || clock_.now() >= until) co_return;
    const auto woken = co_await with_timeout(clock_, Deadline{until}, wait_for(queue_->wake));
    if (!woken && woken.error().code() == Errc::cancelled) co_return;
  }
}

void NodeLog::take_queue() {
  std::string entries;
  PieceHeader header;
  bool dropped = false;
  {
    const std::scoped_lock held(queue_->mutex);
    entries = std::exchange(queue_->entries, {});
    header.first_index = std::exchange(queue_->first_index, 0);
    header.last_index = queue_->last_index;
    dropped = std::exchange(queue_->dropped, false);
  }
  if (dropped || waiting_bytes_ > kMostQueued) {
    // There is a gap now: only a checkpoint behind it is of use.
    waiting_.clear();
    waiting_bytes_ = 0;
    making_.reset();
    wants_checkpoint_ = true;
    if (!behind_) fall_behind("more was changed than nodes took");
  }
  if (header.first_index == 0) return;
  header.kind = static_cast<std::uint8_t>(PieceKind::entries);
  header.salt = index_.salt();
  header.epoch = index_.epoch().value;
  header.total = entries.size();
  const std::string_view all(entries);
  for (std::size_t from = 0; from < all.size(); from += kMaxPieceBytes) {
    header.offset = from;
    const auto bytes = all.substr(from, kMaxPieceBytes);
    const bool is_last = from + bytes.size() == all.size();
    waiting_.push_back({header, encode_piece(header, bytes), is_last ? header.last_index : 0});
    waiting_bytes_ += waiting_.back().encoded.size();
  }
}

Task<bool> NodeLog::gather() {
  take_queue();
  if (wants_checkpoint_ && !making_) begin_checkpoint();
  // Entries go first: somebody may wait for them.
  if (making_ && !making_->read_all && waiting_bytes_ < kUnitBytes / 2) {
    REELFS_CO_TRY(co_await read_rows());
  }
  co_return !waiting_.empty();
}

void NodeLog::begin_checkpoint() {
  wants_checkpoint_ = false;
  making_ = Making();
  ++checkpoints_;
}

/// Reads further rows, each as it is by now: entries that came meanwhile bring what was read to the state of
/// the last look.
Task<void> NodeLog::read_rows() {
  struct Page {
    std::string changes;
    std::string next_key;  // empty: these were the last
    std::uint64_t rows = 0;
    JournalPosition position;
  };
  auto& making = *making_;
  if (making.pieces == 0 && making.first_index == 0) {
    // What was being carried out when the journal was attached has been applied behind this.
    auto nothing = [](Transaction&) -> Result<void> { return ok(); };
    REELFS_CO_TRY(co_await index_.run(std::move(nothing)));
  }
  auto read = [from = making.next_key](const View& view) -> Result<Page> {
    Page page;
    REELFS_TRY(const auto position, view.find(AppliedKey{}));
    page.position = position.value_or(JournalPosition{});
    REELFS_TRY(view.scan_from(from, [&](std::string_view key, std::string_view value) {
      if (page.changes.size() + key.size() + value.size() > kRowBytes && page.rows > 0) {
        page.next_key = key;
        return false;
      }
      if (key.front() == static_cast<char>(Table::applied)) return true;
      append_change(page.changes, key, value);
      ++page.rows;
      return true;
    }));
    return page;
  };
  REELFS_CO_TRY(auto page, co_await index_.read(std::move(read)));
  if (page.changes.size() > kMaxPieceBytes) co_return Error(Errc::too_big, "a row is larger than a record");
  if (making.pieces == 0) making.first_index = page.position.index;
  take_queue();  // entries that these rows show stand before them
  if (!making_) co_return ok();
  PieceHeader header;
  header.kind = static_cast<std::uint8_t>(PieceKind::checkpoint);
  header.salt = index_.salt();
  header.epoch = index_.epoch().value;
  header.number = checkpoints_;
  header.first_index = making.first_index;
  header.offset = making.pieces++;
  making.bytes += page.changes.size();
  making.next_key = std::move(page.next_key);
  if (making.next_key.empty()) {
    making.read_all = true;
    header.last_index = page.position.index;
    header.total = making.pieces;
  }
  waiting_.push_back({header, encode_piece(header, page.changes), 0});
  waiting_bytes_ += waiting_.back().encoded.size();
  co_return ok();
}

// ---- storing

std::uint32_t NodeLog::copies_to_have() const {
  std::uint32_t nodes = 0;
  for (const auto& load : nodes_.loads()) {
    const auto avoided = avoid_.find(load.node);
    const bool is_avoided = avoided != avoid_.end() && clock_.now() < avoided->second;
    nodes += !load.workers.empty() && !load.suspect && load.free_blocks > 0 && !is_avoided;
  }
  return std::clamp(nodes, 1u, options_.journal_copies);
}

std::vector<NodeId> NodeLog::to_avoid() const {
  std::vector<NodeId> nodes;
  for (const auto& [node, until] : avoid_) {
    if (clock_.now() < until) nodes.push_back(node);
  }
  return nodes;
}

Task<void> NodeLog::begin_target(std::uint64_t bytes) {
  const auto needed = std::max(round_up(bytes, kPageBytes), kLeastRoom);
  if (target_ && target_->room() >= needed) co_return ok();
  if (target_) end_target(Ending::clean);
  OpenParams params;
  params.session = session_;
  params.channel = kNodeLogChannel;
  params.avoid = to_avoid();
  params.copies = copies_to_have();
  params.min_copies = 1;
  params.count = 1;
  const bool has_avoided = !params.avoid.empty();
  auto granted = co_await segments_.open(std::move(params));
  has_segments_ = granted || has_avoided;
  if (!granted) {
    avoid_.clear();  // better one that was slow than none
    co_return std::move(granted).error();
  }
  auto& grant = granted.value().front();
  held_[grant.segment] = {0, grant.row.copies, true};
  target_ = Target{grant.segment, grant.row, grant.row.length};
  if (target_->room() >= needed) co_return ok();
  end_target(Ending::clean);
  co_return Error(Errc::no_space, "a segment was granted that has no room");
}

void NodeLog::end_target(Ending ending) {
  auto target = *std::exchange(target_, std::nullopt);
  if (ending == Ending::failed) switches_.Increment();
  group_.spawn(close(std::move(target), ending));
}

asio::awaitable<void> NodeLog::close(Target target, Ending ending) {
  const Closing closing{session_, target.row.generation, target.offset, ending == Ending::failed};
  const auto closed = co_await segments_.close(target.segment, closing);
  if (!closed && closed.error().code() != Errc::cancelled) {
    log().warn("segment not closed segment={} why=\"{}\"", target.segment.value, closed.error().describe());
  }
}

/// Stores as much of what waits as goes into one unit, on every copy.
Task<void> NodeLog::ship() {
  REELFS_CO_TRY(
      co_await begin_target(wire::record_bytes(static_cast<std::uint32_t>(waiting_.front().encoded.size()))));
  auto& target = *target_;
  const auto most = std::min<std::uint64_t>(kUnitBytes, target.room());
  std::size_t count = 0;
  std::uint64_t bytes = 0;
  for (const auto& piece : waiting_) {
    const auto record = wire::record_bytes(static_cast<std::uint32_t>(piece.encoded.size()));
    if (count > 0 && bytes + record > most) break;
    bytes += record;
    ++count;
  }
  auto unit = std::make_shared<Buffer>(round_up(bytes, kPageBytes));
  std::memset(unit->data(), 0, unit->size());
  std::uint64_t at = 0;
  const auto now = clock_.wall().time_since_epoch().count();
  for (std::size_t i = 0; i < count; ++i) {
    const auto& piece = waiting_[i];
    const auto payload = std::as_bytes(std::span(piece.encoded));
    const auto header_bytes = wire::record_header_bytes(static_cast<std::uint32_t>(payload.size()));
    wire::RecordInfo info;
    info.segment = target.segment;
    info.generation = target.row.generation;
    info.segment_offset = target.offset + at;
    info.channel = kNodeLogChannel;
    info.inode = InodeId{piece.header.kind};
    info.file_offset = piece.header.first_index;
    info.sequence = piece.header.first_index;
    info.written_at_ns = now;
    wire::encode_record_header(info, payload, unit->span().subspan(at, header_bytes));
    std::memcpy(unit->data() + at + header_bytes, payload.data(), payload.size());
    at += wire::record_bytes(static_cast<std::uint32_t>(payload.size()));
  }
  auto round = std::make_shared<Round>();
  auto append = std::make_shared<wire::AppendRequest>();
  append->set_segment(target.segment.value);
  append->set_generation(target.row.generation.value);
  append->set_offset(target.offset);
  auto sync = std::make_shared<wire::SyncSegmentsRequest>();
  sync->add_segments(target.segment.value);
  sync->add_lengths(target.offset + unit->size());
  round->append = std::move(append);
  round->sync = std::move(sync);
  round->copies = target.row.copies;
  round->outcomes.resize(round->copies.size());
  const auto unit_bytes = unit->size();
  round->unit = std::move(unit);
  for (std::size_t i = 0; i < round->copies.size(); ++i) group_.spawn(send(round, i));
  auto stored = co_await await_copies(round);
  if (!stored) {
    if (stored.error().code() == Errc::cancelled) co_return std::move(stored).error();
    log().warn("segment left segment={} why=\"{}\"", target_->segment.value, stored.error().describe());
    end_target(Ending::failed);
    co_return std::move(stored).error();
  }
  target_->offset += unit_bytes;
  shipped_bytes_.Increment(static_cast<double>(unit_bytes));
  stored_pieces(count);
  co_return ok();
}

asio::awaitable<void> NodeLog::send(std::shared_ptr<Round> round, std::size_t copy) {
  const auto& place = round->copies[copy];
  Result<void> outcome = ok();
  const auto appended = co_await nodes_.call(place.node, place.worker, wire::Method::append, round->append,
                                             kSilenceLimit, round->unit);
  if (!appended) {
    outcome = appended.error();
  } else {
    const auto synced = co_await nodes_.call(place.node, place.worker, wire::Method::sync_segments,
                                             round->sync, kSilenceLimit);
    if (!synced) outcome = synced.error();
  }
  round->outcomes[copy] = std::move(outcome);
  round->told.set();
}

/// Returns when all have it on stable storage, or one will not have it soon.
Task<void> NodeLog::await_copies(std::shared_ptr<Round> round) {
  const auto began = clock_.now();
  for (;;) {
    std::size_t done = 0;
    for (std::size_t i = 0; i < round->copies.size(); ++i) {
      const auto& outcome = round->outcomes[i];
      if (!outcome) continue;
      if (!*outcome) {
        const auto code = outcome->error().code();
        // That others were told to fence it says nothing against the node.
        const bool is_sick = code != Errc::cancelled && code != Errc::stale_generation;
        if (is_sick) avoid_[round->copies[i].node] = clock_.now() + kAvoid;
        co_return outcome->error();
      }
      ++done;
    }
    if (done == round->copies.size()) co_return ok();
    const auto until = began + (done > 0 ? kSwitchLimit : kSilenceLimit);
    auto told = co_await with_timeout(clock_, Deadline{until}, wait_for(round->told));
    if (told) continue;
    if (told.error().code() == Errc::cancelled) co_return std::move(told).error();
    std::string silent;
    for (std::size_t i = 0; i < round->copies.size(); ++i) {
      if (round->outcomes[i]) continue;
      avoid_[round->copies[i].node] = clock_.now() + kAvoid;
      silent += (silent.empty() ? "" : ", ") + nodes_.name(round->copies[i].node);
    }
    co_return Error(Errc::timed_out, silent + " does not answer");
  }
}

void NodeLog::stored_pieces(std::size_t count) {
  auto& held = held_[target_->segment];
  bool checkpoint_ended = false;
  for (std::size_t i = 0; i < count; ++i) {
    const auto& piece = waiting_.front();
    waiting_bytes_ -= piece.encoded.size();
    if (static_cast<PieceKind>(piece.header.kind) == PieceKind::entries) {
      held.last_index = std::max(held.last_index, piece.header.last_index);
      status_.set_log_bytes(status_.log_bytes() + piece.encoded.size());
      stored_index_ = std::max(stored_index_, piece.stores_index);
    } else if (making_ && piece.header.number == checkpoints_) {
      making_->segments.insert(target_->segment);
      checkpoint_ended = checkpoint_ended || piece.header.total != 0;
    }
    waiting_.pop_front();
  }
  progress_.notify_all();
  if (checkpoint_ended) checkpoint_stored();
  const auto enough = std::max({kLeastLog, options_.block_bytes / 2, status_.checkpoint_bytes()});
  if (!making_ && status_.log_bytes() > enough) wants_checkpoint_ = true;
}

/// What is older than the checkpoint is not needed any more.
void NodeLog::checkpoint_stored() {
  const auto made = *std::exchange(making_, std::nullopt);
  status_.set_checkpoint_index(made.first_index);
  status_.set_checkpoint_bytes(made.bytes);
  status_.set_checkpoint_at_ns(clock_.wall().time_since_epoch().count());
  status_.set_log_bytes(0);
  std::vector<SegmentId> unneeded;
  for (const auto& [segment, held] : held_) {
    const bool is_current = target_ && target_->segment == segment;
    const bool is_older = !held.of_this_life || held.last_index <= made.first_index;
    if (is_older && !is_current && !made.segments.contains(segment)) unneeded.push_back(segment);
  }
  for (const auto segment : unneeded) held_.erase(segment);
  log().info("checkpoint stored index={} bytes={} pieces={} segments_given_back={}", made.first_index,
             made.bytes, made.pieces, unneeded.size());
  segments_.emptied(unneeded);
}

/// Nodes come and go. Where the log could have more copies than it has, it is stored anew as a whole.
void NodeLog::look_at_copies() {
  if (clock_.now() - looked_at_ < kLook) return;
  looked_at_ = clock_.now();
  std::erase_if(avoid_, [this](const auto& entry) { return clock_.now() >= entry.second; });
  if (making_ || wants_checkpoint_) return;
  const auto wanted = copies_to_have();
  bool one_leaves = false;  // which waits for its copies to be elsewhere
  const bool lacks = std::any_of(held_.begin(), held_.end(), [&](const auto& entry) {
    const auto& copies = entry.second.copies;
    one_leaves = std::any_of(copies.begin(), copies.end(), [this](const auto& copy) {
      return nodes_.reachable(copy.node, copy.device) && nodes_.leaving(copy.node);
    });
    const auto there = std::count_if(copies.begin(), copies.end(), [this](const auto& copy) {
      return nodes_.reachable(copy.node, copy.device) && !nodes_.leaving(copy.node);
    });
    return one_leaves || static_cast<std::uint32_t>(there) < wanted;
  });
  if (!lacks) {
    lacking_since_.reset();
    lacking_patience_ = kLacking;
  } else if (!lacking_since_) {
    lacking_since_ = clock_.now();
  } else if ((one_leaves && lacking_patience_ == kLacking) ||
             clock_.now() - *lacking_since_ >= lacking_patience_) {
    lacking_since_.reset();
    lacking_patience_ = std::min(2 * lacking_patience_, kMostLacking);  // where it does not help
    log().info("stored anew because nodes came or went copies={}", wanted);
    if (target_) end_target(Ending::clean);
    wants_checkpoint_ = true;
  }
}

// ---- seen

wire::NodeLogStatus NodeLog::status() const {
  auto status = status_;
  status.set_copies(options_.journal_copies);
  if (options_.journal_copies == 0) return status;
  status.set_stored_index(stored_index_);
  status.set_behind(behind_);
  if (behind_) {
    status.set_behind_since_ns(behind_since_.time_since_epoch().count());
    status.set_why(why_);
  }
  status.set_segments(held_.size());
  status.set_checkpointing(making_.has_value());
  status.set_switches(static_cast<std::uint64_t>(switches_.Value()));
  status.set_unwaited(static_cast<std::uint64_t>(unwaited_.Value()));
  return status;
}

std::vector<wire::Problem> NodeLog::problems() const {
  if (options_.journal_copies == 0 || !behind_) return {};
  const auto patience = status_.checkpoint_index() == 0 ? kToldAtStart : kTold;
  if (clock_.wall() - behind_since_ < patience) return {};
  wire::Problem problem;
  problem.set_what(fmt::format("{} changes of the index are not on the storage nodes: {}",
                               index_.journal_index() - std::min(stored_index_, index_.journal_index()),
                               why_));
  problem.set_advice(
      "until they are, what was lost with the index server's disk could not be made again; reelctl index "
      "status "
      "tells more");
  problem.set_since_ns(behind_since_.time_since_epoch().count());
  return {problem};
}

}  // namespace reelfs::indexd
