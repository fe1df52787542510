#include "noded/scrub/schedule.h"

#include <algorithm>
#include <array>

namespace reelfs::noded {
namespace {

constexpr std::size_t kStep = 256;

/// Nobody writes it, and there is something in it.
bool can_be_verified(const BlockSlot& slot) {
  const bool open = slot.descriptor.state == BlockState::open;
  const bool at_rest =
      slot.descriptor.state == BlockState::sealed || (open && slot.owner == 0 && slot.in_flight == 0);
  return at_rest && slot.end > 0;
}

std::int64_t since(const BlockSlot& slot, std::int64_t wall_ns) {
  const auto known = std::max(slot.descriptor.verified_at_ns, slot.descriptor.allocated_at_ns);
  return std::min(known, wall_ns);  // where the clock was put back
}

}  // namespace

ScrubSchedule ScrubSchedule::look(DeviceTable& table, Rules rules, std::int64_t wall_ns, std::size_t most) {
  ScrubSchedule schedule(rules);
  auto& candidates = schedule.candidates_;
  const auto later = [](const Candidate& a, const Candidate& b) { return a.since_ns > b.since_ns; };
  const auto keep_first = [&] {
    if (candidates.size() <= most) return;
    const auto first = candidates.end() - static_cast<std::ptrdiff_t>(most);
    std::nth_element(candidates.begin(), first, candidates.end(), later);
    candidates.erase(candidates.begin(), first);
  };
  const auto wanted_since = rules.ordered_ns != 0 ? rules.ordered_ns : wall_ns - rules.period.count();
  std::array<BlockSlot, kStep> step;
  std::uint32_t first = 0;
  while (const auto count = table.copy_slots(first, step)) {
    for (std::uint32_t i = 0; i < count; ++i) {
      const auto& slot = step[i];
      if (!can_be_verified(slot)) continue;
      const auto at = since(slot, wall_ns);
      schedule.used_ += slot.end;
      if (at >= wanted_since) schedule.verified_ += slot.end;
      if (rules.ordered_ns != 0 && at < rules.ordered_ns) ++schedule.ordered_left_;
      if (schedule.used_ == slot.end || at < schedule.oldest_) schedule.oldest_ = at;
      schedule.latest_verified_ =
          std::max(schedule.latest_verified_, std::min(slot.descriptor.verified_at_ns, wall_ns));
      candidates.push_back({at, first + i, slot.descriptor.segment});
    }
    first += static_cast<std::uint32_t>(count);
    if (candidates.size() / 2 > most) keep_first();
  }
  keep_first();
  std::sort(candidates.begin(), candidates.end(), later);
  if (schedule.latest_verified_ == 0) schedule.latest_verified_ = schedule.oldest_;
  return schedule;
}

std::optional<ScrubSchedule::Next> ScrubSchedule::next(DeviceTable& table, std::int64_t wall_ns) {
  while (!candidates_.empty()) {
    const auto candidate = candidates_.back();
    Next next;
    next.block = candidate.block;
    next.slot = table.slot(candidate.block);
    const bool same = next.slot.descriptor.segment == candidate.segment && can_be_verified(next.slot) &&
                      since(next.slot, wall_ns) == std::min(candidate.since_ns, wall_ns);
    if (!same) {
      // By another process maybe, and then the pause counts from there.
      latest_verified_ = std::max(latest_verified_, std::min(next.slot.descriptor.verified_at_ns, wall_ns));
      candidates_.pop_back();
      continue;
    }
    next.due_ns = INT64_MAX;
    if (rules_.ordered_ns != 0 && candidate.since_ns < rules_.ordered_ns) {
      next.due_ns = 0;
    } else if (rules_.period > Duration::zero()) {
      const double share =
          static_cast<double>(next.slot.end) / static_cast<double>(std::max(used_, next.slot.end));
      const auto pause = static_cast<std::int64_t>(share * static_cast<double>(rules_.period.count()));
      next.due_ns = std::min(candidate.since_ns + rules_.period.count(), latest_verified_ + pause);
    }
    return next;
  }
  return std::nullopt;
}

void ScrubSchedule::drop(std::uint32_t block) {
  std::erase_if(candidates_, [&](const Candidate& candidate) { return candidate.block == block; });
}

}  // namespace reelfs::noded
