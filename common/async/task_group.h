#pragma once

#include <memory>

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>

namespace reelfs {

namespace asio = boost::asio;

/// Owns background coroutines of one component, on one single-threaded executor.
///
///     group_.spawn(serve(connection));    // entered from the loop, not inside spawn
///     co_await group_.stop();             // cancels all, waits for all
///
/// A coroutine that ends with an exception other than a cancellation aborts the process: it is a bug.
/// Destroying a group that still runs something is an assertion.
class TaskGroup {
 public:
  explicit TaskGroup(asio::any_io_executor executor);
  ~TaskGroup();
  TaskGroup(const TaskGroup&) = delete;
  TaskGroup& operator=(const TaskGroup&) = delete;

  /// Ignored (the coroutine is destroyed unstarted) after stop() began.
  void spawn(asio::awaitable<void> coroutine);
  /// Cancels what runs, and returns when nothing does. May be called again.
  asio::awaitable<void> stop();
  std::size_t size() const;
  bool stopping() const;

 private:
  struct State;
  std::shared_ptr<State> state_;
};

}  // namespace reelfs
