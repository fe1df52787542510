#include "indexd/service/lag_service.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include <fmt/format.h>

#include "common/async/timeout.h"
#include "common/observe/log.h"
#include "indexd/journal/executor.h"
#include "indexd/service/node_registry.h"
#include "indexd/service/segment_keeper.h"
#include "indexd/tree/lost.h"
#include "indexd/tree/names.h"

namespace reelfs::indexd {
namespace {

constexpr Duration kMeasured = std::chrono::seconds(2);
constexpr int kMaxRanges = 4096;  // in an answer, and those of one segment more

prometheus::Gauge& gauge(prometheus::Registry& registry, const char* name, const char* help) {
  return prometheus::BuildGauge().Name(name).Help(help).Register(registry).Add({});
}

/// A segment of which the end is away or lost.
struct Ended {
  SegmentId segment;
  NodeId node;
  std::uint64_t reach = 0;
  WallNs since_ns = 0;
  bool lost = false;
};

using Tails = std::vector<SegmentKeeper::Tail>;

/// By segment, from this one on. One that is away and had been lost in part is named for both.
Result<std::vector<Ended>> ended_from(const View& view, const Tails& tails, SegmentId from) {
  std::vector<Ended> ended;
  for (const auto& tail : tails) {
    if (tail.segment >= from)
      ended.push_back({tail.segment, tail.node, tail.reach, tail.since.time_since_epoch().count(), false});
  }
  REELFS_TRY(view.scan(LossKey{from}, LossKey{SegmentId{UINT64_MAX}}, [&](LossKey key, const LossRow& row) {
    ended.push_back({key.segment, row.node, row.from, row.since_ns, true});
    return true;
  }));
  std::stable_sort(ended.begin(), ended.end(),
                   [](const Ended& a, const Ended& b) { return a.segment < b.segment; });
  return ended;
}

void add(wire::Lag& lag, const wire::ChannelLag& told) {
  lag.set_bytes(lag.bytes() + told.bytes());
  lag.set_oldest_ms(std::max(lag.oldest_ms(), told.oldest_ms()));
}

}  // namespace

LagService::LagService(asio::any_io_executor executor, const Clock& clock, Executor& index,
                       NodeRegistry& nodes, SegmentKeeper& segments, prometheus::Registry& registry)
    : clock_(clock),
      index_(index),
      nodes_(nodes),
      segments_(segments),
      lag_bytes_(gauge(registry, "reelfs_indexd_lag_bytes",
                       "Payload that first copies acknowledged and that is not on every other copy yet")),
      lag_seconds_(gauge(registry, "reelfs_indexd_lag_seconds", "Since the oldest of it was written")),
      away_bytes_(gauge(registry, "reelfs_indexd_away_bytes",
                        "Bytes of recordings that only nodes have which are away")),
      lost_bytes_(gauge(registry, "reelfs_indexd_lost_bytes",
                        "Bytes of recordings that were lost with first copies")),
      group_(std::move(executor)) {}

void LagService::register_with(Dispatcher& dispatcher) {
  dispatcher.add(wire::Method::list_lost, *this, &LagService::list_lost);
}

void LagService::start() { group_.spawn(measure()); }

asio::awaitable<void> LagService::stop() { co_await group_.stop(); }

asio::awaitable<void> LagService::measure() {
  for (;;) {
    co_await sleep_for(kMeasured);
    const auto now = co_await lags();
    if (!now) {
      logger("indexd.lag").warn("lag not measured why=\"{}\"", now.error().describe());
      continue;
    }
    const auto& total = now.value().total;
    lag_bytes_.Set(static_cast<double>(total.bytes()));
    lag_seconds_.Set(static_cast<double>(total.oldest_ms()) / 1e3);
    away_bytes_.Set(static_cast<double>(total.away_bytes()));
    lost_bytes_.Set(static_cast<double>(total.lost_bytes()));
  }
}

Task<LagService::Lags> LagService::lags() const {
  struct Bytes {
    std::uint64_t away = 0, lost = 0;
  };
  using Found = std::map<InodeId, Bytes>;
  auto read = [tails = segments_.tails()](const View& view) -> Result<Found> {
    Found found;
    REELFS_TRY(const auto all, ended_from(view, tails, SegmentId()));
    for (const auto& ended : all) {
      REELFS_TRY(const auto row, view.find(SegmentKey{ended.segment}));
      REELFS_TRY(const auto pieces, tree::lost_behind(view, ended.segment, ended.reach));
      for (const auto& piece : pieces) {
        auto& bytes = found[row ? row->channel : InodeId()];
        (ended.lost ? bytes.lost : bytes.away) += piece.length;
      }
    }
    return found;
  };
  REELFS_CO_TRY(const auto found, co_await index_.read(std::move(read)));
  Lags lags;
  for (const auto& [channel, bytes] : found) {
    auto& lag = lags.channels[channel];
    lag.set_away_bytes(bytes.away);
    lag.set_lost_bytes(bytes.lost);
    lags.total.set_away_bytes(lags.total.away_bytes() + bytes.away);
    lags.total.set_lost_bytes(lags.total.lost_bytes() + bytes.lost);
  }
  for (const auto& [node, told] : nodes_.lag()) {
    if (told.node() != 0) continue;
    add(lags.channels[InodeId{told.channel()}], told);
    add(lags.total, told);
  }
  co_return std::move(lags);
}

void LagService::describe(std::vector<wire::NodeInfo>& nodes) const {
  const auto lag = nodes_.lag();
  for (auto& info : nodes) {
    for (const auto& [sender, told] : lag) {
      if (told.node() == 0 && sender.value == info.node()) add(*info.mutable_to_send(), told);
      if (told.node() == info.node()) add(*info.mutable_to_receive(), told);
    }
  }
}

std::vector<wire::Problem> LagService::problems(const Lags& lags) {
  std::vector<wire::Problem> problems;
  if (lags.total.away_bytes() > 0) {
    wire::Problem problem;
    problem.set_what(
        fmt::format("{} bytes of recordings are only on nodes that are away", lags.total.away_bytes()));
    problem.set_advice(
        "bring these nodes back: reelctl repair lost names them, and the recordings; where one "
        "never comes back: reelctl node remove --lost");
    problems.push_back(std::move(problem));
  }
  if (lags.total.lost_bytes() > 0) {
    wire::Problem problem;
    problem.set_what(fmt::format("{} bytes of recordings were lost with a node, before other copies had them",
                                 lags.total.lost_bytes()));
    problem.set_advice("reelctl repair lost names the recordings, and which bytes of them");
    problems.push_back(std::move(problem));
  }
  return problems;
}

Task<wire::ListLostReply> LagService::list_lost(wire::ListLostRequest request) {
  auto read = [&request, tails = segments_.tails()](const View& view) -> Result<wire::ListLostReply> {
    wire::ListLostReply reply;
    REELFS_TRY(const auto all, ended_from(view, tails, SegmentId{request.after_segment() + 1}));
    for (const auto& ended : all) {
      const bool is_begun =
          reply.ranges_size() > 0 && reply.ranges(reply.ranges_size() - 1).segment() == ended.segment.value;
      if (reply.ranges_size() >= kMaxRanges && !is_begun) {
        reply.set_next_after(reply.ranges(reply.ranges_size() - 1).segment());
        break;
      }
      REELFS_TRY(const auto row, view.find(SegmentKey{ended.segment}));
      if (!row || (request.channel() != 0 && row->channel.value != request.channel())) continue;
      REELFS_TRY(const auto channel, view.find(ChannelKey{row->channel}));
      REELFS_TRY(const auto pieces, tree::lost_behind(view, ended.segment, ended.reach));
      for (const auto& piece : pieces) {
        auto& range = *reply.add_ranges();
        const auto path = tree::path_of(view, piece.inode);
        if (path) range.set_path(path.value());
        range.set_inode(piece.inode.value);
        range.set_offset(piece.offset);
        range.set_length(piece.length);
        range.set_channel(row->channel.value);
        if (channel) range.set_channel_name(channel->name);
        range.set_segment(ended.segment.value);
        range.set_node(ended.node.value);
        range.set_lost(ended.lost);
        range.set_since_ns(ended.since_ns);
      }
    }
    return reply;
  };
  REELFS_CO_TRY(auto reply, co_await index_.read(std::move(read)));
  for (auto& range : *reply.mutable_ranges()) range.set_node_name(nodes_.name(NodeId{range.node()}));
  co_return std::move(reply);
}

}  // namespace reelfs::indexd
