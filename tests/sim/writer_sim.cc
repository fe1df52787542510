#include "tests/sim/writer_sim.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "common/wire/record.h"

namespace reelfs::sim {

using namespace std::chrono_literals;
using client::PieceFailed;
using client::PiecePlaced;
using client::RequestGrants;
using client::ReturnGrant;
using client::SendUnit;

WriterSim::WriterSim(std::uint64_t seed, WriterSimOptions options)
    : options_(options),
      random_(seed),
      long_outages_(one_in(6)),
      block_bytes_((1 + below(4)) * 2 * kMiB),
      copies_(1 + below(3)),
      min_copies_(1 + below(copies_)),
      core_options_([this] {
        client::WriterCoreOptions chosen;
        chosen.spares = static_cast<std::uint32_t>(below(3));
        chosen.window_bytes = (1 + below(16)) * kMiB;
        return chosen;
      }()),
      core_(core_options_) {
  const auto count = copies_ + below(4);
  for (std::uint32_t i = 1; i <= count; ++i) {
    nodes_.emplace_back();
    nodes_.back().id = NodeId(i);
  }
}

Duration WriterSim::between(Duration least, Duration most) {
  return least + Duration(below(static_cast<std::uint64_t>((most - least).count()) + 1));
}

void WriterSim::after(Duration delay, std::function<void()> event) {
  events_.emplace(now_ + delay, std::move(event));
}

void WriterSim::violated(const std::string& what) { violations_.push_back(what); }

void WriterSim::run() {
  plan_work();
  plan_faults();
  // Every remote wait in the simulation ends, so the writer has to end too.
  const auto limit = now_ + 30min;
  while (violations_.empty()) {
    advance();
    if (events_.empty() && due_ == TimePoint::max()) break;
    if (!events_.empty() && events_.begin()->first <= due_) {
      const auto event = events_.extract(events_.begin());
      now_ = event.key();
      event.mapped()();
    } else {
      now_ = due_;
    }
    if (now_ > limit) return violated("does not end");
  }
  if (violations_.empty()) check_end();
}

// ---- the writer and its user

void WriterSim::plan_work() {
  auto at = Duration::zero();
  for (auto bursts = 1 + below(12); bursts > 0; --bursts) {
    at += between(0ms, 2s);
    if (one_in(30)) at += 90s;  // long enough for idle grants to be returned
    for (auto count = 1 + below(12); count > 0; --count) after(at, [this] { queue_piece(); });
  }
  after(at + between(0ms, 3s), [this] { core_.close(); });
}

void WriterSim::plan_faults() {
  const auto longest = long_outages_ ? Duration(60s) : Duration(3s);
  for (auto faults = below(10); faults > 0; --faults) {
    const auto at = between(0ms, 12s);
    const auto lasts = between(1ms, longest);
    auto& victim = nodes_.at(below(nodes_.size()));
    switch (below(5)) {
      case 0:
        after(at, [this, &victim] { break_connection(victim); });
        break;
      case 1:
        after(at, [this, &victim, lasts] {
          victim.up = false;
          break_connection(victim);
          after(lasts, [&victim] { victim.up = true; });
        });
        break;
      case 2:
        after(at, [this, &victim, lasts] {
          victim.stands_until = std::max(victim.stands_until, now_ + lasts);
          after(victim.stands_until - now_, [this, &victim] { serve(victim); });
        });
        break;
      case 3:
        after(at, [this, lasts] {
          index_away_until_ = std::max(index_away_until_, now_ + lasts);
          index_error_ = one_in(2) ? Errc::unavailable : Errc::timed_out;
        });
        break;
      default:
        // For the whole of a short fault the writer has patience; beyond that pieces may fail.
        after(at, [this, lasts] { full_until_ = now_ + (long_outages_ ? lasts : lasts / 4); });
        break;
    }
  }
}

void WriterSim::queue_piece() {
  const PieceId id(pieces_.empty() ? 1 : pieces_.rbegin()->first.value + 1);
  Piece piece;
  piece.queued_at = now_;
  switch (below(8)) {
    case 0:
      piece.bytes = wire::kMaxRecordPayload;
      break;
    case 1:
    case 2:
      piece.bytes = static_cast<std::uint32_t>(1 + below(wire::kMaxRecordPayload));
      break;
    default:
      piece.bytes = static_cast<std::uint32_t>(1 + below(8000));
      break;
  }
  pieces_.emplace(id, piece);
  core_.queue(id, piece.bytes, now_);
  if (!one_in(50)) return;
  after(between(0ms, 50ms), [this, id] {
    auto& given_up = pieces_.at(id);
    given_up.abandoned = true;
    core_.abandon(id);
  });
}

void WriterSim::advance() {
  auto actions = core_.advance(now_);
  for (auto& action : actions) {
    std::visit([this](auto& known) { perform(known); }, action);
  }
  due_ = core_.next_deadline().value_or(TimePoint::max());
  if (due_ <= now_) violated("asks to be called at once, for ever");
}

void WriterSim::perform(RequestGrants& action) {
  auto& asked = action.use == client::GrantUse::now ? asked_now_ : asked_ahead_;
  if (std::exchange(asked, true)) violated("two requests of a kind at a time");
  if (action.count == 0) violated("asks for no grants");
  after(between(1ms, 20ms), [this, request = std::move(action)] { open_segments(request); });
}

void WriterSim::perform(SendUnit& action) {
  auto& segment = segments_.at(action.segment);
  if (segment.state != State::open || segment.generation != action.generation)
    violated("writes without a grant");
  if (action.offset != segment.sent) violated("leaves a gap in a segment");
  if (action.bytes == 0 || action.bytes % kPageBytes != 0) violated("unit is not made of pages");
  if (action.bytes > 4 * kMiB) violated("unit too large");
  if (action.offset + action.bytes > block_bytes_) violated("writes beyond the block");
  segment.sent += action.bytes;
  const auto acked = *std::min_element(segment.told_acked.begin(), segment.told_acked.end());
  if (segment.sent - acked > std::max<std::uint64_t>(core_options_.window_bytes, action.bytes)) {
    violated("exceeds the window");
  }
  auto at = action.offset;
  for (const auto& [piece, record_offset] : action.pieces) {
    if (record_offset != at) violated("records of a unit are not dense");
    at += wire::record_bytes(pieces_.at(piece).bytes);
  }
  if (round_up(at, kPageBytes) != action.offset + action.bytes)
    violated("unit is padded by more than a page");

  const auto unit = std::make_shared<const SendUnit>(std::move(action));
  for (std::size_t copy = 0; copy < segment.nodes.size(); ++copy) {
    auto& target = node(segment.nodes[copy]);
    const Append append{unit, copy, target.connection};
    if (!target.up) {
      after(between(0ms, 5ms), [this, append, &target] { reply(target, append, Error(Errc::unavailable)); });
      continue;
    }
    target.unanswered.push_back(append);
    target.last_arrival = std::max(target.last_arrival, now_ + between(100us, one_in(20) ? 300ms : 5ms));
    after(target.last_arrival - now_, [this, append, &target] {
      if (append.connection != target.connection) return;
      target.inbox.push_back(append);
      serve(target);
    });
  }
}

void WriterSim::perform(PiecePlaced& action) {
  auto& piece = pieces_.at(action.piece);
  ++placed_count_;
  if (std::exchange(piece.ended, true)) violated("a piece ended twice");
  piece.segment = action.segment;
  piece.record_offset = action.record_offset;
  for (const auto id : segments_.at(action.segment).nodes) {
    const auto& block = node(id).blocks.at(action.segment);
    const auto record = block.records.find(action.record_offset);
    if (record == block.records.end() || record->second != action.piece) {
      violated("placed, but a copy does not have it");
    }
  }
}

void WriterSim::perform(PieceFailed& action) {
  auto& piece = pieces_.at(action.piece);
  ++failed_count_;
  if (std::exchange(piece.ended, true)) violated("a piece ended twice");
  if (!long_outages_) violated("a piece failed though faults were short");
  const auto waited = now_ - piece.queued_at;
  const bool refused =
      action.error.code() == Errc::no_space && now_ - full_answers_since_ >= core_options_.full_patience;
  if (waited < core_options_.piece_timeout && !refused) {
    violated("a piece failed before its time: " + action.error.describe());
  }
  if (waited > core_options_.piece_timeout) violated("a piece failed after its time");
}

void WriterSim::perform(ReturnGrant& action) {
  if (action.failure) ++given_up_count_;
  if (segments_.at(action.segment).generation != action.generation)
    violated("returns a grant it does not have");
  after(between(1ms, 50ms), [this, returned = std::move(action)] { close_segment(returned); });
}

void WriterSim::check_end() {
  if (!core_.finished()) violated("ends without having finished");
  for (const auto& [id, piece] : pieces_) {
    if (!piece.ended && !piece.abandoned) violated("a piece was lost");
    if (!piece.segment) continue;
    const auto& segment = segments_.at(piece.segment);
    if (piece.record_offset + wire::record_bytes(piece.bytes) > segment.length)
      violated("sealed before a placed piece");
    for (const auto copy : segment.nodes) {
      const auto& records = node(copy).blocks.at(piece.segment).records;
      const auto record = records.find(piece.record_offset);
      if (record == records.end() || record->second != id) violated("a placed piece is gone from a copy");
    }
  }
  for (const auto& [id, segment] : segments_) {
    if (segment.state == State::open) violated("a grant was not returned");
  }
}

// ---- nodes

void WriterSim::serve(Node& node) {
  while (!node.inbox.empty() && node.stands_until <= now_) {
    const auto next = std::move(node.inbox.front());
    node.inbox.pop_front();
    auto result = append(node, *next.unit);
    // Replies leave in order but may be noticed in another.
    after(between(100us, one_in(10) ? 100ms : 3ms), [this, next, result = std::move(result), &node] {
      if (next.connection != node.connection) return;
      const auto same = [&](const Append& a) { return a.unit == next.unit && a.copy == next.copy; };
      std::erase_if(node.unanswered, same);
      reply(node, next, result);
    });
  }
}

Result<std::uint64_t> WriterSim::append(Node& node, const SendUnit& unit) {
  const auto found = node.blocks.find(unit.segment);
  if (found == node.blocks.end() || found->second.generation != unit.generation) {
    return Error(Errc::stale_generation, "fenced");
  }
  auto& block = found->second;
  if (block.length != unit.offset) return Error(Errc::invalid, "not at the end");
  if (one_in(500)) return Error(Errc::io, "device error");
  for (const auto& [piece, record_offset] : unit.pieces) block.records[record_offset] = piece;
  block.length += unit.bytes;
  return block.length;
}

void WriterSim::reply(Node& node, const Append& append, Result<std::uint64_t> result) {
  const auto& unit = *append.unit;
  if (!result) {
    core_.copy_failed(unit.segment, unit.generation, append.copy, result.error(), now_);
    return;
  }
  auto& segment = segments_.at(unit.segment);
  for (std::size_t copy = 0; copy < segment.nodes.size(); ++copy) {
    if (copy != append.copy && !options_.place_after_first_ack) continue;
    if (segment.generation == unit.generation) {
      segment.told_acked[copy] = std::max(segment.told_acked[copy], result.value());
    }
    core_.copy_acked(unit.segment, unit.generation, copy, result.value(), now_);
  }
  (void)node;
}

/// What had arrived may have been carried out; nobody learns whether.
void WriterSim::break_connection(Node& node) {
  ++node.connection;
  node.last_arrival = now_;
  for (auto carried_out = below(node.inbox.size() + 1); carried_out > 0; --carried_out) {
    (void)append(node, *node.inbox.front().unit);
    node.inbox.pop_front();
  }
  node.inbox.clear();
  for (const auto& lost : std::exchange(node.unanswered, {})) {
    after(between(0ms, 5ms),
          [this, lost, &node] { reply(node, lost, Error(Errc::unavailable, "connection broke")); });
  }
}

// ---- the index

void WriterSim::open_segments(const RequestGrants& request) {
  const bool is_now = request.use == client::GrantUse::now;
  (is_now ? asked_now_ : asked_ahead_) = false;
  if (now_ < index_away_until_) {
    full_answers_since_ = TimePoint::max();
    return core_.grants_failed(request.use, Error(index_error_), now_);
  }
  if (now_ < full_until_) {
    if (!is_now) return core_.grants_arrived(request.use, {}, now_);
    full_answers_since_ = std::min(full_answers_since_, now_);
    return core_.grants_failed(request.use, Error(Errc::no_space), now_);
  }
  full_answers_since_ = TimePoint::max();
  std::vector<client::SegmentGrant> grants;
  const auto count = one_in(10) ? 1 : request.count;
  for (std::uint32_t i = 0; i < count; ++i) {
    if (!grant(!is_now || i > 0, request.avoid, grants)) break;
  }
  core_.grants_arrived(request.use, std::move(grants), now_);
}

bool WriterSim::grant(bool is_spare, const std::vector<NodeId>& avoid,
                      std::vector<client::SegmentGrant>& grants) {
  const auto avoided = [&](NodeId id) { return std::find(avoid.begin(), avoid.end(), id) != avoid.end(); };
  const auto usable = [&](NodeId id) { return node(id).up && !avoided(id); };
  Segment* chosen = nullptr;
  for (auto& [id, segment] : segments_) {
    if (segment.state != State::unfilled || one_in(2)) continue;
    if (std::all_of(segment.nodes.begin(), segment.nodes.end(), usable)) chosen = &segment;
  }
  if (chosen == nullptr) {
    std::vector<NodeId> candidates;
    for (const auto& candidate : nodes_) {
      if (candidate.up) candidates.push_back(candidate.id);
    }
    std::shuffle(candidates.begin(), candidates.end(), random_);
    const auto end_of_usable = std::stable_partition(candidates.begin(), candidates.end(), usable);
    const auto good = static_cast<std::size_t>(end_of_usable - candidates.begin());
    if (is_spare && good < std::max(min_copies_, std::min<std::size_t>(2, copies_))) return false;
    if (candidates.size() < min_copies_) return false;
    const auto most = is_spare || good >= min_copies_ ? good : candidates.size();
    candidates.resize(std::min(copies_, most));
    const SegmentId id(segments_.size() + 1);
    chosen = &segments_[id];
    chosen->id = id;
    chosen->nodes = candidates;
  }
  chosen->state = State::open;
  chosen->generation = Generation(chosen->generation.value + 1);
  chosen->sent = chosen->length;
  chosen->told_acked.assign(chosen->nodes.size(), chosen->length);
  for (const auto id : chosen->nodes) {
    auto& block = node(id).blocks[chosen->id];
    block.generation = chosen->generation;
    if (block.length != chosen->length) violated("copies of a returned segment differ");
  }
  grants.push_back({chosen->id, chosen->generation, chosen->length, block_bytes_, chosen->nodes, copies_});
  return true;
}

void WriterSim::close_segment(const ReturnGrant& returned) {
  auto& segment = segments_.at(returned.segment);
  if (segment.state != State::open) return violated("returns a grant twice");
  auto common = block_bytes_;
  for (const auto id : segment.nodes) common = std::min(common, node(id).blocks.at(segment.id).length);
  if (returned.length > common) violated("claims more than every copy has");
  if (!returned.failure) {
    if (returned.length != segment.sent) violated("returns a segment that owes acknowledgements");
    segment.length = returned.length;
    const auto room = block_bytes_ - segment.length;
    const bool lacks_copies = segment.nodes.size() < copies_;
    segment.state = room >= 2 * kMiB && !lacks_copies ? State::unfilled : State::sealed;
    return;
  }
  // Fence all copies, seal at what all have.
  segment.state = State::sealed;
  segment.length = common;
  for (const auto id : segment.nodes) {
    auto& block = node(id).blocks.at(segment.id);
    block.generation = Generation(segment.generation.value + 1);
    block.length = common;
    std::erase_if(block.records, [common](const auto& record) { return record.first >= common; });
  }
}

}  // namespace reelfs::sim
