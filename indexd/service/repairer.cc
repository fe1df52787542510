#include "indexd/service/repairer.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include <fmt/format.h>

#include "common/async/timeout.h"
#include "common/observe/log.h"
#include "indexd/journal/executor.h"
#include "indexd/service/copy_orders.h"
#include "indexd/service/node_registry.h"
#include "indexd/service/repair_log.h"
#include "indexd/service/segment_keeper.h"

namespace reelfs::indexd {
namespace {

using namespace std::chrono_literals;

constexpr std::size_t kMostAtOnce = 4;
constexpr std::size_t kMostNeeds = 64 * 1024;  // the rest is seen in the next look
constexpr Duration kAfterFailure = 2s;         // until the same segment has its turn again
/// A look at all segments is followed by so many times its own length without one.
constexpr int kRestAfterLook = 20;
constexpr std::uint32_t kMostCopies = 4;
constexpr Duration kMeasured = 2s;

spdlog::logger& log() {
  static auto& instance = logger("indexd.repair");
  return instance;
}

double seconds(Duration duration) { return std::chrono::duration<double>(duration).count(); }

}  // namespace

Repairer::Repairer(asio::any_io_executor executor, const Clock& clock, Executor& index, NodeRegistry& nodes,
                   SegmentKeeper& segments, CopyOrders& copies, RepairLog& repair_log,
                   const ServiceOptions& options, prometheus::Registry& registry)
    : clock_(clock),
      index_(index),
      nodes_(nodes),
      segments_(segments),
      copies_(copies),
      repair_log_(repair_log),
      options_(options),
      group_(std::move(executor)) {
  auto& family = prometheus::BuildGauge()
                     .Name("reelfs_indexd_at_risk_bytes")
                     .Help(
                         "Bytes of segments with fewer copies within reach than they are to have, by how "
                         "many there are.")
                     .Register(registry);
  for (std::uint32_t copies_left = 0; copies_left < kMostCopies; ++copies_left)
    at_risk_bytes_.push_back(&family.Add({{"copies", std::to_string(copies_left)}}));
}

void Repairer::start() { group_.spawn(run()); }

asio::awaitable<void> Repairer::stop() { co_await group_.stop(); }

void Repairer::hurry() {
  for (const auto& node : nodes_.list()) hurried_.insert(NodeId{node.node()});
  not_before_.clear();
  wake_.set();
}

// ---- looking

CopyStanding Repairer::standing(const SegmentCopy& copy) const {
  const auto away = nodes_.away_for(copy.node, copy.device);
  if (!away) return nodes_.leaving(copy.node) ? CopyStanding::leaving : CopyStanding::whole;
  const bool is_lost = *away >= options_.repair_delay || hurried_.contains(copy.node);
  return is_lost ? CopyStanding::lost : CopyStanding::away;
}

SegmentStanding Repairer::standing(SegmentId segment, const SegmentRow& row) const {
  SegmentStanding found;
  found.segment = segment;
  found.state = row.state;
  found.length = row.length;
  found.sealed_ns = row.sealed_ns;
  found.wanted = std::max(row.wanted_copies, static_cast<std::uint32_t>(row.copies.size()));
  for (const auto& copy : row.copies) found.copies.push_back({copy.node, standing(copy)});
  return found;
}

void Repairer::note(SegmentId segment, const SegmentRow& row, Seen& seen) const {
  // What is dead goes by itself.
  const bool ended = row.state == SegmentState::sealed || row.state == SegmentState::unfilled;
  if ((ended && row.live_bytes == 0) || (!ended && row.state != SegmentState::open)) return;
  const auto found = standing(segment, row);
  const auto within_reach = found.within_reach();
  const bool is_at_risk = within_reach < found.wanted;
  if (is_at_risk) {
    auto& at_risk = seen.at_risk[within_reach];
    ++at_risk.segments;
    at_risk.bytes += row.length;
  }
  for (const auto& copy : row.copies) {
    if (!nodes_.leaving(copy.node)) continue;
    ++seen.leaving[copy.node].segments;
    seen.leaving[copy.node].bytes += row.length;
  }
  if (RepairPlan::next_step(found).kind == RepairStep::Kind::none) return;
  if (seen.needs.size() >= kMostNeeds) {
    ++seen.rest;
    return;
  }
  seen.needs.push_back({segment, row.length, row.sealed_ns, within_reach, !is_at_risk});
}

Task<Repairer::Seen> Repairer::look() {
  Seen seen;
  for (SegmentId from;;) {
    auto read = [from, limit = options_.sweep_rows](const View& view) -> Result<Page> {
      Page page;
      REELFS_TRY(
          view.scan(SegmentKey{from}, SegmentKey{SegmentId{UINT64_MAX}}, [&](SegmentKey key, SegmentRow row) {
            page.emplace_back(key.segment, std::move(row));
            return page.size() < limit;
          }));
      return page;
    };
    REELFS_CO_TRY(const auto page, co_await index_.read(std::move(read)));
    for (const auto& [segment, row] : page) note(segment, row, seen);
    if (page.size() < options_.sweep_rows) break;
    from = SegmentId{page.back().first.value + 1};
  }
  co_return std::move(seen);
}

void Repairer::take(Seen seen) {
  at_risk_ = std::move(seen.at_risk);
  leaving_ = std::move(seen.leaving);
  rest_ = seen.rest;
  for (std::uint32_t copies = 0; copies < at_risk_bytes_.size(); ++copies) {
    const auto found = at_risk_.find(copies);
    at_risk_bytes_[copies]->Set(found == at_risk_.end() ? 0 : static_cast<double>(found->second.bytes));
  }
  queue_ = std::move(seen.needs);
  std::sort(queue_.begin(), queue_.end(),
            [](const RepairNeed& a, const RepairNeed& b) { return RepairPlan::is_more_urgent(b, a); });
  const auto now = clock_.now();
  std::erase_if(not_before_, [now](const auto& entry) { return entry.second <= now; });
}

asio::awaitable<void> Repairer::pause(Duration duration) {
  (void)co_await with_timeout(clock_, Deadline::after(clock_, duration), wait_for(wake_));
}

asio::awaitable<void> Repairer::run() {
  for (;;) {
    std::erase_if(hurried_, [this](NodeId node) { return nodes_.online(node); });
    const auto began = clock_.now();
    auto seen = co_await look();
    const auto took = clock_.now() - began;
    if (seen) {
      changed_ = no_place_ = false;
      take(std::move(seen).value());
      co_await work_through();
    } else {
      log().warn("segments not looked at for repair why=\"{}\"", seen.error().describe());
    }
    const auto rest =
        std::max(changed_ ? options_.repair_interval / 4 : options_.repair_interval, kRestAfterLook * took);
    co_await pause(rest);
  }
}

// ---- working

asio::awaitable<void> Repairer::work_through() {
  while (!queue_.empty() || under_way_ > 0) {
    const auto now = clock_.now();
    if (now - measured_ >= kMeasured) {
      const auto bytes = copies_.copied_bytes();
      rate_ = measured_ == TimePoint{}
                  ? 0
                  : static_cast<double>(bytes - measured_bytes_) / seconds(now - measured_);
      measured_ = now;
      measured_bytes_ = bytes;
    }
    while (!queue_.empty() && under_way_ < kMostAtOnce) {
      const auto need = queue_.back();
      queue_.pop_back();
      const auto after = not_before_.find(need.segment);
      if (after != not_before_.end() && after->second > now) continue;
      ++under_way_;
      group_.spawn(repair(need));
    }
    if (under_way_ == 0) break;
    const auto ended = co_await ended_.wait(clock_, Deadline::after(clock_, kMeasured));
    if (!ended && ended.error().code() == Errc::cancelled) co_return;
    // Nodes came or went: another order may be the right one.
    if (wake_.is_set()) queue_.clear();
  }
  rate_ = 0;
  measured_ = {};
}

asio::awaitable<void> Repairer::repair(RepairNeed need) {
  struct UnderWay {
    Repairer& repairer;
    ~UnderWay() {
      --repairer.under_way_;
      repairer.ended_.notify_all();
    }
  };
  const UnderWay until_the_end{*this};
  const auto done = co_await step(need);
  if (done) co_return;
  not_before_[need.segment] = clock_.now() + kAfterFailure;
  log().info("segment not repaired segment={} why=\"{}\"", need.segment.value, done.error().describe());
}

/// Looks again: what one look saw may be minutes old when its turn comes.
Task<void> Repairer::step(RepairNeed need) {
  auto find = [segment = need.segment](const View& view) { return view.find(SegmentKey{segment}); };
  REELFS_CO_TRY(const auto row, co_await index_.read(std::move(find)));
  if (!row) co_return ok();
  const auto now_standing = standing(need.segment, *row);
  const auto next = RepairPlan::next_step(now_standing);
  if (next.kind == RepairStep::Kind::none) co_return ok();
  changed_ = true;
  if (next.kind == RepairStep::Kind::finish) {
    segments_.finish(need.segment);
    co_return ok();
  }
  const auto loads = nodes_.loads();
  const auto place = RepairPlan::choose_place(now_standing, next.instead_of, loads, making_);
  if (!place) {
    no_place_ = true;
    changed_ = false;
    co_return ok();
  }
  struct Making {
    std::map<NodeId, std::uint32_t>& making;
    NodeId node;
    Making(std::map<NodeId, std::uint32_t>& by_node, NodeId on) : making(by_node), node(on) {
      ++making[node];
    }
    ~Making() {
      if (--making[node] == 0) making.erase(node);
    }
  };
  const Making until_the_end(making_, place->node);
  REELFS_CO_TRY(co_await segments_.add_copy(need.segment, *place, next.instead_of));
  RepairLogRow made;
  made.event = RepairEvent::copy_made;
  made.segment = need.segment;
  made.node = place->node;
  made.other = next.instead_of;
  made.bytes = need.length;
  repair_log_.note(std::move(made));
  log().info("segment repaired segment={} node={} instead_of={} length={} copies_before={}",
             need.segment.value, nodes_.name(place->node),
             next.instead_of ? nodes_.name(next.instead_of) : "none", need.length, need.within_reach);
  co_return ok();
}

// ---- what operators are told

std::string Repairer::waits_for() const {
  if (under_way_ > 0) return {};
  if (no_place_) return "a node that answers, with room and without a copy of what is to be copied";
  for (const auto& node : nodes_.list()) {
    const NodeId id{node.node()};
    if (nodes_.online(id) || hurried_.contains(id)) continue;
    const auto away = nodes_.away_for(id, DeviceId{});
    if (!away || *away >= options_.repair_delay) continue;
    const auto left = options_.repair_delay - *away;
    return fmt::format("node {} to come back, for {:.0f} s more; reelctl repair now does not wait",
                       node.name(), seconds(left));
  }
  return {};
}

wire::RepairStatus Repairer::status() const {
  wire::RepairStatus status;
  for (const auto& [copies, at_risk] : at_risk_) {
    auto& entry = *status.add_at_risk();
    entry.set_copies(copies);
    entry.set_segments(at_risk.segments);
    entry.set_bytes(at_risk.bytes);
  }
  std::uint64_t left = 0;
  for (const auto& copy : copies_.under_way()) {
    auto& entry = *status.add_under_way();
    entry.set_segment(copy.order.segment.value);
    entry.set_node(copy.order.node.value);
    entry.set_node_name(nodes_.name(copy.order.node));
    entry.set_valid_bytes(copy.valid);
    entry.set_length(copy.order.length);
    left += copy.order.length - std::min(copy.valid, copy.order.length);
  }
  for (const auto& need : queue_) left += need.length;
  status.set_queued_segments(queue_.size() + rest_);
  status.set_left_bytes(left);
  status.set_rate(options_.repair_rate);
  status.set_bytes_per_second(static_cast<std::uint64_t>(rate_));
  if (rate_ >= 1) status.set_expected_ms(static_cast<std::uint64_t>(static_cast<double>(left) / rate_ * 1e3));
  status.set_waits_for(waits_for());
  status.set_copies_made(copies_.copies_made());
  status.set_copied_bytes(copies_.copied_bytes());
  status.set_failures(copies_.failures());
  for (const auto& node : nodes_.list()) {
    const NodeId id{node.node()};
    if (!nodes_.leaving(id)) continue;
    const auto found = leaving_.find(id);
    auto& entry = *status.add_leaving();
    entry.set_node(id.value);
    entry.set_node_name(node.name());
    if (found == leaving_.end()) continue;
    entry.set_segments(found->second.segments);
    entry.set_bytes(found->second.bytes);
  }
  return status;
}

}  // namespace reelfs::indexd
