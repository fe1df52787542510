#pragma once

#include "common/async/task.h"
#include "common/base/clock.h"

namespace reelfs {

/// Waits on the machine's timer. Returns early, without an error, when cancelled.
asio::awaitable<void> sleep_for(Duration duration);

/// Awaits `task` until the deadline; then cancels it, and waits for it to end.
/// @errors timed_out, or the task's own
template <class T>
Task<T> with_timeout(const Clock& clock, Deadline deadline, Task<T> task);

}  // namespace reelfs
