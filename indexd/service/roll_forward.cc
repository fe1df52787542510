#include "indexd/service/roll_forward.h"

#include <algorithm>
#include <chrono>
#include <memory>
#include <utility>

#include "common/async/timeout.h"
#include "common/base/units.h"
#include "common/observe/log.h"
#include "common/wire/record.h"
#include "indexd/journal/executor.h"
#include "indexd/service/counter.h"
#include "indexd/service/node_registry.h"
#include "indexd/service/overwriter.h"

namespace reelfs::indexd {

namespace {

constexpr std::size_t kRecordsAtOnce = 128;  // committed in one operation: others wait for no more
constexpr std::size_t kRowsAtOnce = 1024;
/// Where all copies of a segment are silent, what the session placed elsewhere waits for it no longer.
constexpr Duration kPatience = std::chrono::seconds(20);
constexpr Duration kRoomPatience = std::chrono::seconds(1);

spdlog::logger& log() {
  static auto& instance = logger("indexd.roll_forward");
  return instance;
}

/// Where the record ends in its segment.
std::uint64_t end_of(const tree::PlacedRecord& record) {
  return record.record_offset + wire::record_bytes(record.length);
}

/// Whether nobody writes the segment under this grant any more, and its length is decided.
bool is_closed(const SegmentRow& row, const tree::Grant& grant) {
  switch (row.state) {
    case SegmentState::allocating:
    case SegmentState::freeing:
      return false;
    case SegmentState::open:
      return row.session && row.generation > grant.generation;  // granted again
    case SegmentState::unfilled:
    case SegmentState::sealed:
      return true;
  }
  return false;
}

}  // namespace

RollForward::RollForward(asio::any_io_executor executor, const Clock& clock, Executor& index,
                         NodeRegistry& nodes, Leases& leases, Overwriter& overwriter,
                         const ServiceOptions& options, prometheus::Registry& registry)
    : clock_(clock),
      index_(index),
      nodes_(nodes),
      leases_(leases),
      overwriter_(overwriter),
      options_(options),
      records_(counter(registry, "reelfs_indexd_rolled_forward_records_total",
                       "Records of mounts that are gone, committed in their place")),
      bytes_(counter(registry, "reelfs_indexd_rolled_forward_bytes_total", "Bytes of these records")),
      left_out_(counter(registry, "reelfs_indexd_rolled_forward_left_out_total",
                        "Records of mounts that are gone, not committed: their files were changed or "
                        "removed by others meanwhile, or may not grow")),
      sessions_(prometheus::BuildGauge()
                    .Name("reelfs_indexd_roll_forward_sessions")
                    .Help("Sessions that are gone and whose records are not all committed yet")
                    .Register(registry)
                    .Add({})),
      group_(std::move(executor)) {}

Task<void> RollForward::start(std::function<bool(SessionId)> alive) {
  alive_ = std::move(alive);
  auto read = [](const View& view) { return tree::all_grants(view); };
  REELFS_CO_TRY(const auto grants, co_await index_.read(std::move(read)));
  std::set<SessionId> gone;
  for (const auto& grant : grants) {
    held_[grant.segment].emplace(grant.session, grant.generation);
    if (grant.last_sequence != 0) closed_[grant.session].emplace(grant.last_sequence, grant);
    if (!alive_(grant.session)) gone.insert(grant.session);
  }
  for (const auto session : gone) session_ended(session);
  co_return ok();
}

asio::awaitable<void> RollForward::stop() { co_await group_.stop(); }

// ---- what is not settled

void RollForward::granted(const tree::Grant& grant) {
  held_[grant.segment].emplace(grant.session, grant.generation);
  if (alive_(grant.session)) return;
  if (ended_.contains(grant.session)) again_.insert(grant.session);
  session_ended(grant.session);
}

void RollForward::release(const tree::Grant& grant) {
  const auto found = held_.find(grant.segment);
  if (found == held_.end()) return;
  found->second.erase({grant.session, grant.generation});
  if (found->second.empty()) held_.erase(found);
}

Task<void> RollForward::closed(tree::Grant grant) {
  auto note = [grant](Transaction& txn) -> Result<std::optional<bool>> {
    REELFS_TRY(const auto noted, txn.has(GrantKey{grant.session, grant.segment, grant.generation}));
    if (!noted) return std::optional<bool>();
    REELFS_TRY(const auto gone, tree::note_grant_closed(txn, grant));
    return std::optional(gone);
  };
  REELFS_CO_TRY(const auto gone, co_await index_.run(std::move(note)));
  if (!gone) co_return ok();  // repeated
  if (*gone) {
    release(grant);
  } else if (!ended_.contains(grant.session)) {
    closed_[grant.session].emplace(grant.last_sequence, grant);
  }
  co_return ok();
}

void RollForward::settled(SessionId session, std::uint64_t sequence) {
  const auto found = closed_.find(session);
  if (found == closed_.end()) return;
  auto& closed = found->second;
  std::vector<tree::Grant> grants;
  const auto end = closed.upper_bound(sequence);
  for (auto at = closed.begin(); at != end; ++at) grants.push_back(at->second);
  closed.erase(closed.begin(), end);
  if (closed.empty()) closed_.erase(found);
  if (!grants.empty()) group_.spawn(forget(std::move(grants)));
}

asio::awaitable<void> RollForward::forget(std::vector<tree::Grant> grants) {
  auto change = [&grants](Transaction& txn) -> Result<void> {
    tree::forget_grants(txn, grants);
    return ok();
  };
  const auto forgotten = co_await index_.run(std::move(change));
  if (!forgotten) log().error("settled grants not forgotten why=\"{}\"", forgotten.error().describe());
  for (const auto& grant : grants) release(grant);
}

// ---- sessions that are gone

void RollForward::session_ended(SessionId session) {
  closed_.erase(session);
  if (!ended_.insert(session).second) return;
  sessions_.Set(static_cast<double>(ended_.size()));
  group_.spawn(run(session));
}

asio::awaitable<void> RollForward::run(SessionId session) {
  const auto since = clock_.now();
  for (bool done = false; !done;) {
    const bool wait_for_all = clock_.now() - since < kPatience;
    const auto result = co_await round(session, wait_for_all);
    if (!result) {
      if (result.error().code() == Errc::cancelled) co_return;
      log().warn("not rolled forward yet session={} why=\"{}\"", session.value, result.error().describe());
    }
    done = result && result.value() && again_.erase(session) == 0;
    if (!done) co_await sleep_for(options_.sweep_interval);
  }
  ended_.erase(session);
  sessions_.Set(static_cast<double>(ended_.size()));
}

/// @return whether nothing of the session is left
Task<bool> RollForward::round(SessionId session, bool wait_for_all) {
  REELFS_CO_TRY(const auto looked, co_await look(session, wait_for_all));
  // Of two records for the same bytes the later one counts, wherever they stand: so they are looked at
  // together.
  if (looked.not_ready > 0 && (wait_for_all || looked.listed.empty())) co_return false;
  REELFS_CO_TRY(co_await commit(session, looked.listed));
  std::vector<tree::Grant> grants;
  for (const auto& each : looked.listed) grants.push_back(each.grant);
  co_await forget(std::move(grants));
  if (looked.not_ready > 0) co_return false;
  for (bool end = false; !end;) {
    auto change = [session](Transaction& txn) { return tree::forget_progress(txn, session, kRowsAtOnce); };
    REELFS_CO_TRY(end, co_await index_.run(std::move(change)));
  }
  co_return true;
}

Task<RollForward::Looked> RollForward::look(SessionId session, bool wait_for_all) {
  struct Known {
    std::vector<tree::Grant> grants;
    std::uint64_t settled = 0;
  };
  auto read = [session](const View& view) -> Result<Known> {
    Known known;
    REELFS_TRY(known.grants, tree::grants_of(view, session));
    REELFS_TRY(const auto progress, view.find(ProgressKey{session, InodeId{}}));
    if (progress) known.settled = progress->sequence;
    return known;
  };
  REELFS_CO_TRY(const auto known, co_await index_.read(std::move(read)));
  Looked looked;
  for (const auto& grant : known.grants) {
    REELFS_CO_TRY(auto listed, co_await list(grant, known.settled, wait_for_all));
    if (listed) {
      looked.listed.push_back(std::move(*listed));
    } else {
      ++looked.not_ready;
    }
  }
  co_return std::move(looked);
}

/// None where the segment's end is not known yet, or nobody can read it now.
Task<std::optional<RollForward::Listed>> RollForward::list(tree::Grant grant, std::uint64_t settled,
                                                           bool wait_for_all) {
  auto read = [grant](const View& view) { return view.find(SegmentKey{grant.segment}); };
  REELFS_CO_TRY(const auto row, co_await index_.read(std::move(read)));
  Listed listed;
  listed.grant = grant;
  const bool is_gone = !row || row->state == SegmentState::freeing;
  const bool is_settled = grant.last_sequence != 0 && grant.last_sequence <= settled;
  if (is_gone || is_settled) co_return std::optional(std::move(listed));
  if (!is_closed(*row, grant)) co_return std::optional<Listed>();
  listed.channel = row->channel;
  std::map<std::uint32_t, tree::PlacedRecord> records;
  bool was_read = row->length == 0, was_looked_at = false;
  for (const auto& copy : row->copies) {
    if (was_read) break;
    const auto whole = co_await list_copy(copy, *row, grant, records);
    was_read = whole && whole.value();
    was_looked_at = was_looked_at || whole;
    if (!whole) {
      log().info("records not listed segment={} node={} why=\"{}\"", grant.segment.value,
                 nodes_.name(copy.node), whole.error().describe());
    }
  }
  // What no copy shows all of waits for those that are silent, and is then taken as far as it can be read.
  if (!was_read && (wait_for_all || !was_looked_at)) co_return std::optional<Listed>();
  for (const auto& [offset, record] : records) {
    if (record.sequence > settled) listed.records.push_back(record);
  }
  co_return std::optional(std::move(listed));
}

/// Adds what the copy has of the grant. @return whether it has all up to the segment's length
Task<bool> RollForward::list_copy(const SegmentCopy& copy, const SegmentRow& row, const tree::Grant& grant,
                                  std::map<std::uint32_t, tree::PlacedRecord>& records) {
  std::uint64_t end = 0, unreadable = 0, next = 0;
  do {
    auto request = std::make_shared<wire::ListRecordsRequest>();
    request->set_segment(grant.segment.value);
    request->set_offset(next);
    REELFS_CO_TRY(const auto reply,
                  co_await nodes_.call(copy.node, copy.worker, wire::Method::list_records, request));
    wire::ListRecordsReply message;
    if (!message.ParseFromString(reply.message)) co_return Error(Errc::protocol, "reply does not parse");
    if (message.next() != 0 && message.next() <= next) co_return Error(Errc::protocol, "it does not get on");
    next = message.next();
    unreadable += message.unreadable();
    for (const auto& listed : message.records()) {
      tree::PlacedRecord record;
      record.inode = InodeId{listed.inode()};
      record.file_offset = listed.file_offset();
      record.length = listed.payload_bytes();
      record.segment = grant.segment;
      record.record_offset = listed.record_offset();
      record.sequence = listed.sequence();
      record.written_at_ns = listed.written_at_ns();
      if (end_of(record) > row.length) continue;  // behind the end that was decided
      end = std::max(end, end_of(record));
      if (listed.generation() == grant.generation.value) records.emplace(record.record_offset, record);
    }
  } while (next != 0);
  co_return unreadable == 0 && round_up(end, kPageBytes) >= row.length;
}

Task<void> RollForward::commit(SessionId session, const std::vector<Listed>& listed) {
  std::vector<tree::PlacedRecord> records;
  std::map<InodeId, std::uint64_t> bytes;
  for (const auto& each : listed) {
    records.insert(records.end(), each.records.begin(), each.records.end());
    for (const auto& record : each.records) bytes[each.channel] += record.length;
  }
  // As before a mount's commit: where a channel is full its oldest recordings go first.
  for (const auto& [channel, length] : bytes) {
    if (length == 0 || !overwriter_.may_be_full(length)) continue;
    const auto made = co_await overwriter_.make_room(channel, length, Deadline::after(clock_, kRoomPatience));
    if (!made) log().info("no room made channel={} why=\"{}\"", channel.value, made.error().describe());
  }
  std::stable_sort(records.begin(), records.end(),
                   [](const auto& a, const auto& b) { return a.sequence < b.sequence; });
  tree::RolledForward all;
  std::set<InodeId> inodes;
  for (std::size_t first = 0; first < records.size(); first += kRecordsAtOnce) {
    const auto count = std::min(kRecordsAtOnce, records.size() - first);
    const WallNs now = clock_.wall().time_since_epoch().count();
    auto change = [session, now, part = std::span(records).subspan(first, count),
                   limits = overwriter_.limits()](Transaction& txn) {
      return tree::roll_forward(txn, session, part, *limits, now);
    };
    REELFS_CO_TRY(const auto done, co_await index_.run(std::move(change)));
    records_.Increment(static_cast<double>(done.records));
    bytes_.Increment(static_cast<double>(done.bytes));
    left_out_.Increment(static_cast<double>(done.left_out));
    all.records += done.records;
    all.bytes += done.bytes;
    all.left_out += done.left_out;
    inodes.insert(done.inodes.begin(), done.inodes.end());
    if (emptied_ && !done.emptied.empty()) emptied_(done.emptied);
    Touched touched;
    touched.inodes = done.inodes;
    co_await leases_.changed(session, touched);
  }
  // What the grants said may be forgotten only once what was made of it cannot be.
  REELFS_CO_TRY(co_await index_.sync());
  if (all.records + all.left_out > 0) {
    log().info("rolled forward session={} segments={} records={} bytes={} files={} left_out={}",
               session.value, listed.size(), all.records, all.bytes, inodes.size(), all.left_out);
  }
  co_return ok();
}

}  // namespace reelfs::indexd
