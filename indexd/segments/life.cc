#include "indexd/segments/life.h"

#include <algorithm>
#include <utility>

#include <fmt/format.h>

#include "common/base/assert.h"
#include "common/base/units.h"

namespace reelfs::indexd {

std::string_view to_string(SegmentState state) {
  switch (state) {
    case SegmentState::allocating:
      return "allocating";
    case SegmentState::open:
      return "open";
    case SegmentState::unfilled:
      return "unfilled";
    case SegmentState::sealed:
      return "sealed";
    case SegmentState::freeing:
      return "freeing";
  }
  return "unknown";
}

bool nearly_full(std::uint64_t length, std::uint64_t block_bytes) {
  // The largest record with its header and padding. A writer that has one at hand could do nothing with less
  // room but give the segment back, and be granted it again.
  constexpr std::uint64_t kLargestUnit = kMiB + 2 * kPageBytes;
  return length + std::max(block_bytes / 16, kLargestUnit) >= block_bytes;
}

SegmentLife::SegmentLife(SegmentId segment, SegmentRow row)
    : id_(segment), row_(std::move(row)), copies_(row_.copies.size()) {}

bool SegmentLife::waiting() const {
  const bool calls = step_ == Step::fencing || step_ == Step::sealing || step_ == Step::freeing;
  return calls && !any(Call::under_way);
}

bool SegmentLife::waits_for(NodeId node) const {
  const auto at = find(node);
  return waiting() && at && copies_[*at].call == Call::failed;
}

// ---- opening

Actions SegmentLife::begin() {
  REELFS_ASSERT(step_ == Step::resting && row_.state == SegmentState::allocating && !row_.copies.empty());
  answer_due_ = true;
  chosen_ = row_.copies;
  step_ = Step::storing_allocating;
  return {Persist{row_, true, false, false}};  // segment-life.md, open 1
}

Actions SegmentLife::allocated(NodeId node, Result<BlockPlace> place) {
  const auto at = find(node);
  if (step_ != Step::allocating || !at || copies_[*at].call != Call::under_way) return {};
  Actions actions;
  if (place) {
    copies_[*at].call = Call::done;
    chosen_[*at].device = place.value().device;
    chosen_[*at].block = place.value().block;
  } else {
    copies_[*at].call = Call::failed;
    copies_[*at].error = place.error();
    answer(actions, std::move(place).error());  // the writer need not wait for the others
  }
  if (any(Call::under_way)) return actions;
  auto next = any(Call::failed) || abandoned_ ? store_freeing(false) : Actions{};
  if (next.empty()) {
    auto row = row_;
    row.state = SegmentState::open;
    row.copies = chosen_;
    next = store(Step::storing_open, std::move(row), true);  // open 3
  }
  actions.insert(actions.end(), std::make_move_iterator(next.begin()), std::make_move_iterator(next.end()));
  return actions;
}

Actions SegmentLife::reopen(SessionId session, std::vector<SegmentCopy> copies) {
  REELFS_ASSERT(step_ == Step::resting && row_.state == SegmentState::unfilled);
  REELFS_ASSERT(copies.size() == row_.copies.size());
  answer_due_ = true;
  next_session_ = session;
  chosen_ = std::move(copies);
  step_ = Step::fencing_to_reopen;
  set_all(Call::under_way);
  Actions actions;
  for (const auto& copy : chosen_)
    actions.push_back(Fence{copy.node, copy.worker, Generation{row_.generation.value + 1}});
  return actions;
}

Actions SegmentLife::reopen_failed() {
  Actions actions;
  answer(actions, first_error());
  rest();  // still unfilled; the nodes took a generation that nobody was granted, and take it again
  return actions;
}

Actions SegmentLife::give_back_unused() {
  if (row_.length == 0) return store_freeing(true);
  return store_end(SegmentState::unfilled, row_.length);
}

// ---- closing

Actions SegmentLife::close(const Closing& closing) {
  if (row_.state != SegmentState::open || step_ == Step::fencing) {
    const bool granted = row_.state != SegmentState::allocating;
    if (granted) return {Answer{ok()}};  // repeated, or its session's death was quicker
    return {Answer{Error(Errc::stale_generation, fmt::format("segment {} is not granted", id_.value))}};
  }
  if (closing.generation < row_.generation) return {Answer{ok()}};  // that grant ended before
  if (closing.generation > row_.generation || closing.session != row_.session) {
    return {Answer{
        Error(Errc::stale_generation, fmt::format("segment {} is granted to session {} with generation {}",
                                                  id_.value, row_.session.value, row_.generation.value))}};
  }
  if (step_ != Step::resting)
    return {Answer{Error(Errc::busy, fmt::format("segment {} is being closed", id_.value))}};
  if (closing.length > row_.block_bytes) {
    return {Answer{Error(Errc::invalid, fmt::format("length {} is more than a block", closing.length))}};
  }
  answer_due_ = true;
  // A writer that knows of less than was committed is not to be relied upon: the nodes say how long it is.
  if (closing.failed || closing.length < row_.length) {
    auto row = row_;
    row.session = {};
    return store(Step::storing_writerless, std::move(row));  // close 1: from here a restart fences it
  }
  if (closing.length == 0) return store_freeing(true);
  // One that lacks copies is not granted again: repair can complete what is sealed.
  const bool full = nearly_full(closing.length, row_.block_bytes) || row_.copies.size() < row_.wanted_copies;
  return store_end(full ? SegmentState::sealed : SegmentState::unfilled, closing.length);
}

Actions SegmentLife::session_died() {
  if (row_.state != SegmentState::open && answer_due_) {
    abandoned_ = true;
    return {};
  }
  if (row_.state != SegmentState::open) return {};
  return step_ == Step::resting ? start_fencing() : Actions{};
}

Actions SegmentLife::start_fencing() {
  step_ = Step::fencing;
  copies_.assign(row_.copies.size(), Copy{.call = Call::failed, .length = 0, .fenced = false, .error = {}});
  return retry();
}

Actions SegmentLife::fenced(NodeId node, Result<FencedCopy> fenced) {
  const auto at = find(node);
  const bool expected = step_ == Step::fencing || step_ == Step::fencing_to_reopen || step_ == Step::sealing;
  if (!expected || !at || copies_[*at].call != Call::under_way) return {};
  auto& copy = copies_[*at];
  if (!fenced) {
    copy.call = Call::failed;
    copy.error = std::move(fenced).error();
  } else {
    copy.fenced = true;
    copy.length = fenced.value().length;
    copy.torn = fenced.value().torn;
    if (step_ == Step::sealing && copy.length >= row_.length) return {seal_of(*at, false)};
    copy.call = step_ == Step::sealing ? Call::behind : Call::done;
  }
  if (step_ == Step::sealing) return sealing_progress();
  if (any(Call::under_way)) return {};
  return fences_done();
}

Actions SegmentLife::fences_done() {
  if (step_ == Step::fencing) return seal_at_valid_length();
  if (any(Call::failed)) return reopen_failed();
  const auto length = copies_.front().length;
  const bool equal =
      std::all_of(copies_.begin(), copies_.end(), [&](const Copy& c) { return c.length == length; });
  if (!equal || length < row_.length) {
    Actions actions;
    answer(actions, Error(Errc::busy, fmt::format("copies of segment {} differ in length", id_.value)));
    step_ = Step::fencing;
    auto next = seal_at_valid_length();
    actions.insert(actions.end(), std::make_move_iterator(next.begin()), std::make_move_iterator(next.end()));
    return actions;
  }
  step_ = Step::readying;
  set_all(Call::under_way);
  Actions actions;
  for (std::size_t i = 0; i < chosen_.size(); ++i) actions.push_back(seal_of(i, true));
  return actions;
}

Actions SegmentLife::seal_at_valid_length() {
  // What was acknowledged is on every copy that is not torn, so the shortest of those that answer holds it;
  // what was committed was acknowledged, so a copy that is shorter than that has lost something and the
  // others count.
  std::uint64_t longest = 0;
  bool answered = false, one_is_sound = false;
  for (const auto& copy : copies_) {
    if (!copy.fenced) continue;
    answered = true;
    one_is_sound = one_is_sound || !copy.torn;
    longest = std::max(longest, copy.length);
  }
  bool some_are_silent = false;
  for (std::size_t i = 0; i < copies_.size(); ++i) {
    const bool is_silent = copies_[i].call == Call::failed && !given_up_.contains(row_.copies[i].node);
    some_are_silent = some_are_silent || is_silent;
  }
  if (!answered) return {};                                 // waits for a node
  if (longest < row_.length && some_are_silent) return {};  // one that is silent may have it all
  if (!one_is_sound && some_are_silent) return {};          // one that is silent may not be torn
  // A length is where a copy ends: what was committed may end in the middle of a page, or of a unit.
  auto length = round_up(row_.length, kPageBytes);
  if (longest >= row_.length) {
    length = longest;
    for (const auto& copy : copies_) {
      if (copy.fenced && !copy.torn && copy.length >= row_.length) length = std::min(length, copy.length);
    }
  }
  // What a dead writer had placed is to be rolled forward from here, though nothing was committed.
  if (length > 0) return store_end(SegmentState::sealed, length);
  auto sealed = row_;
  sealed.state = SegmentState::sealed;
  sealed.length = length;
  sealed.generation = Generation{row_.generation.value + 1};
  sealed.session = {};
  otherwise_ = std::move(sealed);
  return store_freeing(true);
}

Actions SegmentLife::store_end(SegmentState state, std::uint64_t length) {
  auto row = row_;
  row.state = state;
  row.length = length;
  row.session = {};
  const bool was_fenced = step_ == Step::fencing;
  if (was_fenced) row.generation = Generation{row_.generation.value + 1};
  // Close 3. Nodes cut their copies to this length, so it must not be forgotten once one has.
  return store(Step::storing_end, std::move(row), state == SegmentState::sealed);
}

// ---- sealing on the nodes

Seal SegmentLife::seal_of(std::size_t at, bool reopen) const {
  const auto& copy = reopen ? chosen_[at] : row_.copies[at];
  if (reopen) {
    return {copy.node, copy.worker, Generation{row_.generation.value + 1}, copies_[at].length, true};
  }
  // A copy that is behind is closed where it ends, and readers find the rest elsewhere or learn that it is
  // lost. It stays one of the row's: what was placed is in every copy, and it may become the last one.
  // docs/design/seal-and-switch.md, DROP_SHORT
  const auto length = copies_[at].fenced ? std::min(copies_[at].length, row_.length) : row_.length;
  return {copy.node, copy.worker, row_.generation, length, false};
}

bool SegmentLife::is_whole(std::size_t at) const {
  const auto& copy = copies_[at];
  return copy.call == Call::done && !(copy.fenced && copy.length < row_.length);
}

bool SegmentLife::is_behind(NodeId node) const {
  const auto at = find(node);
  if (!at || row_.state != SegmentState::sealed || step_ == Step::resting) return false;
  return !is_whole(*at);
}

std::vector<SegmentCopy> SegmentLife::whole_copies() const {
  std::vector<SegmentCopy> whole;
  for (std::size_t i = 0; i < copies_.size(); ++i) {
    if (is_whole(i)) whole.push_back(row_.copies[i]);
  }
  return whole;
}

Actions SegmentLife::start_sealing() {
  const bool was_fenced = std::any_of(copies_.begin(), copies_.end(), [](const Copy& c) { return c.fenced; });
  step_ = Step::sealing;
  Actions actions;
  const bool whole_one = std::any_of(copies_.begin(), copies_.end(),
                                     [&](const Copy& c) { return c.fenced && c.length >= row_.length; });
  for (std::size_t i = 0; i < copies_.size(); ++i) {
    auto& copy = copies_[i];
    if (was_fenced && !copy.fenced) {
      copy.call = Call::failed;  // silent: fenced and sealed when it answers
    } else if (was_fenced && copy.length < row_.length && whole_one) {
      copy.call = Call::behind;
    } else {
      copy.call = Call::under_way;
      actions.push_back(seal_of(i, false));
    }
  }
  return actions;
}

Actions SegmentLife::reseal(NodeId node) {
  const auto at = find(node);
  const bool makes_copy = new_copy_.has_value();
  const bool free_to = step_ == Step::resting || step_ == Step::sealing || makes_copy;
  if (!free_to || !at || row_.state != SegmentState::sealed) return {};
  if (step_ == Step::resting) set_all(Call::done);
  if (!makes_copy) step_ = Step::sealing;  // else it has its turn when that is done
  if (copies_[*at].call == Call::done)
    copies_[*at] = {.call = Call::failed, .length = 0, .fenced = false, .error = {}};
  return retry();  // at once, or after the calls under way
}

Actions SegmentLife::sealed(NodeId node, Result<void> result) {
  const auto at = find(node);
  const bool expected = step_ == Step::sealing || step_ == Step::readying;
  if (!expected || !at || copies_[*at].call != Call::under_way) return {};
  copies_[*at].call = result ? Call::done : Call::failed;
  if (!result) copies_[*at].error = std::move(result).error();
  if (step_ == Step::sealing) return sealing_progress();
  if (any(Call::under_way)) return {};
  if (any(Call::failed)) return reopen_failed();
  auto row = row_;
  row.state = SegmentState::open;
  row.generation = Generation{row_.generation.value + 1};
  row.session = next_session_;
  row.length = copies_.front().length;
  row.copies = chosen_;
  return store(Step::storing_open, std::move(row), true);  // reopen 3
}

/// A copy that is behind has every byte that was acknowledged nevertheless: it stays one of the row's, and is
/// completed as soon as another one is known to be whole. docs/design/seal-and-switch.md, DROP_SHORT
Actions SegmentLife::complete_behind() {
  Actions actions;
  const auto sources = whole_copies();
  if (sources.empty()) return actions;
  for (std::size_t i = 0; i < copies_.size(); ++i) {
    if (copies_[i].call != Call::behind) continue;
    copies_[i].call = Call::under_way;
    const auto& copy = row_.copies[i];
    actions.push_back(Complete{copy.node, copy.worker, row_.generation, row_.length, sources});
  }
  return actions;
}

Actions SegmentLife::sealing_progress() {
  auto actions = complete_behind();
  if (any(Call::under_way)) return actions;
  if (!moved_.empty()) {
    auto row = row_;
    for (auto& copy : row.copies) {
      const auto moved = moved_.find(copy.node);
      if (moved == moved_.end()) continue;
      copy.device = moved->second.device;
      copy.block = moved->second.block;
    }
    return store(Step::storing_places, std::move(row), true);
  }
  if (any(Call::failed)) return {};
  if (!any(Call::behind)) return rest();
  for (std::size_t i = 0; i < copies_.size(); ++i) {  // none is whole: each is closed where it ends
    if (copies_[i].call != Call::behind) continue;
    copies_[i].call = Call::under_way;
    actions.push_back(seal_of(i, false));
  }
  return actions;
}

// ---- making copies: docs/design/repair.md

Actions SegmentLife::finish() {
  if (step_ != Step::resting) return {};
  if (row_.state == SegmentState::unfilled) return start_fencing();
  if (row_.state != SegmentState::open) return {};
  auto row = row_;
  row.session = {};
  return store(Step::storing_writerless, std::move(row));
}

Actions SegmentLife::add_copy(NodeId node, WorkerId worker, NodeId instead_of, DeviceId device) {
  const bool free_to = step_ == Step::resting || (step_ == Step::sealing && waiting());
  const auto refuse = [](Errc code, const char* why) { return Actions{Repaired{Error(code, why)}}; };
  if (row_.state != SegmentState::sealed || !free_to)
    return refuse(Errc::busy, "something else is done with the segment");
  const auto present = find(node);
  const bool is_within = present && node == instead_of && device && row_.copies[*present].device != device;
  if ((present && !is_within) || (instead_of && !find(instead_of)))
    return refuse(Errc::invalid, "the segment's copies are not where they were");
  if (step_ == Step::resting) set_all(Call::done);
  if (whole_copies().empty()) return refuse(Errc::unavailable, "no copy that is whole answers");
  new_copy_ = SegmentCopy{node, worker, device, 0};
  instead_of_ = instead_of;
  // Repair 1. A generation of its own: no order to free what an earlier attempt left can reach this copy.
  auto row = row_;
  row.generation = Generation{row_.generation.value + 1};
  return store(Step::storing_renewal, std::move(row), true);
}

Actions SegmentLife::start_copying() {
  auto sources = whole_copies();
  if (sources.empty()) return repair_ended(Error(Errc::unavailable, "no copy that is whole answers"));
  step_ = Step::copying;
  return {Complete{new_copy_->node, new_copy_->worker, row_.generation, row_.length, std::move(sources),
                   new_copy_->device}};
}

Actions SegmentLife::copy_made(Result<BlockPlace> place) {
  const bool is_within = new_copy_->node == instead_of_;
  // That is the block that stays: nothing is to be given up.
  if (place && is_within && place.value().device != new_copy_->device)
    return repair_ended(Error(Errc::unsupported, "the node moves no copies between its devices"));
  if (!place) {
    Actions actions;
    // Where it does not answer, it lists the block in its next report.
    actions.push_back(Free{new_copy_->node, new_copy_->worker, row_.generation,
                           is_within ? new_copy_->device : DeviceId()});
    for (auto& action : repair_ended(std::move(place).error())) actions.push_back(std::move(action));
    return actions;
  }
  new_copy_->device = place.value().device;
  new_copy_->block = place.value().block;
  auto row = row_;
  const auto replaced = find(instead_of_);
  if (replaced)
    row.copies[*replaced] = *new_copy_;
  else
    row.copies.push_back(*new_copy_);
  if (row.copies.size() >= row.wanted_copies) row.wanted_copies = 0;  // as many as there are
  return store(Step::storing_copy, std::move(row), true);             // repair 3
}

/// Goes back to what the copies that it had wait for.
Actions SegmentLife::repair_ended(Result<void> result) {
  Actions actions;
  actions.push_back(Repaired{std::move(result)});
  new_copy_.reset();
  instead_of_ = {};
  step_ = Step::sealing;
  for (auto& action : sealing_progress()) actions.push_back(std::move(action));
  return actions;
}

Actions SegmentLife::completed(NodeId node, Result<BlockPlace> place) {
  if (step_ == Step::copying) return makes_copy_on(node) ? copy_made(std::move(place)) : Actions{};
  const auto at = find(node);
  if (step_ != Step::sealing || !at || copies_[*at].call != Call::under_way) return {};
  auto& copy = copies_[*at];
  copy.call = place ? Call::done : Call::failed;
  if (place) {
    copy.length = row_.length;
    const auto& known = row_.copies[*at];
    // There was no block any more, and another one was taken.
    if (place.value().device != known.device || place.value().block != known.block)
      moved_[node] = place.value();
  } else {
    copy.error = std::move(place).error();
    // A source that was taken for whole, and may be as short: where each of them ends is to be known first.
    const bool source_is_bad = copy.error->code() == Errc::corrupt;
    for (auto& other : copies_) {
      if (source_is_bad && other.call == Call::done && !other.fenced) other.call = Call::failed;
    }
  }
  return sealing_progress();
}

// ---- freeing

Actions SegmentLife::free_dead() {
  const bool ended = row_.state == SegmentState::sealed || row_.state == SegmentState::unfilled;
  if (!ended || !(step_ == Step::resting || waiting())) return {};
  return store_freeing(true);
}

Actions SegmentLife::store_freeing(bool only_if_dead) {
  auto row = row_;
  row.state = SegmentState::freeing;
  row.session = {};
  // Free 1. What made it dead must not be undone by a crash once the blocks are gone: hence the sync.
  auto actions = store(Step::storing_freeing, std::move(row), true);
  std::get<Persist>(actions.front()).only_if_dead = only_if_dead;
  return actions;
}

Actions SegmentLife::start_freeing_blocks() {
  step_ = Step::freeing;
  set_all(Call::failed);
  return retry();
}

Actions SegmentLife::freed(NodeId node, Result<void> result) {
  const auto at = find(node);
  if (step_ != Step::freeing || !at || copies_[*at].call != Call::under_way) return {};
  copies_[*at].call = result ? Call::done : Call::failed;
  if (!result) copies_[*at].error = std::move(result).error();
  return freeing_progress();
}

Actions SegmentLife::reported_without(NodeId node) {
  const auto at = find(node);
  if (!at) return {};
  // A list may be older than the block, where its sender was stopped. Of several copies the others are asked
  // then, and the block is found whole; a lone one would be closed at nothing.
  const bool is_lone = row_.copies.size() == 1;
  if (step_ == Step::resting && row_.state == SegmentState::sealed) {
    if (is_lone) return {};
    set_all(Call::done);
    step_ = Step::sealing;
  } else if (copies_[*at].call != Call::failed) {
    return {};
  }
  if (step_ == Step::freeing) {
    copies_[*at].call = Call::done;
    return freeing_progress();
  }
  if (step_ != Step::fencing && step_ != Step::sealing) return {};
  const auto& error = copies_[*at].error;
  if (is_lone && !(error && error->code() == Errc::not_found)) return {};
  // Its machine lost power before the block's descriptor was on stable storage, or the block was given up.
  // What was flushed there has a descriptor, so nothing was: as good as torn at its beginning.
  copies_[*at].call = Call::under_way;
  return fenced(node, FencedCopy(0, true));
}

Actions SegmentLife::freeing_progress() {
  if (any(Call::under_way) || any(Call::failed)) return {};
  step_ = Step::erasing;
  return {Erase{}};
}

// ---- the same for all

Actions SegmentLife::resume(bool session_alive) {
  REELFS_ASSERT(step_ == Step::resting);
  switch (row_.state) {
    case SegmentState::allocating:
      return store_freeing(false);
    case SegmentState::open:
      if (row_.session && session_alive) return {};
      return start_fencing();
    case SegmentState::freeing:
      return start_freeing_blocks();
    case SegmentState::unfilled:
    case SegmentState::sealed:
      return {};
  }
  return {};
}

Actions SegmentLife::retry() {
  if (!waiting()) return {};
  Actions actions;
  for (std::size_t i = 0; i < copies_.size(); ++i) {
    if (copies_[i].call != Call::failed) continue;
    copies_[i].call = Call::under_way;
    const auto& copy = row_.copies[i];
    if (step_ == Step::freeing) {
      actions.push_back(Free{copy.node, copy.worker, {}});
    } else {
      const auto next = row_.generation.value + (step_ == Step::fencing ? 1 : 0);
      actions.push_back(Fence{copy.node, copy.worker, Generation{next}});
    }
  }
  return actions;
}

Actions SegmentLife::give_up(NodeId node) {
  if (!waits_for(node) || !given_up_.insert(node).second) return {};
  return step_ == Step::fencing ? seal_at_valid_length() : Actions{};
}

Actions SegmentLife::store(Step step, SegmentRow row, bool sync) {
  step_ = step;
  return {Persist{std::move(row), false, sync, false}};
}

Actions SegmentLife::persisted(SegmentRow stored) {
  const auto step = step_;
  const auto kept = [&] {  // the calls' outcomes, for the copies that are still there
    std::vector<Copy> copies;
    for (const auto& copy : stored.copies) {
      const auto at = find(copy.node);
      copies.push_back(at ? copies_[*at]
                          : Copy{Call::done, stored.length, true, false, {}});  // made just now
    }
    return copies;
  }();
  const auto replaced_at = step == Step::storing_copy ? find(instead_of_) : std::nullopt;
  const auto replaced = replaced_at ? std::optional(row_.copies[*replaced_at]) : std::nullopt;
  row_ = std::move(stored);
  copies_ = kept;
  otherwise_.reset();
  Actions actions;
  switch (step) {
    case Step::storing_allocating:
      if (abandoned_) return store_freeing(false);
      step_ = Step::allocating;
      set_all(Call::under_way);
      for (const auto& copy : row_.copies)
        actions.push_back(Allocate{copy.node, copy.worker, row_.generation});  // open 2
      return actions;
    case Step::storing_open:
      if (abandoned_) {
        answer(actions, Error(Errc::cancelled, "nobody waits for the grant"));
        rest();
        auto next = give_back_unused();
        actions.insert(actions.end(), std::make_move_iterator(next.begin()),
                       std::make_move_iterator(next.end()));
        return actions;
      }
      answer(actions, ok());
      rest();
      return actions;
    case Step::storing_writerless:
      answer(actions, ok());
      for (auto& action : start_fencing()) actions.push_back(std::move(action));
      return actions;
    case Step::storing_end:
      answer(actions, ok());
      if (row_.state == SegmentState::unfilled) {
        for (const auto& copy : row_.copies) {
          actions.push_back(Release{copy.node, copy.worker, row_.generation});
        }
        rest();
        return actions;
      }
      for (auto& action : start_sealing()) actions.push_back(std::move(action));
      return actions;
    case Step::storing_renewal:
      return start_copying();  // repair 2
    case Step::storing_copy:
      // Repair 4. Not awaited: what is not given back now is found in the node's next block report.
      if (replaced) {
        const bool is_within = new_copy_->node == replaced->node;
        actions.push_back(Free{replaced->node, replaced->worker, row_.generation,
                               is_within ? replaced->device : DeviceId()});
      }
      for (auto& action : repair_ended(ok())) actions.push_back(std::move(action));
      return actions;
    case Step::storing_places:
      moved_.clear();
      step_ = Step::sealing;
      return sealing_progress();
    case Step::storing_freeing:
      answer(actions, ok());
      for (auto& action : start_freeing_blocks()) actions.push_back(std::move(action));
      return actions;
    default:
      return {};
  }
}

Actions SegmentLife::persist_refused() {
  if (step_ != Step::storing_freeing) return {};
  if (otherwise_) {
    auto row = std::move(*otherwise_);
    otherwise_.reset();
    return store(Step::storing_end, std::move(row), true);
  }
  if (row_.state == SegmentState::open) {  // its writer said that it is empty, and it is not
    Actions actions;
    answer(actions, ok());
    for (auto& action : start_fencing()) actions.push_back(std::move(action));
    return actions;
  }
  if (row_.state != SegmentState::sealed) return rest();
  step_ = Step::sealing;  // goes back to what its copies wait for
  return sealing_progress();
}

Actions SegmentLife::persist_failed(Error error) {
  Actions actions;
  if (new_copy_) actions.push_back(Repaired{error});
  answer(actions, std::move(error));
  rest();  // the row still says where a restart goes on
  return actions;
}

Actions SegmentLife::erased() {
  if (step_ == Step::erasing) step_ = Step::gone;
  return {};
}

std::optional<std::size_t> SegmentLife::find(NodeId node) const {
  for (std::size_t i = 0; i < row_.copies.size(); ++i) {
    if (row_.copies[i].node == node) return i;
  }
  return std::nullopt;
}

bool SegmentLife::any(Call call) const {
  return std::any_of(copies_.begin(), copies_.end(), [&](const Copy& copy) { return copy.call == call; });
}

void SegmentLife::set_all(Call call) {
  for (auto& copy : copies_) copy.call = call;
}

Error SegmentLife::first_error() const {
  for (const auto& copy : copies_) {
    if (copy.call == Call::failed && copy.error) return *copy.error;
  }
  return Error(Errc::unavailable);
}

void SegmentLife::answer(Actions& actions, Result<void> result) {
  if (!answer_due_) return;
  answer_due_ = false;
  actions.push_back(Answer{std::move(result)});
}

Actions SegmentLife::rest() {
  step_ = Step::resting;
  copies_.assign(row_.copies.size(), Copy{});
  otherwise_.reset();
  new_copy_.reset();
  instead_of_ = {};
  moved_.clear();
  abandoned_ = false;
  return {};
}

}  // namespace reelfs::indexd
