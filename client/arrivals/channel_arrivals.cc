#include "client/arrivals/channel_arrivals.h"

#include <algorithm>

namespace reelfs::client {

// ---- spells

void ChannelArrivals::Spells::begin(TimePoint now) {
  if (!since_) since_ = now;
}

void ChannelArrivals::Spells::end(TimePoint now) {
  if (since_) add(*since_, now);
  since_.reset();
}

void ChannelArrivals::Spells::add(TimePoint begin, TimePoint end) {
  ended_.emplace_back(begin, end);
  if (ended_.size() > kMax) ended_.pop_front();
}

Duration ChannelArrivals::Spells::within(TimePoint begin, TimePoint end) const {
  Duration total{0};
  const auto add = [&](TimePoint from, TimePoint to) {
    total += std::max(std::min(to, end) - std::max(from, begin), Duration::zero());
  };
  for (const auto& [from, to] : ended_) add(from, to);
  if (since_) add(*since_, end);
  return total;
}

void ChannelArrivals::Spells::forget_before(TimePoint time) {
  while (!ended_.empty() && ended_.front().second <= time) ended_.pop_front();
}

// ---- arrivals

void ChannelArrivals::wrote(TimePoint now, std::size_t pieces_begun) {
  const std::lock_guard lock(mutex_);
  written_ = now;
  if (pieces_begun == 0) return;
  pending_[now] += pieces_begun;
  newest_begun_ = now;
}

void ChannelArrivals::settled(std::span<const TimePoint> begun, Fate fate) {
  const std::lock_guard lock(mutex_);
  bool was_newest = false;
  for (const auto time : begun) {
    const auto found = pending_.find(time);
    if (found == pending_.end()) continue;  // of another channel's, before the file was known
    if (--found->second == 0) pending_.erase(found);
    if (fate == Fate::stored) stored_.insert(time);
    was_newest = was_newest || time == newest_begun_;
  }
  while (!stored_.empty() && (pending_.empty() || *stored_.begin() < pending_.begin()->first)) {
    arrive(*stored_.begin());
    stored_.erase(stored_.begin());
  }
  // The newest piece holds the newest write.
  if (pending_.empty() && was_newest && fate == Fate::stored) arrive(*written_);
}

void ChannelArrivals::arrive(TimePoint time) {
  if (last_ && time <= *last_) return;
  Came came{time, time, {}};
  if (last_) {
    const auto length = time - *last_;
    came.longest_pause = length;
    if (length > kNotable) {
      const auto stalled = std::max(stalled_.within(*last_, time), away_.within(*last_, time));
      news_.pauses.push_back({*last_, time, stalled, unattended_.within(*last_, time)});
      if (news_.pauses.size() > kMaxPauses) news_.pauses.pop_front();
    }
  }
  note(news_, came);
  last_ = time;
  stalled_.forget_before(time);
  unattended_.forget_before(time);
  away_.forget_before(time);
}

void ChannelArrivals::note(News& news, const Came& came) {
  if (!news.came) {
    // The pause before it is not one between two of those that are told.
    news.came = {came.first, came.last, came.first == came.last ? Duration::zero() : came.longest_pause};
    return;
  }
  news.came->last = came.last;
  news.came->longest_pause = std::max(news.came->longest_pause, came.longest_pause);
}

// ---- what keeps others from coming

void ChannelArrivals::writer_opened(TimePoint now) {
  const std::lock_guard lock(mutex_);
  if (writers_++ == 0) unattended_.end(now);
}

void ChannelArrivals::writer_closed(TimePoint now) {
  const std::lock_guard lock(mutex_);
  if (--writers_ == 0) unattended_.begin(now);
}

void ChannelArrivals::call_waits(TimePoint since) {
  const std::lock_guard lock(mutex_);
  if (waits_.empty()) stalled_.begin(since);
  waits_.insert(since);
}

void ChannelArrivals::call_ended(TimePoint since, TimePoint now) {
  const std::lock_guard lock(mutex_);
  waits_.erase(waits_.find(since));
  if (waits_.empty()) stalled_.end(now);
  news_.longest_stall = std::max(news_.longest_stall, now - since);
}

void ChannelArrivals::store_away(TimePoint since) {
  const std::lock_guard lock(mutex_);
  away_.begin(since);
}

void ChannelArrivals::store_back(TimePoint now) {
  const std::lock_guard lock(mutex_);
  away_.end(now);
}

// ---- telling

bool ChannelArrivals::is_active() const {
  const std::lock_guard lock(mutex_);
  return writers_ > 0 || writers_known_ > 0 || !pending_.empty() || news_.came || sent_.came;
}

ChannelArrivals::Report ChannelArrivals::report(TimePoint now) {
  const std::lock_guard lock(mutex_);
  // What was sent and not confirmed comes first.
  auto news = std::exchange(news_, {});
  for (auto& pause : news.pauses) sent_.pauses.push_back(pause);
  while (sent_.pauses.size() > kMaxPauses) sent_.pauses.pop_front();
  if (news.came) {
    if (sent_.came)
      news.came->longest_pause = std::max(news.came->longest_pause, news.came->first - sent_.came->last);
    note(sent_, *news.came);
  }
  sent_.longest_stall = std::max(sent_.longest_stall, news.longest_stall);
  writers_sent_ = writers_;
  Report report;
  report.came = sent_.came;
  report.pauses.assign(sent_.pauses.begin(), sent_.pauses.end());
  report.longest_stall = sent_.longest_stall;
  report.written = written_;
  if (!pending_.empty()) report.pending = pending_.begin()->first;
  report.writers = writers_;
  if (!waits_.empty()) report.waiting = now - *waits_.begin();
  return report;
}

void ChannelArrivals::confirm() {
  const std::lock_guard lock(mutex_);
  sent_ = {};
  writers_known_ = writers_sent_;
}

}  // namespace reelfs::client
