#pragma once

#include <list>

#include "common/async/task.h"
#include "common/base/clock.h"

namespace reelfs {

/// Coroutines of one loop wait here until something they look at has changed.
///
///     while (!condition()) REELFS_CO_TRY(co_await changed_.wait(clock_, deadline));
///
/// Outlives its waiters.
class Condition {
 public:
  Condition() = default;
  ~Condition();
  Condition(const Condition&) = delete;
  Condition& operator=(const Condition&) = delete;

  /// Until the next notify_all. @errors timed_out, cancelled
  Task<void> wait(const Clock& clock, Deadline deadline);
  /// Wakes those who wait now.
  void notify_all();

 private:
  struct Waiter;
  std::list<Waiter*> waiters_;
};

}  // namespace reelfs
