#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <vector>

#include "common/base/clock.h"
#include "common/base/ids.h"

namespace reelfs::noded {

/// When each of a node's worker processes is to be started: at first and after its first death at once, then
/// after a pause that doubles for as long as it dies young.
///
///     due ──started()──> running ──ended()──> due, or after a pause
///
/// A plain state machine: no clock, no processes.
class RestartPlan {
 public:
  struct Options {
    Duration first_pause = std::chrono::milliseconds(100);
    Duration longest_pause = std::chrono::seconds(5);
    Duration settled = std::chrono::seconds(10);  // a worker that lived as long has recovered
  };

  /// All are due at once.
  explicit RestartPlan(std::uint32_t workers);
  RestartPlan(std::uint32_t workers, Options options);

  /// Those to be started now.
  std::vector<WorkerId> due(TimePoint now) const;
  /// When the next will be due; empty: none, before one ends.
  std::optional<TimePoint> next_due() const;

  /// @pre it was due
  void started(WorkerId worker, TimePoint now);
  /// It ended, however that was, or could not be started. @return when it will be due. @pre it was started
  TimePoint ended(WorkerId worker, TimePoint now);
  /// From now on none is due.
  void stop() { stopped_ = true; }

 private:
  struct Worker {
    bool running = false;
    TimePoint at;                    // running: since then; otherwise: due then
    std::uint32_t young_deaths = 0;  // in a row
  };
  Worker& of(WorkerId worker);

  const Options options_;
  std::vector<Worker> workers_;
  bool stopped_ = false;
};

}  // namespace reelfs::noded
