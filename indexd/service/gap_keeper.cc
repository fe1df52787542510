#include "indexd/service/gap_keeper.h"

#include <algorithm>
#include <array>
#include <iterator>
#include <utility>

#include <fmt/format.h>

#include "common/async/timeout.h"
#include "common/observe/log.h"
#include "indexd/journal/executor.h"
#include "indexd/service/sessions.h"
#include "indexd/tree/recordings.h"

namespace reelfs::indexd {

namespace {

using namespace std::chrono_literals;

constexpr int kMaxReported = 4096;          // channels of one report
constexpr std::uint32_t kMaxListed = 1024;  // gaps of one answer, whose size is limited
constexpr std::size_t kMaxMeasured = 1000;  // channels that have metrics of their own
/// After a start, or where this process was stopped: by then whoever lives has reported.
constexpr Duration kPatience = 4s;
constexpr Duration kNamesKept = 5s;
constexpr Duration kStoreEvery = 10s;  // what is learnt of a channel, where no gap begins or ends
/// A recorder that is gone for a day was taken away: the ledger still says so.
constexpr Duration kGoneIsAProblemFor = 24h;

spdlog::logger& log() {
  static auto& instance = logger("indexd.gaps");
  return instance;
}

const char* name_of(GapCause cause) {
  switch (cause) {
    case GapCause::source_silent:
      return "source_silent";
    case GapCause::recorder_gone:
      return "recorder_gone";
    case GapCause::store_stalled:
      return "store_stalled";
  }
  return "unknown";
}

constexpr std::array kCauses{GapCause::source_silent, GapCause::recorder_gone, GapCause::store_stalled};

prometheus::Family<prometheus::Gauge>& family(prometheus::Registry& registry, const char* name,
                                              const char* help) {
  return prometheus::BuildGauge().Name(name).Help(help).Register(registry);
}

double seconds(Duration duration) { return std::chrono::duration<double>(duration).count(); }

/// No more than a year: what a peer says is not to overflow.
Duration age(std::uint64_t ms) {
  constexpr std::uint64_t kLongestMs = 366ULL * 24 * 3600 * 1000;
  return std::chrono::milliseconds(std::min(ms, kLongestMs));
}

ArrivalReport from_wire(const wire::ChannelArrivals& told, TimePoint now) {
  ArrivalReport report;
  if (told.has_first_ms() && told.has_last_ms() && told.first_ms() >= told.last_ms())
    report.came = {now - age(told.first_ms()), now - age(told.last_ms()), age(told.longest_pause_ms())};
  for (const auto& pause : told.pauses()) {
    const auto end = now - age(pause.ended_ms());
    report.pauses.push_back(
        {end - age(pause.length_ms()), end, age(pause.stalled_ms()), age(pause.unattended_ms())});
  }
  if (told.has_written_ms()) report.written = now - age(told.written_ms());
  if (told.has_pending_ms()) report.pending = now - age(told.pending_ms());
  report.writers = told.writers();
  report.waiting = age(told.waiting_ms());
  report.longest_stall = age(told.longest_stall_ms());
  return report;
}

bool differs(const WatchRow& learnt, const WatchRow& stored) {
  const auto apart =
      std::max(learnt.cadence_ms, stored.cadence_ms) - std::min(learnt.cadence_ms, stored.cadence_ms);
  return learnt.since_ns != stored.since_ns || learnt.longest_stall_ms != stored.longest_stall_ms ||
         (apart > 500 && apart > stored.cadence_ms / 4);
}

}  // namespace

GapKeeper::GapKeeper(asio::any_io_executor executor, const Clock& clock, Executor& index, Sessions& sessions,
                     const ServiceOptions& options, prometheus::Registry& registry)
    : clock_(clock),
      index_(index),
      sessions_(sessions),
      options_(options),
      silence_(family(registry, "reelfs_indexd_channel_silence_seconds",
                      "Since the last byte of a channel that is recorded to.")),
      silent_(family(registry, "reelfs_indexd_channel_silent",
                     "1 where a channel that is recorded to has gone silent.")),
      cadence_(family(registry, "reelfs_indexd_channel_cadence_seconds",
                      "Usual time between two arrivals of a channel.")),
      stall_(family(registry, "reelfs_indexd_channel_longest_stall_seconds",
                    "Longest that a write, fsync or close of a channel has waited.")),
      gaps_(family(registry, "reelfs_indexd_channel_gaps",
                   "Gaps of a channel that have ended since this process started, by cause.")),
      gap_seconds_(
          family(registry, "reelfs_indexd_channel_gap_seconds",
                 "Length of the gaps of a channel since this process started, the present one included.")),
      started_at_(clock.now()),
      judge_from_(clock.now() + kPatience),
      names_read_at_(clock.now()),
      group_(std::move(executor)) {}

void GapKeeper::register_with(Dispatcher& dispatcher) {
  dispatcher.add(wire::Method::report_arrivals, *this, &GapKeeper::report_arrivals);
  dispatcher.add(wire::Method::list_gaps, *this, &GapKeeper::list_gaps);
}

Task<void> GapKeeper::start() {
  struct Known {
    InodeId channel;
    std::string name;
    WatchRow row;
    WallNs last_ns = 0;
    std::optional<tree::Gap> open;
  };
  auto read = [](const View& view) -> Result<std::vector<Known>> {
    std::vector<Known> all;
    REELFS_TRY(view.scan_table<WatchKey>([&](const WatchKey& key, const WatchRow& row) {
      all.push_back({key.channel, {}, row, 0, {}});
      return true;
    }));
    for (auto& known : all) {
      REELFS_TRY(const auto channel, view.get(ChannelKey{known.channel}));
      known.name = channel.name;
      known.last_ns = known.row.since_ns;
      REELFS_TRY(tree::for_each_recording_back(view, known.channel, [&](const tree::Recording& newest) {
        known.last_ns = newest.last_ns;
        return false;
      }));
      if (known.row.open_ns == 0) continue;
      REELFS_TRY(const auto gap,
                 view.get(GapKey{known.channel, static_cast<std::uint64_t>(known.row.open_ns)}));
      known.open = {known.row.open_ns, gap};
    }
    return all;
  };
  REELFS_CO_TRY(auto all, co_await index_.read(std::move(read)));
  started_at_ = clock_.now();
  judge_from_ = started_at_ + kPatience;
  for (auto& known : all) {
    Channel channel{std::move(known.name),
                    ChannelWatch(moment(), known.row, known.last_ns, known.open),
                    {},
                    known.row,
                    started_at_};
    channel.told = channel.watch.open();
    channels_.emplace(known.channel, std::move(channel));
  }
  log().info("watching channels={}", channels_.size());
  group_.spawn(run());
  co_return ok();
}

asio::awaitable<void> GapKeeper::stop() {
  co_await group_.stop();
  const auto saved = co_await save();
  if (!saved) log().error("ledger not written why=\"{}\"", saved.error().describe());
}

asio::awaitable<void> GapKeeper::run() {
  auto before = clock_.now();
  for (;;) {
    co_await sleep_for(options_.sweep_interval);
    if (group_.stopping()) co_return;
    const auto now = clock_.now();
    // Where this process was stopped for a while, reports wait to be read.
    if (now - before > 2 * options_.sweep_interval + 1s) judge_from_ = now + kPatience;
    before = now;
    if (now - names_read_at_ > kNamesKept) {
      const auto read = co_await read_names();
      if (!read) log().error("names of channels not read why=\"{}\"", read.error().describe());
    }
    for (auto& [id, channel] : channels_) {
      if (now >= judge_from_) channel.watch.look(moment());
      collect(id, channel, now);
      tell(channel, now);
      measure(id, channel, now);
    }
    const auto saved = co_await save();
    if (!saved) log().error("ledger not written why=\"{}\"", saved.error().describe());
  }
}

/// Channels are renamed and removed.
Task<void> GapKeeper::read_names() {
  auto read = [](const View& view) -> Result<std::map<InodeId, std::string>> {
    std::map<InodeId, std::string> names;
    REELFS_TRY(view.scan_table<ChannelKey>([&](const ChannelKey& key, const ChannelRow& row) {
      names.emplace(key.inode, row.name);
      return true;
    }));
    return names;
  };
  const auto asked_at = clock_.now();
  std::vector<InodeId> gone;
  for (const auto& [id, channel] : channels_) gone.push_back(id);
  REELFS_CO_TRY(auto names, co_await index_.read(std::move(read)));
  names_read_at_ = asked_at;
  std::erase_if(gone, [&](InodeId id) { return names.contains(id); });
  for (const auto& [id, name] : names) {
    const auto channel = channels_.find(id);
    if (channel != channels_.end()) channel->second.name = name;
  }
  for (const auto id : gone) forget(id);
  co_return ok();
}

void GapKeeper::forget(InodeId channel) {
  channels_.erase(channel);
  const auto measured = gauges_.extract(channel);
  if (measured.empty()) return;
  for (const auto& [of, gauge] : measured.mapped().all) of->Remove(gauge);
}

/// @return whether there is such a channel
Task<bool> GapKeeper::learn_of(InodeId channel) {
  auto read = [channel](const View& view) { return view.find(ChannelKey{channel}); };
  REELFS_CO_TRY(const auto row, co_await index_.peek(std::move(read)));
  if (row) channels_.try_emplace(channel, Channel{row->name, ChannelWatch(started_at_), {}, {}, started_at_});
  co_return row.has_value();
}

Task<wire::Empty> GapKeeper::report_arrivals(wire::ReportArrivalsRequest request) {
  const SessionId session{request.session()};
  REELFS_CO_TRY(sessions_.renew(session));
  if (request.channels_size() > kMaxReported) co_return Error(Errc::too_big, "at most 4096 channels at once");
  const auto at = moment();
  const auto asked_at = at.now - age(request.waited_ms());
  for (const auto& told : request.channels()) {
    const InodeId id{told.channel()};
    if (!channels_.contains(id)) {
      REELFS_CO_TRY(const bool is_there, co_await learn_of(id));
      if (!is_there) continue;
    }
    const auto channel = channels_.find(id);
    if (channel == channels_.end() || !sessions_.alive(session)) continue;
    channel->second.watch.report(session, from_wire(told, asked_at), at);
  }
  co_return wire::Empty();
}

void GapKeeper::session_ended(SessionId session) {
  for (auto& [id, channel] : channels_) channel.watch.session_ended(session);
}

void GapKeeper::collect(InodeId id, Channel& channel, TimePoint now) {
  auto changes = channel.watch.take_changes();
  if (!channel.watch.is_watched()) return;
  const auto row = channel.watch.row();
  const bool is_due = now - channel.stored_at >= kStoreEvery || channel.stored.since_ns == 0;
  if (changes.empty() && !(is_due && differs(row, channel.stored))) return;
  channel.stored = row;
  channel.stored_at = now;
  unsaved_.push_back({id, row, std::move(changes)});
}

Task<void> GapKeeper::save() {
  if (unsaved_.empty()) co_return ok();
  auto batch = std::exchange(unsaved_, {});
  auto write = [&batch](Transaction& txn) -> Result<void> {
    for (const auto& each : batch) {
      REELFS_TRY(tree::note_gaps(txn, each.channel, each.row, each.changes));
    }
    return ok();
  };
  auto written = co_await index_.run(std::move(write));
  // The next one tries again.
  if (!written)
    unsaved_.insert(unsaved_.begin(), std::move_iterator(batch.begin()), std::move_iterator(batch.end()));
  co_return std::move(written);
}

void GapKeeper::tell(Channel& channel, TimePoint now) {
  const auto open = channel.watch.open();
  if (open &&
      (!channel.told || channel.told->start_ns != open->start_ns || channel.told->cause != open->cause)) {
    log().warn("channel silent channel=\"{}\" cause={} silent_s={:.1f} cadence_s={:.1f}", channel.name,
               name_of(open->cause), seconds(now - *channel.watch.last()), seconds(channel.watch.cadence()));
  }
  if (!open && channel.told) log().info("channel records again channel=\"{}\"", channel.name);
  channel.told = open;
}

void GapKeeper::measure(InodeId id, const Channel& channel, TimePoint now) {
  const auto& watch = channel.watch;
  if (!watch.is_watched() || !watch.last()) return;
  if (!gauges_.contains(id) && gauges_.size() >= kMaxMeasured) return;
  auto& gauges = gauges_[id];
  if (gauges.name != channel.name) {
    for (const auto& [of, gauge] : gauges.all) of->Remove(gauge);
    gauges = {channel.name, {}, 0};
  }
  gauges.used = 0;
  const auto set = [&](prometheus::Family<prometheus::Gauge>& of, double value, const char* cause = nullptr) {
    if (gauges.used == gauges.all.size()) {
      prometheus::Labels labels{{"channel", channel.name}};
      if (cause != nullptr) labels.emplace("cause", cause);
      gauges.all.emplace_back(&of, &of.Add(labels));
    }
    gauges.all[gauges.used++].second->Set(value);
  };
  const auto& totals = watch.totals();
  const bool is_silent = watch.open().has_value();
  const auto silence = now - *watch.last();
  set(silence_, seconds(silence));
  set(silent_, is_silent ? 1 : 0);
  set(cadence_, seconds(watch.cadence()));
  set(stall_, seconds(watch.longest_stall()));
  set(gap_seconds_, seconds(totals.length + (is_silent ? silence : Duration::zero())));
  for (const auto cause : kCauses)
    set(gaps_, static_cast<double>(totals.gaps[static_cast<std::size_t>(cause)]), name_of(cause));
}

std::vector<wire::Problem> GapKeeper::problems() const {
  std::vector<wire::Problem> found;
  const auto now = moment();
  for (const auto& [id, channel] : channels_) {
    const auto open = channel.watch.open();
    if (!open) continue;
    wire::Problem problem;
    switch (open->cause) {
      case GapCause::source_silent:
        problem.set_what(fmt::format("channel {} is silent: its recorder has a file open and writes nothing",
                                     channel.name));
        problem.set_advice("look at the camera and at the connection between it and the recorder");
        break;
      case GapCause::recorder_gone:
        if (now.wall_ns - open->start_ns > kGoneIsAProblemFor.count()) continue;
        problem.set_what(
            fmt::format("channel {} is silent: nobody has a file open to record to it", channel.name));
        problem.set_advice("start its recorder; where it was stopped on purpose, this is told for a day");
        break;
      case GapCause::store_stalled:
        problem.set_what(
            fmt::format("channel {} is silent: what its recorder writes is not stored", channel.name));
        problem.set_advice(
            "reelctl node list shows nodes that do not answer; look at the recorder's mount, too");
        break;
    }
    problem.set_since_ns(open->start_ns);
    found.push_back(std::move(problem));
  }
  return found;
}

Task<wire::ListGapsReply> GapKeeper::list_gaps(wire::ListGapsRequest request) {
  const InodeId id{request.channel()};
  // What has been noticed is told.
  if (const auto known = channels_.find(id); known != channels_.end())
    collect(id, known->second, clock_.now());
  REELFS_CO_TRY(co_await save());
  struct Read {
    std::vector<tree::Gap> gaps;
    std::optional<tree::Coverage> coverage;
  };
  tree::LedgerRange range;
  if (request.has_from_ns()) range.from_ns = request.from_ns();
  if (request.has_to_ns()) range.to_ns = request.to_ns();
  const auto limit = request.limit() == 0 ? kMaxListed : std::min(request.limit(), kMaxListed);
  const auto now = moment();
  auto read = [id, range, limit, after = request.after_ns(), now](const View& view) -> Result<Read> {
    REELFS_TRY(const bool is_there, view.has(ChannelKey{id}));
    if (!is_there) return Error(Errc::not_found, fmt::format("there is no channel {}", id.value));
    Read found;
    REELFS_TRY(found.gaps, tree::list_gaps(view, id, range, after, limit, now.wall_ns));
    if (after == 0) {
      REELFS_TRY(found.coverage, tree::coverage(view, id, range, now.wall_ns));
    }
    return found;
  };
  REELFS_CO_TRY(const auto found, co_await index_.read(std::move(read)));
  wire::ListGapsReply reply;
  for (const auto& gap : found.gaps) {
    auto& info = *reply.add_gaps();
    info.set_start_ns(gap.start_ns);
    info.set_end_ns(gap.row.end_ns);
    info.set_cause(static_cast<wire::GapCause>(gap.row.cause));
    info.set_longest_stall_ms(gap.row.longest_stall_ms);
  }
  reply.set_end(found.gaps.size() < limit);
  if (request.after_ns() != 0) co_return reply;
  auto& coverage = *reply.mutable_coverage();
  if (!found.coverage) co_return reply;
  coverage.set_watched(true);
  coverage.set_from_ns(found.coverage->from_ns);
  coverage.set_to_ns(found.coverage->to_ns);
  coverage.set_covered_ns(static_cast<std::uint64_t>(found.coverage->covered_ns));
  coverage.set_gaps(found.coverage->gaps);
  coverage.set_longest_stall_ms(found.coverage->watch.longest_stall_ms);
  coverage.set_cadence_ms(found.coverage->watch.cadence_ms);
  if (const auto known = channels_.find(id); known != channels_.end() && known->second.watch.last()) {
    const auto& watch = known->second.watch;
    const auto ms = [](Duration duration) {
      return static_cast<std::uint64_t>(
          std::chrono::duration_cast<std::chrono::milliseconds>(duration).count());
    };
    coverage.set_longest_stall_ms(ms(watch.longest_stall()));
    coverage.set_cadence_ms(ms(watch.cadence()));
    coverage.set_silent_ms(ms(now.now - *watch.last()));
  }
  co_return reply;
}

}  // namespace reelfs::indexd
