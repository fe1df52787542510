#pragma once

namespace reelfs::noded {

/// Reads the variable below; once, before threads. What it says later does not matter.
void arm_crash_point();

/// Names an instruction at which a test may kill this process: where the environment variable
/// REELFS_CRASH_POINT is "name" or "name:n", the first or n-th arrival here raises SIGKILL; "name:n:stop"
/// raises SIGSTOP, and goes on when the process is continued. Costs one load where nothing is armed.
void crash_point(const char* name) noexcept;

}  // namespace reelfs::noded
