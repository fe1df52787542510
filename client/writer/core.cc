#include "client/writer/core.h"

#include <algorithm>
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

void WriterCore::grants_arrived(std::vector<SegmentGrant> grants, TimePoint now) {
  if (grants.empty()) return grants_failed(Error(Errc::unavailable, "the index granted nothing"), now);
  suspicions_answered_ = requested_knowing_;
  request_delay_ = {};
  next_request_at_ = {};
  full_answer_at_.reset();
  // Less than was asked for: the index has no more just now.
  if (grants.size() < std::exchange(requested_, 0)) next_request_at_ = now + options_.retry_most;
  for (auto& grant : grants) {
    const auto same = [&](const SegmentGrant& spare) { return spare.segment == grant.segment; };
    if (segments_.contains(grant.segment) || std::any_of(spares_.begin(), spares_.end(), same)) continue;
    spares_.push_back(std::move(grant));
  }
}

void WriterCore::grants_failed(Error error, TimePoint now) {
  requested_ = 0;
  suspicions_answered_ = requested_knowing_;
  request_delay_ = std::clamp(2 * request_delay_, options_.retry_least, options_.retry_most);
  next_request_at_ = now + request_delay_;
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
  advanced_at_ = now;
  std::erase_if(suspects_, [now](const auto& suspect) { return suspect.second <= now; });
  expire_copies(now);
  expire_pieces(now);
  send_units(now);
  return_idle(now);
  return_surplus();
  request_grants(now);
  return std::exchange(actions_, {});
}

std::optional<TimePoint> WriterCore::next_deadline() const {
  std::optional<TimePoint> next;
  // What was due at the last advance was done then, or waits for an event.
  const auto consider = [&](TimePoint at) {
    if (at > advanced_at_ && (!next || at < *next)) next = at;
  };
  if (!pieces_.empty()) consider(pieces_.begin()->second.queued_at + options_.piece_timeout);
  for (const auto& [id, segment] : segments_) {
    for (const auto& copy : segment.copies) {
      if (copy.acked < segment.end) consider(copy.progress_at + options_.append_timeout);
    }
  }
  if (!waiting_.empty() && !current_) {
    consider(next_try_at_);
    if (!suspects_.empty()) consider(suspicion_at_ + options_.append_timeout);
  }
  if (requested_ == 0 && grants_missing() > 0) consider(next_request_at_);
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
  if (!speaks_of_the_grant(error.code())) {
    suspects_[node] = now + options_.suspicion;
    suspicion_at_ = now;
    ++suspicions_;
  }
  delay_next_try(now);
  last_error_ = error;
  actions_.push_back(ReturnGrant{segment.grant.segment, segment.grant.generation, segment.acked(),
                                 CopyFailure{node, std::move(error)}});
  if (segment.grant.segment == current_) current_ = {};
  segments_.erase(SegmentId(segment.grant.segment));
}

void WriterCore::expire_copies(TimePoint now) {
  for (auto next = segments_.begin(); next != segments_.end();) {
    auto& segment = (next++)->second;
    for (std::size_t copy = 0; copy < segment.copies.size(); ++copy) {
      auto& state = segment.copies[copy];
      const auto due = state.progress_at + options_.append_timeout;
      if (state.acked == segment.end || due > now) continue;
      if (now - due > options_.append_timeout) {
        state.progress_at = now;  // noticed much too late: it was this process that stood still, not the copy
        continue;
      }
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

bool WriterCore::suspect(const SegmentGrant& grant) const {
  return std::any_of(grant.nodes.begin(), grant.nodes.end(),
                     [this](NodeId node) { return suspects_.contains(node); });
}

/// Once the index was told of the latest suspicion, or did not answer in time, there is nothing better to be
/// had.
bool WriterCore::may_use_suspects() const {
  return suspicions_answered_ == suspicions_ || advanced_at_ >= suspicion_at_ + options_.append_timeout;
}

bool WriterCore::take_grant(TimePoint now) {
  if (now < next_try_at_) return false;
  auto choice =
      std::find_if(spares_.begin(), spares_.end(), [this](const auto& spare) { return !suspect(spare); });
  if (choice == spares_.end() && may_use_suspects()) choice = spares_.begin();
  if (choice == spares_.end()) return false;
  Segment segment{std::move(*choice), 0, {}, {}};
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
  for (const auto& spare : spares_) return_grant(spare, spare.offset);
  spares_.clear();
}

/// Spares beyond those wanted came with answers that avoid a suspect node; those that do not go first.
void WriterCore::return_surplus() {
  const auto wanted = options_.spares + (current_ ? 0u : 1u);
  while (spares_.size() > wanted) {
    auto choice =
        std::find_if(spares_.rbegin(), spares_.rend(), [this](const auto& spare) { return suspect(spare); });
    if (choice == spares_.rend()) choice = spares_.rbegin();
    return_grant(*choice, choice->offset);
    spares_.erase(std::next(choice).base());
  }
}

std::size_t WriterCore::grants_missing() const {
  if (pieces_.empty() && !current_) return 0;
  if (closing_ && (current_ || waiting_.empty())) return 0;
  const std::size_t wanted = (closing_ ? 0u : options_.spares) + (current_ ? 0u : 1u);
  const auto good = [this](const SegmentGrant& spare) { return may_use_suspects() || !suspect(spare); };
  const auto held = static_cast<std::size_t>(std::count_if(spares_.begin(), spares_.end(), good));
  return wanted - std::min(wanted, held);
}

void WriterCore::request_grants(TimePoint now) {
  const auto missing = grants_missing();
  if (requested_ > 0 || missing == 0 || now < next_request_at_) return;
  RequestGrants request{static_cast<std::uint32_t>(missing), {}};
  for (const auto& [node, until] : suspects_) request.avoid.push_back(node);
  requested_ = missing;
  requested_knowing_ = suspicions_;
  actions_.push_back(std::move(request));
}

}  // namespace reelfs::client
