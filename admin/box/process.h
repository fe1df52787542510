#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include <sys/types.h>

#include "common/base/result.h"

namespace reelfs::admin {

/// A process that can be found again after this program has ended. Its start time tells it from another
/// process that was given the same pid later.
struct ProcessId {
  pid_t pid = 0;
  std::uint64_t start_ticks = 0;  // since boot, /proc/PID/stat
  std::string boot;               // of which boot
};

enum class ProcessState {
  gone,
  ending,  // killed, or its first thread has ended; others may be in a call, and hold what it has open until
           // then
  running,
  paused,
};

/// Of the process with this pid now. @errors not_found
Result<ProcessId> identify(pid_t pid);
/// A zombie counts as gone once all its threads have ended: it holds nothing any more.
ProcessState state_of(const ProcessId& process);

/// The process last recorded in a pid file. @return nothing where there is no such file or it cannot be read
std::optional<ProcessId> read_pid_file(const std::filesystem::path& path);
Result<void> write_pid_file(const std::filesystem::path& path, const ProcessId& process);

/// Starts a program in a session of its own, which outlives this one, with its output appended to `log`.
/// @param arguments  the program's path first
/// @errors not_found (no such program), io
Result<ProcessId> start_process(const std::vector<std::string>& arguments, const std::filesystem::path& log);

/// The process that runs this program, by its name, with these arguments. For one that was started by
/// somebody who did not live to record it.
std::optional<ProcessId> find_process(const std::vector<std::string>& arguments);

/// Sends the signal unless the process is gone.
void signal_process(const ProcessId& process, int signal);
/// @return whether it was gone within the time; false at once where for a while nothing has been left of it
/// but a call that hangs in the kernel, which no signal ends
bool wait_gone(const ProcessId& process, std::chrono::milliseconds time);

/// The last lines of a file, for an error message.
std::string last_lines(const std::filesystem::path& path, std::size_t lines);

}  // namespace reelfs::admin
