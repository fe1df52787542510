#include "noded/supervisor/restart_plan.h"

#include <algorithm>

#include "common/base/assert.h"

namespace reelfs::noded {

RestartPlan::RestartPlan(std::uint32_t workers) : RestartPlan(workers, Options()) {}

RestartPlan::RestartPlan(std::uint32_t workers, Options options) : options_(options), workers_(workers) {}

RestartPlan::Worker& RestartPlan::of(WorkerId worker) {
  REELFS_ASSERT(worker.value >= 1 && worker.value <= workers_.size());
  return workers_[worker.value - 1];
}

std::vector<WorkerId> RestartPlan::due(TimePoint now) const {
  std::vector<WorkerId> due;
  if (stopped_) return due;
  for (std::uint32_t i = 0; i < workers_.size(); ++i) {
    if (!workers_[i].running && workers_[i].at <= now) due.emplace_back(i + 1);
  }
  return due;
}

std::optional<TimePoint> RestartPlan::next_due() const {
  std::optional<TimePoint> next;
  if (stopped_) return next;
  for (const auto& worker : workers_) {
    if (!worker.running && (!next || worker.at < *next)) next = worker.at;
  }
  return next;
}

void RestartPlan::started(WorkerId id, TimePoint now) {
  auto& worker = of(id);
  REELFS_ASSERT(!worker.running);
  worker.running = true;
  worker.at = now;
}

TimePoint RestartPlan::ended(WorkerId id, TimePoint now) {
  auto& worker = of(id);
  REELFS_ASSERT(worker.running);
  if (now - worker.at >= options_.settled) worker.young_deaths = 0;
  auto pause = Duration::zero();
  if (worker.young_deaths > 0) {
    pause = options_.first_pause;
    for (std::uint32_t i = 1; i < worker.young_deaths && pause < options_.longest_pause; ++i) pause *= 2;
    pause = std::min(pause, options_.longest_pause);
  }
  ++worker.young_deaths;
  worker.running = false;
  worker.at = now + pause;
  return worker.at;
}

}  // namespace reelfs::noded
