#include "indexd/service/scrub_keeper.h"

#include <algorithm>
#include <chrono>
#include <memory>
#include <optional>
#include <utility>

#include <fmt/format.h>

#include "common/async/timeout.h"
#include "common/base/units.h"
#include "common/observe/log.h"
#include "common/wire/record.h"
#include "indexd/journal/executor.h"
#include "indexd/service/counter.h"
#include "indexd/service/node_registry.h"
#include "indexd/service/repair_log.h"
#include "indexd/tree/names.h"

namespace reelfs::indexd {

namespace {

using namespace std::chrono_literals;

constexpr int kMostDamages = 256;          // in one report
constexpr int kMostRanges = 256;           // of one damage
constexpr std::size_t kMostKnown = 65536;  // copies: more are reported again later
constexpr std::size_t kRangesKept = 64;    // of one copy; what lies between is looked at, too
constexpr std::size_t kRangesAtOnce = 8;   // in one order, so that it ends in time
constexpr std::uint64_t kBytesAtOnce = 2 * kMiB;
constexpr std::size_t kRepairsAtOnce = 8;
constexpr Duration kLookPause = 1s;
constexpr Duration kFirstPause = 250ms;  // before what did not succeed is tried again
constexpr Duration kLongestPause = 30s;
constexpr Duration kLostPause = 60s;  // what no copy had: a copy may have been made elsewhere since
constexpr int kMostTold = 4096;
constexpr int kMostNamed = 64;                // pieces of recordings of one copy
constexpr std::size_t kFilesLookedAt = 1024;  // of one segment

spdlog::logger& log() {
  static auto& instance = logger("indexd.scrub");
  return instance;
}

prometheus::Gauge& gauge(prometheus::Registry& registry, const char* name, const char* help) {
  return prometheus::BuildGauge().Name(name).Help(help).Register(registry).Add({});
}

template <class Ranges>
ByteRanges from_wire(const Ranges& told) {
  ByteRanges ranges;
  for (const auto& range : told) {
    if (range.length() > UINT64_MAX - range.offset()) continue;
    ranges.add(range.offset(), range.offset() + range.length());
  }
  return ranges;
}

ByteRanges ranges_of(const DamageRow& row) {
  ByteRanges ranges;
  for (const auto& range : row.ranges) ranges.add(range.offset, range.offset + range.length);
  return ranges;
}

DamageRow row_of(const ByteRanges& ranges, bool unrepairable, WallNs since_ns) {
  DamageRow row;
  row.since_ns = since_ns;
  row.unrepairable = unrepairable ? 1 : 0;
  for (const auto& range : ranges) row.ranges.push_back({range.begin, range.length()});
  return row;
}

const SegmentCopy* copy_on(const SegmentRow& row, NodeId node) {
  const auto found = std::find_if(row.copies.begin(), row.copies.end(),
                                  [&](const SegmentCopy& copy) { return copy.node == node; });
  return found == row.copies.end() ? nullptr : &*found;
}

bool has_blocks(const SegmentRow& row) {
  return row.state != SegmentState::allocating && row.state != SegmentState::freeing;
}

}  // namespace

/// What a node is asked to rewrite.
struct ScrubKeeper::Order {
  ByteRanges ranges;
  std::vector<NodeId> away;  // with copies that cannot be read now
};

bool ScrubKeeper::Damaged::unrepairable() const {
  auto hopeful = ranges;
  hopeful.remove(lost);
  return hopeful.empty();
}

ScrubKeeper::ScrubKeeper(asio::any_io_executor executor, const Clock& clock, Executor& index,
                         NodeRegistry& nodes, RepairLog& repair_log, prometheus::Registry& registry)
    : clock_(clock),
      index_(index),
      nodes_(nodes),
      repair_log_(repair_log),
      reported_(counter(registry, "reelfs_indexd_damage_reported_ranges_total",
                        "Ranges of copies that were reported as damaged, each once.")),
      repaired_(counter(registry, "reelfs_indexd_damage_repaired_ranges_total",
                        "Ranges of copies that were repaired in place.")),
      repaired_bytes_(counter(registry, "reelfs_indexd_damage_rewritten_bytes_total",
                              "Bytes that nodes wrote in place to repair copies.")),
      pending_(gauge(registry, "reelfs_indexd_damage_pending_ranges",
                     "Damaged ranges of copies that are not repaired yet.")),
      unrepairable_(gauge(registry, "reelfs_indexd_damage_unrepairable_ranges",
                          "Damaged ranges of which no copy is right.")),
      group_(std::move(executor)) {}

void ScrubKeeper::register_with(Dispatcher& dispatcher) {
  dispatcher.add(wire::Method::report_damage, *this, &ScrubKeeper::report_damage);
  dispatcher.add(wire::Method::start_scrub, *this, &ScrubKeeper::start_scrub);
  dispatcher.add(wire::Method::scrub_status, *this, &ScrubKeeper::scrub_status);
}

Task<void> ScrubKeeper::start() {
  using Rows = std::vector<std::pair<DamageKey, DamageRow>>;
  auto read = [](const View& view) -> Result<Rows> {
    Rows rows;
    REELFS_TRY(view.scan_table<DamageKey>([&](const DamageKey& key, const DamageRow& row) {
      rows.emplace_back(key, row);
      return true;
    }));
    return rows;
  };
  REELFS_CO_TRY(const auto rows, co_await index_.read(std::move(read)));
  for (const auto& [key, row] : rows) take_row({key.segment, key.node}, row);
  count();
  group_.spawn(work());
  co_return ok();
}

asio::awaitable<void> ScrubKeeper::stop() { co_await group_.stop(); }

void ScrubKeeper::node_returned(NodeId) {
  for (auto& [copy, damaged] : damaged_) {
    if (!damaged.under_way) damaged.not_before = TimePoint();
  }
  work_there_.set();
}

void ScrubKeeper::take_row(CopyId copy, const DamageRow& row) {
  auto& damaged = damaged_[copy];
  damaged.ranges = ranges_of(row);
  damaged.lost = damaged.lost.common(damaged.ranges);
  if (row.unrepairable != 0) damaged.lost = damaged.ranges;
  damaged.since_ns = row.since_ns;
}

void ScrubKeeper::count() {
  std::size_t pending = 0, lost = 0;
  for (const auto& [copy, damaged] : damaged_) {
    auto hopeful = damaged.ranges;
    hopeful.remove(damaged.lost);
    pending += hopeful.size();
    lost += damaged.lost.size();
  }
  pending_.Set(static_cast<double>(pending));
  unrepairable_.Set(static_cast<double>(lost));
}

// ---- reports

Task<wire::ReportDamageReply> ScrubKeeper::report_damage(wire::ReportDamageRequest request) {
  if (request.damages_size() > kMostDamages) co_return Error(Errc::too_big, "too many reports at once");
  wire::ReportDamageReply reply;
  for (const auto& damage : request.damages()) {
    if (damage.ranges_size() == 0 || damage.ranges_size() > kMostRanges)
      co_return Error(Errc::invalid, "damage is of 1 to 256 ranges");
    const CopyId copy{SegmentId{damage.segment()}, NodeId{damage.node()}};
    if (!damaged_.contains(copy) && damaged_.size() >= kMostKnown) break;
    REELFS_CO_TRY(co_await add(copy, from_wire(damage.ranges()), damage.why()));
    reply.set_accepted(reply.accepted() + 1);
  }
  co_return reply;
}

void ScrubKeeper::log_event(RepairEvent event, CopyId copy, std::uint64_t bytes, std::string details) {
  RepairLogRow row;
  row.event = event;
  row.segment = copy.first;
  row.node = copy.second;
  row.bytes = bytes;
  row.details = std::move(details);
  repair_log_.note(std::move(row));
}

/// Makes it known, unless it is, or there is no such copy.
Task<void> ScrubKeeper::add(CopyId copy, ByteRanges ranges, std::string why) {
  const auto [segment, node] = copy;
  const auto known = damaged_.find(copy);
  if (known != damaged_.end()) {
    auto news = ranges;
    news.remove(known->second.ranges);
    if (news.empty()) co_return ok();  // reported again, by another reader maybe
  }
  const WallNs now = clock_.wall().time_since_epoch().count();
  auto note = [segment = segment, node = node, ranges,
               now](Transaction& txn) -> Result<std::optional<DamageRow>> {
    REELFS_TRY(const auto row, txn.find(SegmentKey{segment}));
    std::optional<DamageRow> noted;
    if (!row || !has_blocks(*row) || copy_on(*row, node) == nullptr) return noted;
    const DamageKey key{segment, node};
    REELFS_TRY(const auto before, txn.find(key));
    auto all = before ? ranges_of(*before) : ByteRanges();
    all.add(ranges);
    all = all.within(0, row->block_bytes).coarser(kRangesKept);
    if (all.empty()) return noted;
    noted = row_of(all, false, before ? before->since_ns : now);
    txn.put(key, *noted);
    return noted;
  };
  REELFS_CO_TRY(const auto noted, co_await index_.run(std::move(note)));
  if (!noted) co_return ok();
  reported_.Increment(static_cast<double>(ranges.size()));
  log().warn("copy is damaged segment={} node={} ranges={} bytes={} why=\"{}\"", segment.value,
             nodes_.name(node), ranges.size(), ranges.bytes(), why);
  log_event(RepairEvent::copy_damaged, copy, ranges.bytes(), why);
  take_row(copy, *noted);
  auto& damaged = damaged_[copy];
  damaged.lost.remove(ranges);  // it is to be looked at once more
  damaged.not_before = TimePoint();
  damaged.pause = Duration::zero();
  count();
  work_there_.set();
  co_return ok();
}

// ---- repairing

asio::awaitable<void> ScrubKeeper::work() {
  for (;;) {
    const auto now = clock_.now();
    for (auto& [copy, damaged] : damaged_) {
      if (busy_.size() >= kRepairsAtOnce) break;
      if (damaged.under_way || now < damaged.not_before || busy_.contains(copy.second)) continue;
      damaged.under_way = true;
      busy_.insert(copy.second);
      group_.spawn(repair(copy));
    }
    (void)co_await with_timeout(clock_, Deadline::after(clock_, kLookPause), reelfs::wait_for(work_there_));
  }
}

asio::awaitable<void> ScrubKeeper::repair(CopyId copy) {
  const auto tried = co_await try_to_repair(copy);
  busy_.erase(copy.second);
  if (const auto found = damaged_.find(copy); found != damaged_.end()) {
    found->second.under_way = false;
    if (!tried) wait_for(copy, tried.error().describe());
  }
  count();
  work_there_.set();
}

void ScrubKeeper::wait_for(CopyId copy, std::string what) {
  const auto found = damaged_.find(copy);
  if (found == damaged_.end()) return;
  auto& damaged = found->second;
  if (damaged.waits_for != what) {
    log().info("not repaired yet segment={} node={} why=\"{}\"", copy.first.value, nodes_.name(copy.second),
               what);
  }
  damaged.waits_for = std::move(what);
  damaged.pause = std::clamp<Duration>(2 * damaged.pause, kFirstPause, kLongestPause);
  damaged.not_before = clock_.now() + damaged.pause;
}

Task<void> ScrubKeeper::forget(CopyId copy) {
  auto erase = [copy](Transaction& txn) -> Result<void> {
    txn.erase(DamageKey{copy.first, copy.second});
    return ok();
  };
  REELFS_CO_TRY(co_await index_.run(std::move(erase)));
  damaged_.erase(copy);
  co_return ok();
}

/// One order; the rest has its turn after it.
Task<void> ScrubKeeper::try_to_repair(CopyId copy) {
  const auto [segment, node] = copy;
  auto look = [segment = segment](const View& view) { return view.find(SegmentKey{segment}); };
  REELFS_CO_TRY(const auto row, co_await index_.read(std::move(look)));
  const auto* bad = row && has_blocks(*row) ? copy_on(*row, node) : nullptr;
  if (bad == nullptr) co_return co_await forget(copy);  // freed, or made anew elsewhere
  Order order;
  auto request = std::make_shared<wire::RewriteRangesRequest>();
  request->set_segment(segment.value);
  {
    auto& damaged = damaged_.at(copy);
    damaged.device = bad->device;
    damaged.block = bad->block;
    auto ranges = damaged.ranges;
    ranges.remove(damaged.lost);
    if (ranges.empty()) ranges = damaged.lost;  // maybe there is another copy by now
    for (const auto& range : ranges.aligned(kPageBytes)) {
      if (order.ranges.size() >= kRangesAtOnce || order.ranges.bytes() >= kBytesAtOnce) break;
      order.ranges.add(range.begin, std::min(range.end, range.begin + kBytesAtOnce));
    }
  }
  for (const auto& range : order.ranges) {
    auto& told = *request->add_ranges();
    told.set_offset(range.begin);
    told.set_length(range.length());
  }
  if (!nodes_.reachable(node, bad->device))
    co_return Error(Errc::unavailable, fmt::format("node {} or its device is away", nodes_.name(node)));
  for (const auto& other : row->copies) {
    if (other.node == node) continue;
    const auto addresses = nodes_.workers(other.node, other.worker);
    if (addresses.empty() || !nodes_.reachable(other.node, other.device)) {
      order.away.push_back(other.node);
    } else {
      *request->add_sources() = addresses.front();
    }
  }
  REELFS_CO_TRY(const auto answer,
                co_await nodes_.call(node, bad->worker, wire::Method::rewrite_ranges, request));
  wire::RewriteRangesReply reply;
  if (!reply.ParseFromString(answer.message)) co_return Error(Errc::protocol, "reply does not parse");
  co_return co_await conclude(copy, order, reply);
}

Task<void> ScrubKeeper::conclude(CopyId copy, const Order& order, const wire::RewriteRangesReply& reply) {
  const auto [segment, node] = copy;
  auto away = order.away;
  for (const auto& source : reply.sources()) {
    if (!source.failure().empty()) away.push_back(NodeId{source.node()});
  }
  const auto still_bad = from_wire(reply.bad());
  auto lost = damaged_.at(copy).lost;
  lost.remove(order.ranges);
  if (away.empty()) lost.add(still_bad);
  auto note = [segment = segment, node = node, ranges = order.ranges, still_bad,
               lost](Transaction& txn) -> Result<std::optional<DamageRow>> {
    const DamageKey key{segment, node};
    REELFS_TRY(auto before, txn.find(key));
    if (!before) return before;
    auto left = ranges_of(*before);
    left.remove(ranges);
    left.add(still_bad);
    if (left.empty()) {
      txn.erase(key);
      return std::optional<DamageRow>();
    }
    auto hopeful = left;
    hopeful.remove(lost);
    auto row = row_of(left, hopeful.empty(), before->since_ns);
    if (row != *before) txn.put(key, row);
    return std::optional<DamageRow>(std::move(row));
  };
  REELFS_CO_TRY(const auto left, co_await index_.run(std::move(note)));
  repaired_bytes_.Increment(static_cast<double>(reply.written_bytes()));
  std::size_t repaired = 0;
  for (const auto& range : order.ranges) {
    if (reply.written_bytes() > 0 && still_bad.within(range.begin, range.end).empty()) ++repaired;
  }
  repaired_.Increment(static_cast<double>(repaired));
  if (repaired > 0) {
    log_event(RepairEvent::damage_repaired, copy, reply.written_bytes(), fmt::format("{} ranges", repaired));
    log().info("copy repaired segment={} node={} ranges={} written_bytes={}", segment.value,
               nodes_.name(node), repaired, reply.written_bytes());
  }
  if (!left) {
    damaged_.erase(copy);
  } else {
    auto& damaged = damaged_.at(copy);
    auto news = lost;
    news.remove(damaged.lost);
    damaged.lost = lost;
    take_row(copy, *left);
    damaged.waits_for.clear();
    if (!news.empty()) {
      log_event(RepairEvent::damage_everywhere, copy, news.bytes(),
                fmt::format("from byte {}", news.list().front().begin));
      log().error("no copy is right segment={} node={} bytes={} first={}", segment.value, nodes_.name(node),
                  news.bytes(), news.list().front().begin);
    }
    const bool waits = !still_bad.empty() && !away.empty();
    if (waits) {
      wait_for(copy, fmt::format("a copy on node {}", nodes_.name(away.front())));
    } else if (damaged.unrepairable()) {
      damaged.not_before = clock_.now() + kLostPause;
    } else {
      damaged.not_before = TimePoint();
      damaged.pause = Duration::zero();
    }
  }
  for (const auto& source : reply.sources()) {
    auto ranges = from_wire(source.bad());
    if (ranges.empty() || !source.failure().empty()) continue;
    const CopyId other{segment, NodeId{source.node()}};
    std::string why("met when another copy was repaired");
    REELFS_CO_TRY(co_await add(other, std::move(ranges), std::move(why)));
  }
  co_return ok();
}

// ---- what operators ask

Task<wire::StartScrubReply> ScrubKeeper::start_scrub(wire::StartScrubRequest request) {
  std::vector<NodeId> wanted;
  if (request.node().empty()) {
    for (const auto& node : nodes_.list()) {
      if (nodes_.online(NodeId{node.node()})) wanted.push_back(NodeId{node.node()});
    }
  } else {
    REELFS_CO_TRY(const auto node, nodes_.find(request.node()));
    wanted.push_back(node);
  }
  if (wanted.empty()) co_return Error(Errc::unavailable, "no storage node is online");
  wire::StartScrubReply reply;
  for (const auto node : wanted) {
    auto order = std::make_shared<wire::ScrubNodeRequest>();
    REELFS_CO_TRY(const auto ordered,
                  co_await nodes_.call(node, WorkerId{}, wire::Method::scrub_node, std::move(order)));
    reply.add_nodes(node.value);
  }
  // What no copy had is looked at again with the rest.
  for (auto& [copy, damaged] : damaged_) {
    if (!damaged.under_way) damaged.not_before = TimePoint();
  }
  work_there_.set();
  co_return reply;
}

Task<wire::ScrubStatusReply> ScrubKeeper::scrub_status(wire::ScrubStatusRequest) {
  wire::ScrubStatusReply reply;
  for (auto& node : nodes_.list()) {
    node.clear_workers();
    *reply.add_nodes() = std::move(node);
  }
  for (const auto& [copy, damaged] : damaged_) {
    if (reply.damages_size() >= kMostTold) break;
    auto& info = *reply.add_damages();
    info.set_segment(copy.first.value);
    info.set_node(copy.second.value);
    info.set_device(damaged.device.value);
    info.set_block(damaged.block);
    info.set_unrepairable(damaged.unrepairable());
    info.set_waits_for(damaged.waits_for);
    info.set_since_ns(damaged.since_ns);
    for (const auto& range : damaged.ranges) {
      auto& told = *info.add_ranges();
      told.set_offset(range.begin);
      told.set_length(range.length());
    }
  }
  reply.set_reported_ranges(static_cast<std::uint64_t>(reported_.Value()));
  reply.set_repaired_ranges(static_cast<std::uint64_t>(repaired_.Value()));
  reply.set_repaired_bytes(static_cast<std::uint64_t>(repaired_bytes_.Value()));
  reply.set_pending_ranges(static_cast<std::uint64_t>(pending_.Value()));
  reply.set_unrepairable_ranges(static_cast<std::uint64_t>(unrepairable_.Value()));
  REELFS_CO_TRY(co_await name_files(reply));
  co_return std::move(reply);
}

namespace {

/// The part of a recording that lies in damaged bytes of a segment; none: nullopt.
std::optional<ByteSpan> lost_part(const ExtentKey& key, const ExtentRow& extent, const ByteRanges& bad) {
  const std::uint64_t record = extent.record_offset;
  const auto header = wire::kMaxHeaderBytes;  // of all records: the table's room is rounded up to it
  if (!bad.within(record, record + header).empty())
    return ByteSpan{key.file_offset, key.file_offset + extent.length};
  const auto begin = record + header + extent.payload_offset;
  const auto found = bad.within(begin, begin + extent.length);
  if (found.empty()) return std::nullopt;
  const auto& first = found.list().front();
  const auto& last = found.list().back();
  return ByteSpan{key.file_offset + (first.begin - begin), key.file_offset + (last.end - begin)};
}

Result<void> name_pieces(const View& view, wire::DamageInfo& info) {
  const SegmentId segment{info.segment()};
  const auto bad = from_wire(info.ranges());
  std::vector<InodeId> inodes;
  const SegmentFileKey from{segment, InodeId{}};
  const SegmentFileKey upto{SegmentId{segment.value + 1}, InodeId{}};
  REELFS_TRY(view.scan(from, upto, [&](SegmentFileKey key, const SegmentFileRow&) {
    inodes.push_back(key.inode);
    return inodes.size() < kFilesLookedAt;
  }));
  for (const auto inode : inodes) {
    ByteRanges lost;
    REELFS_TRY(view.scan(ExtentKey{inode, 0}, ExtentKey{InodeId{inode.value + 1}, 0},
                         [&](const ExtentKey& key, const ExtentRow& extent) {
                           if (extent.segment != segment) return true;
                           if (const auto part = lost_part(key, extent, bad))
                             lost.add(part->begin, part->end);
                           return true;
                         }));
    const auto path = tree::path_of(view, inode);
    for (const auto& part : lost) {
      if (info.files_size() >= kMostNamed) return ok();
      auto& piece = *info.add_files();
      if (path) piece.set_path(path.value());
      piece.set_offset(part.begin);
      piece.set_length(part.length());
    }
  }
  return ok();
}

}  // namespace

Task<void> ScrubKeeper::name_files(wire::ScrubStatusReply& reply) {
  const bool any = std::any_of(reply.damages().begin(), reply.damages().end(),
                               [](const auto& damage) { return damage.unrepairable(); });
  if (!any) co_return ok();
  auto look = [&reply](const View& view) -> Result<void> {
    for (auto& damage : *reply.mutable_damages()) {
      if (!damage.unrepairable()) continue;
      REELFS_TRY(name_pieces(view, damage));
    }
    return ok();
  };
  co_return co_await index_.read(std::move(look));
}

std::vector<wire::Problem> ScrubKeeper::problems() const {
  std::uint64_t ranges = 0;
  std::set<SegmentId> segments;
  WallNs since = INT64_MAX;
  for (const auto& [copy, damaged] : damaged_) {
    if (damaged.lost.empty()) continue;
    ranges += damaged.lost.size();
    segments.insert(copy.first);
    since = std::min(since, damaged.since_ns);
  }
  std::vector<wire::Problem> problems;
  if (ranges == 0) return problems;
  auto& problem = problems.emplace_back();
  problem.set_what(
      fmt::format("{} ranges in {} segments are damaged in every copy", ranges, segments.size()));
  problem.set_advice("reelctl scrub status names the recordings; the rest of them can be read");
  problem.set_since_ns(since);
  return problems;
}

}  // namespace reelfs::indexd
