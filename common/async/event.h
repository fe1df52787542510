#pragma once

#include <memory>

#include <boost/asio/awaitable.hpp>

#include "common/async/task.h"

namespace reelfs {

namespace asio = boost::asio;

/// What one coroutine waits for and another, on the same single-threaded executor, sets.
///
///     while (queue_.empty()) co_await more_.wait();     // the writer
///     queue_.push_back(item); more_.set();              // its callers
class Event {
 public:
  Event();
  ~Event();  // nobody may be waiting
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;

  /// Returns at once if set, else when set; either way the event is unset then. One waiter at a time.
  /// @return false where the waiting was cancelled
  asio::awaitable<bool> wait();
  /// The waiter resumes from the loop, not inside set().
  void set();
  bool is_set() const;

 private:
  struct State;
  std::shared_ptr<State> state_;
};

/// Event::wait() as a task, for with_timeout: ends when the event is set or the waiting cancelled.
Task<void> wait_for(Event& event);

}  // namespace reelfs
