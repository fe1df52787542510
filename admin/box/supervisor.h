#pragma once

#include <chrono>
#include <functional>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "admin/box/box.h"
#include "admin/box/process.h"
#include "common/base/result.h"

namespace reelfs::admin {

/// A process of a box as it is now.
struct ProcessReport {
  BoxProcess process;
  std::optional<ProcessId> running;  // absent: stopped
  /// index: active · worker: leader, follower · mount: mounted · any: stopped, ending, paused, starting,
  /// running (nobody can tell more)
  std::string state;
  std::vector<std::string> endpoints;
};

/// Starts and stops what a Box describes. Only one at a time works on a box: others wait for its lock.
class Supervisor {
 public:
  /// @param tell  gets a line whenever something has happened
  Supervisor(const Box& box, std::function<void(const std::string&)> tell);

  /// Starts the named processes, or all, where they do not run, and waits until they do their work: the index
  /// answers, workers have registered, devices are in use, the mount is there.
  /// @errors not_found (no such name), io (a program ended; the message has its last words), timed_out
  Result<void> start(const std::vector<std::string>& names);

  /// Unmounts, then ends workers, then the index server. What does not end in time is killed, and said so.
  Result<void> stop();

  /// Removes the box's files after stop(): what it made and nothing else.
  Result<void> purge();

  std::vector<ProcessReport> report() const;

 private:
  using Chosen = std::vector<BoxProcess>;
  Result<Chosen> choose(const std::vector<std::string>& names) const;
  Result<void> launch(const BoxProcess& process);
  Result<void> wait_for_index(const Chosen& wanted);
  /// @param others  need only find the index server, and nobody minds where they do not
  Result<void> wait_for_workers(const Chosen& wanted, const Chosen& others);
  Result<void> mount(const BoxProcess& process);
  /// Starts what has ended without having been started by this call. @errors io (something else ended)
  Result<void> keep_alive(const Chosen& wanted);
  void stop_mount(const BoxProcess& process) const;
  void stop_processes(Role role) const;

  const Box& box_;
  std::function<void(const std::string&)> tell_;
  std::set<std::string> launched_;  // by the start() under way
};

}  // namespace reelfs::admin
