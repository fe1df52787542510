#include "indexd/gaps/channel_watch.h"

#include <algorithm>

namespace reelfs::indexd {

namespace {

using namespace std::chrono_literals;

/// A call that waits so long is what keeps the recorder from writing, and no ordinary fsync.
constexpr Duration kStalled = 1s;
/// Six reports: a mount that says nothing for so long does not run, or does not reach us.
constexpr Duration kUnheard = 3s;
/// Ages are told in milliseconds, and messages take a moment: so far apart two times may be the same.
constexpr Duration kSame = 500ms;

std::uint64_t milliseconds(Duration duration) {
  return static_cast<std::uint64_t>(std::chrono::duration_cast<std::chrono::milliseconds>(duration).count());
}

std::size_t place_of(GapCause cause) { return static_cast<std::size_t>(cause); }

WallNs wall_of(TimePoint time, Moment at) { return at.wall_ns - (at.now - time).count(); }

GapCause longest(const std::array<Duration, 4>& lasted) {
  const auto found = std::max_element(lasted.begin() + 1, lasted.end());
  return static_cast<GapCause>(found - lasted.begin());
}

}  // namespace

ChannelWatch::ChannelWatch(Moment started, const WatchRow& row, WallNs last_ns,
                           const std::optional<tree::Gap>& open)
    : started_(started.now), watched_(true), since_ns_(row.since_ns) {
  const auto ago = [&](WallNs time_ns) {
    return started.now - Duration(std::max<WallNs>(started.wall_ns - time_ns, 0));
  };
  cadence_.assume(std::chrono::milliseconds(row.cadence_ms));
  longest_stall_ = std::chrono::milliseconds(row.longest_stall_ms);
  last_ = ago(open ? open->start_ns : last_ns);
  since_ = ago(row.since_ns);
  if (!open) return;
  open_.emplace();
  open_->begin = *last_;
  open_->start_ns = open->start_ns;
  open_->cause = open->row.cause;
  open_->longest_stall = std::chrono::milliseconds(open->row.longest_stall_ms);
  open_->lasted[place_of(open->row.cause)] = started.now - *last_;
  open_->looked_at = started.now;
}

void ChannelWatch::report(SessionId session, const ArrivalReport& report, Moment at) {
  sessions_[session] = {at.now, report.writers, report.waiting, report.written, report.pending};
  const auto stall = std::max(report.waiting, report.longest_stall);
  longest_stall_ = std::max(longest_stall_, stall);
  if (open_) open_->longest_stall = std::max(open_->longest_stall, stall);
  if (!report.came || (last_ && report.came->last <= *last_)) return;
  const auto& came = *report.came;
  auto longest_pause = came.longest_pause;
  auto pauses = report.pauses;
  const bool knows_first = !pauses.empty() && pauses.front().end <= came.first + kSame;
  if (last_ && came.first > *last_) {
    longest_pause = std::max(longest_pause, came.first - *last_);
    if (!knows_first) settle({*last_, came.first, {}, {}}, false, stall, at);
  }
  for (auto& pause : pauses) {
    // Another mount may have written meanwhile.
    if (last_ && pause.end <= *last_) continue;
    if (last_ && pause.begin < *last_) pause.begin = *last_;
    settle(pause, true, stall, at);
  }
  last_ = came.last;
  if (open_ && open_->begin < came.last) retract();
  learn(longest_pause, at);
}

void ChannelWatch::learn(Duration pause, Moment at) {
  if (!since_) {
    since_ = *last_;
    since_ns_ = wall_of(*last_, at);
  }
  cadence_.note(pause, at.now);
  watched_ = watched_ || (++arrivals_ >= kArrivals && *last_ - *since_ >= kArriving);
}

/// Between two bytes that are there now lies this.
void ChannelWatch::settle(const Pause& pause, bool told, Duration longest_stall, Moment at) {
  const auto length = pause.end - pause.begin;
  if (!watched_ || length <= limit()) return;
  std::array<Duration, 4> lasted{};
  WallNs start_ns = wall_of(pause.begin, at);
  const bool was_open = open_ && pause.end > open_->begin;
  if (was_open) {
    lasted = open_->lasted;
    longest_stall = std::max(longest_stall, open_->longest_stall);
    const auto moved = pause.begin - open_->begin;
    if (moved <= kSame && moved >= -kSame) {
      start_ns = open_->start_ns;
    } else {
      changes_.push_back({open_->start_ns, std::nullopt});
    }
    open_.reset();
  }
  if (told) {
    lasted = {};
    lasted[place_of(GapCause::store_stalled)] = pause.stalled;
    lasted[place_of(GapCause::recorder_gone)] = pause.unattended;
    lasted[place_of(GapCause::source_silent)] = length - pause.stalled - pause.unattended;
  } else if (!was_open) {
    // Nobody has seen it: it lies mostly in a time in which this did not run.
    const bool was_away = pause.begin < started_;
    lasted[place_of(was_away ? GapCause::store_stalled : GapCause::recorder_gone)] = length;
  }
  close(start_ns, length, longest(lasted), longest_stall);
}

void ChannelWatch::close(WallNs start_ns, Duration length, GapCause cause, Duration longest_stall) {
  GapRow row;
  // By the clock that is never set. What it is set by meanwhile is seen in the next gap.
  row.end_ns = start_ns + length.count();
  row.cause = cause;
  row.longest_stall_ms = milliseconds(longest_stall);
  changes_.push_back({start_ns, row});
  ++totals_.gaps[place_of(cause)];
  totals_.length += length;
}

/// Bytes have come, or been stored, that were on their way.
void ChannelWatch::retract() {
  changes_.push_back({open_->start_ns, std::nullopt});
  open_.reset();
}

TimePoint ChannelWatch::silent_since() const {
  auto since = *last_;
  for (const auto& [session, teller] : sessions_) {
    // What waits to be stored has come, but for what follows bytes that could not be.
    const bool is_next = teller.pending && teller.written && *teller.pending - *last_ <= limit();
    if (is_next) since = std::max(since, *teller.written);
  }
  return since;
}

GapCause ChannelWatch::cause_now(TimePoint now) const {
  bool is_attended = false;
  for (const auto& [session, teller] : sessions_) {
    if (teller.waiting >= kStalled) return GapCause::store_stalled;
    if (teller.writers == 0) continue;
    if (now - teller.heard > kUnheard) return GapCause::store_stalled;
    is_attended = true;
  }
  return is_attended ? GapCause::source_silent : GapCause::recorder_gone;
}

void ChannelWatch::look(Moment at) {
  if (!watched_ || !last_) return;
  const auto cause = cause_now(at.now);
  if (!open_) {
    const auto since = silent_since();
    if (at.now - since > limit()) open_gap(since, at);
    return;
  }
  open_->lasted[place_of(cause)] += at.now - std::exchange(open_->looked_at, at.now);
  if (cause == open_->cause) return;
  open_->cause = cause;
  put_open();
}

void ChannelWatch::open_gap(TimePoint begin, Moment at) {
  open_.emplace();
  open_->begin = begin;
  open_->start_ns = wall_of(begin, at);
  open_->cause = cause_now(at.now);
  open_->looked_at = at.now;
  if (begin < started_) open_->lasted[place_of(GapCause::store_stalled)] = started_ - begin;
  open_->lasted[place_of(open_->cause)] += at.now - std::max(begin, started_);
  for (const auto& [session, teller] : sessions_)
    open_->longest_stall = std::max(open_->longest_stall, teller.waiting);
  put_open();
}

void ChannelWatch::put_open() {
  changes_.push_back({open_->start_ns, GapRow{0, open_->cause, milliseconds(open_->longest_stall)}});
}

WatchRow ChannelWatch::row() const {
  WatchRow row;
  row.since_ns = since_ns_;
  row.cadence_ms = milliseconds(cadence_.usual());
  row.longest_stall_ms = milliseconds(longest_stall_);
  return row;
}

std::optional<ChannelWatch::Open> ChannelWatch::open() const {
  if (!open_) return std::nullopt;
  return Open{open_->start_ns, open_->cause};
}

}  // namespace reelfs::indexd
