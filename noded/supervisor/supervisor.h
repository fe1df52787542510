#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>

#include <sys/types.h>

#include "common/base/clock.h"
#include "common/base/ids.h"
#include "common/base/result.h"
#include "noded/supervisor/restart_plan.h"

namespace reelfs::noded {

/// The exit status of a worker process that its configuration does not let start: starting it again would end
/// in the same way. EX_CONFIG of sysexits.h.
inline constexpr int kBadConfigStatus = 78;

/// Starts a node's worker processes, each with `--worker N`, and starts again those that end, also where a
/// call of a killed one hangs in the kernel, so that it cannot be waited for. They end with it: in order when
/// it is told to stop, and killed by the kernel when it is killed itself.
///
/// Has no part in what the workers do: they race for the internal port as when they are started one by one.
/// To be used by the only thread of a process, whose children are the workers and nobody else.
class Supervisor {
 public:
  struct Options {
    /// By default this very program, even where its file was replaced by another version meanwhile, whose
    /// shared memory may have another layout than that of the workers which run.
    std::filesystem::path program = "/proc/self/exe";
    std::filesystem::path config;
    std::uint32_t workers = 2;
    Duration stop_limit = std::chrono::seconds(30);  // after it a worker that was told to end is killed
  };

  Supervisor(const Clock& clock, Options options);
  Supervisor(const Supervisor&) = delete;
  Supervisor& operator=(const Supervisor&) = delete;

  /// Returns when SIGTERM or SIGINT was passed on and all workers have ended; those of which nothing is left
  /// but a call that hangs in the kernel are not waited for.
  /// @errors bad_config (a worker refuses its configuration; the others were stopped), timed_out (a killed
  /// worker is still there), io
  Result<void> run();

 private:
  void start_due();
  Result<pid_t> spawn(WorkerId worker);
  void collect_ended();
  void note_ended(pid_t pid, int status);
  void replace_hanging();
  void stop(int signal);
  bool only_calls_hang();
  void signal_all(int signal);
  Result<void> outcome() const;
  int wait_ms() const;

  const Clock& clock_;
  const Options options_;
  RestartPlan plan_;
  std::map<pid_t, WorkerId> running_;
  std::map<pid_t, TimePoint> seen_hanging_;  // of those that run: nothing of it is left but a call
  bool stopping_ = false;
  bool killed_ = false;
  TimePoint give_up_;                       // while stopping: on those that have not ended
  std::optional<TimePoint> hanging_since_;  // while stopping: nothing of them is left but calls that hang
  WorkerId refused_;                        // the worker that refused its configuration
};

}  // namespace reelfs::noded
