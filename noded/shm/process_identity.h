#pragma once

#include <cstdint>

namespace reelfs::noded {

/// A process, told from a later one that was given the same pid. Stands in shared memory.
struct ProcessIdentity {
  std::uint32_t pid = 0;
  std::uint32_t reserved = 0;
  std::uint64_t start_ticks = 0;  // since the machine started, proc(5) "starttime"

  static ProcessIdentity self();
  friend bool operator==(const ProcessIdentity&, const ProcessIdentity&) = default;
};

/// Tells this run of the machine from earlier and later ones. Neither 0 nor all ones; 0 where it cannot be
/// told.
std::uint64_t machine_boot();

/// When it began, in wall time. @param wall_ns  now
std::int64_t started_at_ns(const ProcessIdentity& process, std::int64_t wall_ns);

/// False once every thread of the process has ended, and with that every system call it was in: none of its
/// writes is under way. True where it cannot be told, for want of descriptors say: the blocks of a dead
/// process can wait, those of a living one must not be taken away.
bool is_alive(const ProcessIdentity& process);

/// False once it has been killed, or has ended: at most calls of its threads have not returned, of which each
/// does nothing more than that, and which may hang. True where it cannot be told.
bool is_running(const ProcessIdentity& process);

/// True where every thread of the process is stopped, by SIGSTOP or a debugger: then none is in a system
/// call, and none begins one before it is continued.
bool is_stopped(std::uint32_t pid);

}  // namespace reelfs::noded
