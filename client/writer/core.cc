#include "client/writer/core.h"

#include <algorithm>
#include <tuple>
#include <utility>

#include "common/base/assert.h"
#include "common/wire/record.h"

namespace reelfs::client {
namespace {

/// Errors that say nothing about the node which answered them.
bool speaks_of_the_grant(Errc code) {
  return code == Errc::stale_generation || code == Errc::stale_epoch || code == Errc::no_session;
}

/// What asking again would not change.
bool is_final(Errc code) {
  switch (code) {
    case Errc::not_found:
    case Errc::stale_handle:
    case Errc::invalid:
    case Errc::not_permitted:
    case Errc::access_denied:
    case Errc::read_only:
    case Errc::unsupported:
      return true;
    default:
      return false;
  }
}

bool is_full(Errc code) { return code == Errc::no_space || code == Errc::quota_exceeded; }

}  // namespace

WriterCore::WriterCore(WriterCoreOptions options) : options_(options) {}

std::uint64_t WriterCore::Segment::acked() const {
  auto least = end;
  for (const auto& copy : copies) least = std::min(least, copy.acked);
  return least;
}

// ---- events

void WriterCore::queue(PieceId piece, std::uint32_t payload_bytes, TimePoint now) {
  REELFS_ASSERT(!closing_ && piece);
  REELFS_ASSERT(payload_bytes > 0 && payload_bytes <= wire::kMaxRecordPayload);
  REELFS_ASSERT(pieces_.empty() || pieces_.rbegin()->first < piece);
  const auto record_bytes = wire::record_bytes(payload_bytes);
  pieces_.emplace(piece, Piece{record_bytes, now});
  waiting_.insert(waiting_.end(), piece);
  waiting_bytes_ += record_bytes;
  used_at_ = now;
}

void WriterCore::abandon(PieceId piece) {
  if (!pieces_.contains(piece)) return;
  stop_waiting(piece);
  pieces_.erase(piece);
}

void WriterCore::grants_arrived(GrantUse use, std::vector<SegmentGrant> grants, TimePoint now) {
  if (use == GrantUse::now && grants.empty())
    return grants_failed(use, Error(Errc::unavailable, "the index granted nothing"), now);
  auto& asked = asking(use);
  const auto missing = std::exchange(asked.requested, 0) > grants.size();
  if (use == GrantUse::now) {
    news_answered_ = asked.knowing;
    full_answer_at_.reset();
    std::erase_if(spares_, [this](const Spare& spare) {  // the index has given what is better
      if (spare.tainted) return_grant(spare.grant, spare.grant.offset);
      return spare.tainted;
    });
  }
  if (use == GrantUse::cover) {
    next_cover_at_ = now + (missing ? options_.cover_interval : options_.retry_most);
  } else {
    asked.delay = {};
    asked.next_at = {};
    // Less than was asked for: the index has no more just now. What lacks then is spares.
    if (missing) asking_ahead_.next_at = now + options_.retry_most;
  }
  for (auto& grant : grants) {
    const auto same = [&](const Spare& spare) { return spare.grant.segment == grant.segment; };
    if (segments_.contains(grant.segment) || std::any_of(spares_.begin(), spares_.end(), same)) continue;
    spares_.push_back({std::move(grant), false});
  }
}

void WriterCore::grants_failed(GrantUse use, Error error, TimePoint now) {
  auto& asked = asking(use);
  asked.requested = 0;
  if (use == GrantUse::cover) {
    next_cover_at_ = now + options_.cover_interval;
    return;
  }
  delay_next_request(asked, now);
  if (use == GrantUse::ahead) return;
  news_answered_ = asked.knowing;
  last_error_ = error;
  const bool full = is_full(error.code());
  if (full && !(full_answer_at_ && now - *full_answer_at_ < options_.full_patience)) full_since_ = now;
  full_answer_at_ = full ? std::optional(now) : std::nullopt;
  if (current_ || !spares_.empty()) return;
  if (!is_final(error.code()) && !(full && now - full_since_ >= options_.full_patience)) return;
  while (!waiting_.empty()) fail_piece(*waiting_.begin(), error);
}

void WriterCore::copy_acked(SegmentId id, Generation generation, std::size_t copy, std::uint64_t end,
                            TimePoint now) {
  auto* segment = find(id, generation);
  if (segment == nullptr) return;
  REELFS_ASSERT(copy < segment->copies.size());
  if (end > segment->end) {
    fail_segment(*segment, copy, Error(Errc::protocol, "acknowledges more than was sent"), now);
    return;
  }
  auto& state = segment->copies[copy];
  if (end <= state.acked) return;
  state.acked = end;
  state.progress_at = now;
  suspects_.erase(state.node);
  used_at_ = now;
  place_acked(*segment);
  return_unowing(*segment);
}

void WriterCore::copy_failed(SegmentId id, Generation generation, std::size_t copy, Error error,
                             TimePoint now) {
  auto* segment = find(id, generation);
  if (segment == nullptr) return;
  REELFS_ASSERT(copy < segment->copies.size());
  fail_segment(*segment, copy, std::move(error), now);
}

void WriterCore::close() { closing_ = true; }

// ---- decisions

std::vector<WriterAction> WriterCore::advance(TimePoint now) {
  const auto copies_due = next_copy_deadline();
  advanced_at_ = now;
  // That a node failed is remembered for as long again, see suspect_node().
  std::erase_if(suspects_, [now](const auto& s) { return s.second.until + s.second.length <= now; });
  if (copies_due && now - *copies_due > options_.switch_timeout) {
    // Noticed much too late: it was this process that stood still, not the copies.
    for (auto& [id, segment] : segments_) {
      for (auto& copy : segment.copies) copy.progress_at = now;
    }
  }
  expire_copies(now);
  expire_pieces(now);
  leave_lesser();
  send_units(now);
  return_idle(now);
  return_surplus();
  request_grants(now);
  return std::exchange(actions_, {});
}

std::optional<TimePoint> WriterCore::next_copy_deadline() const {
  std::optional<TimePoint> next;
  for (const auto& [id, segment] : segments_) {
    for (std::size_t copy = 0; copy < segment.copies.size(); ++copy) {
      const auto& state = segment.copies[copy];
      if (state.acked == segment.end) continue;
      const auto slow_at = state.progress_at + options_.switch_timeout;
      const auto at = slow_at > advanced_at_ ? slow_at : leave_at(segment, copy);
      if (!next || at < *next) next = at;
    }
  }
  return next;
}

std::optional<TimePoint> WriterCore::next_deadline() const {
  std::optional<TimePoint> next;
  // What was due at the last advance was done then, or waits for an event.
  const auto consider = [&](TimePoint at) {
    if (at > advanced_at_ && (!next || at < *next)) next = at;
  };
  if (!pieces_.empty()) consider(pieces_.begin()->second.queued_at + options_.piece_timeout);
  if (const auto copies_due = next_copy_deadline()) consider(*copies_due);
  if (needs_grant()) {
    consider(next_try_at_);
    if (!spares_.empty()) consider(suspicion_at_ + options_.append_timeout);
    if (asking_now_.requested == 0) consider(asking_now_.next_at);
  }
  if (asking_ahead_.requested == 0) {
    if (spares_missing() > 0) consider(asking_ahead_.next_at);
    if (uncovered()) consider(next_cover_at_);
  }
  if (pieces_.empty() && (current_ || !spares_.empty())) consider(used_at_ + options_.idle_timeout);
  return next;
}

bool WriterCore::finished() const {
  return closing_ && actions_.empty() && pieces_.empty() && segments_.empty() && spares_.empty();
}

// ---- pieces and segments

WriterCore::Segment* WriterCore::find(SegmentId segment, Generation generation) {
  const auto found = segments_.find(segment);
  return found != segments_.end() && found->second.grant.generation == generation ? &found->second : nullptr;
}

void WriterCore::stop_waiting(PieceId piece) {
  if (waiting_.erase(piece) > 0) waiting_bytes_ -= pieces_.at(piece).record_bytes;
}

void WriterCore::fail_piece(PieceId piece, Error error) {
  stop_waiting(piece);
  pieces_.erase(piece);
  actions_.push_back(PieceFailed{piece, std::move(error)});
}

void WriterCore::place_acked(Segment& segment) {
  const auto acked = segment.acked();
  while (!segment.units.empty() && segment.units.front().end <= acked) {
    for (const auto& [piece, record_offset] : segment.units.front().pieces) {
      if (pieces_.erase(piece) == 0) continue;  // abandoned, or too late
      actions_.push_back(PiecePlaced{piece, segment.grant.segment, record_offset});
    }
    segment.units.pop_front();
    try_delay_ = {};
    next_try_at_ = {};
    last_error_.reset();
  }
}

/// Returns a segment that takes no more units once all copies have those it took.
void WriterCore::return_unowing(Segment& segment) {
  if (segment.grant.segment == current_ || !segment.units.empty()) return;
  return_grant(segment.grant, segment.end);
  segments_.erase(SegmentId(segment.grant.segment));
}

void WriterCore::return_grant(const SegmentGrant& grant, std::uint64_t length) {
  actions_.push_back(ReturnGrant{grant.segment, grant.generation, length, std::nullopt});
}

void WriterCore::retire_current() {
  if (!current_) return;
  auto& segment = segments_.at(std::exchange(current_, SegmentId{}));
  return_unowing(segment);
}

/// A second attempt follows the first at once; further ones wait longer and longer until one succeeds.
void WriterCore::delay_next_try(TimePoint now) {
  next_try_at_ = now + try_delay_;
  try_delay_ = std::clamp(2 * try_delay_, options_.retry_least, options_.retry_most);
}

void WriterCore::fail_segment(Segment& segment, std::size_t copy, Error error, TimePoint now) {
  const auto node = segment.copies[copy].node;
  for (const auto& unit : segment.units) {
    for (const auto& [id, record_offset] : unit.pieces) {
      const auto piece = pieces_.find(id);
      if (piece == pieces_.end()) continue;
      waiting_.insert(id);
      waiting_bytes_ += piece->second.record_bytes;
    }
  }
  if (!speaks_of_the_grant(error.code())) suspect_node(node, now);
  delay_next_try(now);
  last_error_ = error;
  actions_.push_back(ReturnGrant{segment.grant.segment, segment.grant.generation, segment.acked(),
                                 CopyFailure{node, std::move(error)}});
  if (segment.grant.segment == current_) current_ = {};
  segments_.erase(SegmentId(segment.grant.segment));
}

void WriterCore::suspect_node(NodeId node, TimePoint now) {
  const auto known = suspects_.find(node);
  if (known == suspects_.end()) {
    suspects_.emplace(node, Suspicion{now + options_.suspicion, options_.suspicion});
  } else if (known->second.until <= now) {
    const auto length = std::min(2 * known->second.length, options_.suspicion_most);
    known->second = {now + length, length};
  }
  for (auto& spare : spares_) spare.tainted = spare.tainted || suspect(spare.grant);
  suspicion_at_ = now;
  ++news_;
}

/// A segment that lacks copies is left once a whole one is there.
void WriterCore::leave_lesser() {
  if (!current_) return;
  const auto& grant = segments_.at(current_).grant;
  const bool is_better_there =
      grant.lesser() && std::any_of(spares_.begin(), spares_.end(), [&](const Spare& spare) {
        return usable(spare) && spare.grant.nodes.size() > grant.nodes.size();
      });
  if (is_better_there) retire_current();
}

/// When a copy that goes on being silent is given up, as things are; never one that owes nothing.
TimePoint WriterCore::leave_at(const Segment& segment, std::size_t copy) const {
  const auto& state = segment.copies[copy];
  if (state.acked == segment.end) return TimePoint::max();
  if (can_leave(state.node)) return state.progress_at + options_.switch_timeout;
  const bool another_is_better =
      std::any_of(segment.copies.begin(), segment.copies.end(),
                  [&](const Copy& other) { return &other != &state && !slow_.contains(other.node); });
  return state.progress_at + (another_is_better ? options_.append_timeout : options_.silence_timeout);
}

void WriterCore::expire_copies(TimePoint now) {
  std::set<NodeId> slow;
  for (const auto& [id, segment] : segments_) {
    for (const auto& copy : segment.copies) {
      if (copy.acked < segment.end && copy.progress_at + options_.switch_timeout <= now)
        slow.insert(copy.node);
    }
  }
  if (!std::includes(slow_.begin(), slow_.end(), slow.begin(), slow.end())) ++news_;
  slow_ = std::move(slow);
  if (slow_.empty()) return;
  for (auto next = segments_.begin(); next != segments_.end();) {
    auto& segment = (next++)->second;
    for (std::size_t copy = 0; copy < segment.copies.size(); ++copy) {
      if (now < leave_at(segment, copy)) continue;
      fail_segment(segment, copy, Error(Errc::timed_out, "no reply to an append"), now);
      break;
    }
  }
}

void WriterCore::expire_pieces(TimePoint now) {
  while (!pieces_.empty() && pieces_.begin()->second.queued_at + options_.piece_timeout <= now) {
    fail_piece(pieces_.begin()->first, last_error_.value_or(Error(Errc::timed_out, "not stored in time")));
  }
}

// ---- units

void WriterCore::send_units(TimePoint now) {
  while (!waiting_.empty()) {
    if (!current_ && !take_grant(now)) return;
    auto& segment = segments_.at(current_);
    const auto first = round_up(pieces_.at(*waiting_.begin()).record_bytes, kPageBytes);
    if (first > segment.room()) {
      if (segment.end == segment.grant.offset)
        delay_next_try(now);  // useless from the start: no hurry for another such
      retire_current();
      continue;
    }
    auto unit = plan_unit(segment);
    if (!unit) return;
    for (auto& copy : segment.copies) {
      if (copy.acked == segment.end) copy.progress_at = now;
    }
    segment.end += unit->bytes;
    segment.units.push_back(Unit{segment.end, unit->pieces});
    for (const auto& [piece, record_offset] : unit->pieces) stop_waiting(piece);
    actions_.push_back(std::move(*unit));
  }
}

/// The next unit of this segment, or none while acknowledgements are to be awaited first.
std::optional<SendUnit> WriterCore::plan_unit(const Segment& segment) const {
  const auto in_flight = segment.end - segment.acked();
  const auto first = round_up(pieces_.at(*waiting_.begin()).record_bytes, kPageBytes);
  if (in_flight > 0 && in_flight + first > options_.window_bytes) return std::nullopt;
  const auto window = in_flight < options_.window_bytes ? options_.window_bytes - in_flight : 0;
  const auto limit = std::max(first, std::min({options_.unit_bytes, window, segment.room()}));
  // Small pieces gather while others are under way: a page and a round trip each would be a waste.
  if (segment.units.size() >= options_.eager_units && waiting_bytes_ < options_.unit_bytes / 4)
    return std::nullopt;

  SendUnit unit{segment.grant.segment, segment.grant.generation, segment.end, 0, {}};
  std::uint64_t bytes = 0;
  for (const auto piece : waiting_) {
    const auto record_bytes = pieces_.at(piece).record_bytes;
    if (round_up(bytes + record_bytes, kPageBytes) > limit) break;
    unit.pieces.push_back({piece, static_cast<std::uint32_t>(segment.end + bytes)});
    bytes += record_bytes;
  }
  unit.bytes = static_cast<std::uint32_t>(round_up(bytes, kPageBytes));
  return unit;
}

// ---- grants

bool WriterCore::suspect(NodeId node) const {
  const auto found = suspects_.find(node);
  return found != suspects_.end() && found->second.until > advanced_at_;
}

bool WriterCore::suspect(const SegmentGrant& grant) const {
  return std::any_of(grant.nodes.begin(), grant.nodes.end(), [this](NodeId node) { return suspect(node); });
}

/// Once the index was told of the latest suspicion, or did not answer in time, there is nothing better to be
/// had.
bool WriterCore::may_use_suspects() const {
  return news_answered_ == news_ || advanced_at_ >= suspicion_at_ + options_.append_timeout;
}

bool WriterCore::can_leave(NodeId node) const {
  return std::any_of(spares_.begin(), spares_.end(), [&](const Spare& spare) {
    const auto& nodes = spare.grant.nodes;
    return usable(spare) && std::none_of(nodes.begin(), nodes.end(), [&](NodeId other) {
             return other == node || slow_.contains(other);
           });
  });
}

std::set<NodeId> WriterCore::to_avoid() const {
  auto nodes = slow_;
  for (const auto& [node, suspicion] : suspects_) {
    if (suspect(node)) nodes.insert(node);
  }
  return nodes;
}

std::optional<NodeId> WriterCore::uncovered() const {
  if (!current_ || closing_) return std::nullopt;
  const auto& nodes = segments_.at(current_).grant.nodes;
  if (nodes.size() < 2) return std::nullopt;
  for (const auto node : nodes) {
    const auto avoids = [&](const Spare& spare) {
      const auto& others = spare.grant.nodes;
      return usable(spare) && std::find(others.begin(), others.end(), node) == others.end();
    };
    if (std::none_of(spares_.begin(), spares_.end(), avoids)) return node;
  }
  return std::nullopt;
}

bool WriterCore::take_grant(TimePoint now) {
  if (now < next_try_at_) return false;
  // Usable before suspect, untainted before tainted, many copies before few, then in the order of their
  // coming.
  const auto rank = [this](const Spare& spare) {
    return std::tuple(!suspect(spare.grant), !spare.tainted, spare.grant.nodes.size());
  };
  const auto choice = std::max_element(spares_.begin(), spares_.end(),
                                       [&](const Spare& a, const Spare& b) { return rank(a) < rank(b); });
  if (choice == spares_.end() || (!usable(*choice) && !may_use_suspects())) return false;
  Segment segment{std::move(choice->grant), 0, {}, {}};
  spares_.erase(choice);
  segment.end = segment.grant.offset;
  for (const auto node : segment.grant.nodes) segment.copies.push_back({node, segment.end, now});
  current_ = segment.grant.segment;
  segments_.emplace(current_, std::move(segment));
  return true;
}

void WriterCore::return_idle(TimePoint now) {
  const auto idle = pieces_.empty() && used_at_ + options_.idle_timeout <= now;
  if (!idle && !(closing_ && waiting_.empty())) return;
  retire_current();
  for (const auto& spare : spares_) return_grant(spare.grant, spare.grant.offset);
  spares_.clear();
}

/// Spares beyond those wanted came with answers that avoid a suspect node; those that do not go first.
void WriterCore::return_surplus() {
  const auto covering = current_ ? segments_.at(current_).grant.nodes.size() - 1 : 0;
  const auto wanted = options_.spares + (current_ ? covering : 1);
  while (spares_.size() > wanted) {
    auto choice =
        std::find_if(spares_.rbegin(), spares_.rend(), [this](const Spare& spare) { return !usable(spare); });
    if (choice == spares_.rend()) choice = spares_.rbegin();
    return_grant(choice->grant, choice->grant.offset);
    spares_.erase(std::next(choice).base());
  }
}

std::size_t WriterCore::usable_spares() const {
  return static_cast<std::size_t>(
      std::count_if(spares_.begin(), spares_.end(), [this](const Spare& spare) { return usable(spare); }));
}

std::size_t WriterCore::spares_missing() const {
  if (closing_ || (pieces_.empty() && !current_)) return 0;
  const auto held = usable_spares() - std::min<std::size_t>(usable_spares(), needs_grant() ? 1 : 0);
  return options_.spares - std::min<std::size_t>(options_.spares, held);
}

bool WriterCore::may_ask(const Asking& asking, TimePoint now) const {
  return asking.requested == 0 && (now >= asking.next_at || asking.knowing != news_);
}

void WriterCore::delay_next_request(Asking& asking, TimePoint now) {
  asking.delay = std::clamp(2 * asking.delay, options_.retry_least, options_.retry_most);
  asking.next_at = now + asking.delay;
}

void WriterCore::request(GrantUse use, std::size_t count, std::set<NodeId> avoid) {
  auto& asked = asking(use);
  asked.requested = count;
  asked.use = use;
  asked.knowing = news_;
  actions_.push_back(
      RequestGrants{use, static_cast<std::uint32_t>(count), std::vector(avoid.begin(), avoid.end())});
}

void WriterCore::request_grants(TimePoint now) {
  const auto missing = spares_missing();
  if (needs_grant() && usable_spares() == 0) {
    // Spares are asked for with it; but where the index has granted what there is, suspect or not, that is
    // used.
    const bool has_any = !spares_.empty() && may_use_suspects();
    if (!has_any && may_ask(asking_now_, now)) {
      request(GrantUse::now, 1 + (asking_ahead_.requested > 0 ? 0 : missing), to_avoid());
    }
    return;
  }
  const bool needs_to_leave =
      std::any_of(slow_.begin(), slow_.end(), [&](NodeId node) { return !can_leave(node); });
  if (missing > 0 || (needs_to_leave && asking_ahead_.knowing != news_)) {
    if (may_ask(asking_ahead_, now)) request(GrantUse::ahead, std::max<std::size_t>(missing, 1), to_avoid());
    return;
  }
  const auto exposed = uncovered();
  if (!exposed || asking_ahead_.requested > 0 || now < next_cover_at_) return;
  auto avoid = to_avoid();
  avoid.insert(*exposed);
  request(GrantUse::cover, 1, std::move(avoid));
}

}  // namespace reelfs::client
