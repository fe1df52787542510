#pragma once

#include <optional>
#include <utility>

#include "common/async/task.h"
#include "common/base/clock.h"

namespace reelfs {

/// Waits on the machine's timer. Returns early, without an error, when cancelled.
asio::awaitable<void> sleep_for(Duration duration);

namespace detail {

/// Awaits `work`, cancelling it after `limit`. @return true where the limit was reached
asio::awaitable<bool> cancel_after(Duration limit, asio::awaitable<void> work);

template <class T>
asio::awaitable<void> store_result(Task<T> task, std::optional<Result<T>>& into) {
  into.emplace(co_await std::move(task));
}

}  // namespace detail

/// Awaits `task` until the deadline; then cancels it, and waits for it to end. Not started where the deadline
/// has passed.
/// @errors timed_out, or the task's own
template <class T>
Task<T> with_timeout(const Clock& clock, Deadline deadline, Task<T> task) {
  std::optional<Result<T>> result;
  const bool late =
      co_await detail::cancel_after(deadline.left(clock), detail::store_result(std::move(task), result));
  if (result && !(late && result->has_error() && result->error().code() == Errc::cancelled)) {
    co_return std::move(*result);
  }
  co_return Error(late ? Errc::timed_out : Errc::cancelled);
}

}  // namespace reelfs
