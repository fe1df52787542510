#include "common/async/condition.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/use_awaitable.hpp>

#include "common/base/assert.h"

namespace reelfs {

struct Condition::Waiter {
  Waiter(Condition& where, const asio::any_io_executor& executor) : condition(where), timer(executor) {
    place = condition.waiters_.insert(condition.waiters_.end(), this);
  }
  ~Waiter() {
    if (!notified) condition.waiters_.erase(place);
  }
  Waiter(const Waiter&) = delete;
  Waiter& operator=(const Waiter&) = delete;

  Condition& condition;
  asio::steady_timer timer;
  std::list<Waiter*>::iterator place;
  bool notified = false;
};

Condition::~Condition() { REELFS_ASSERT(waiters_.empty()); }

Task<void> Condition::wait(const Clock& clock, Deadline deadline) {
  // A far deadline must not overflow the timer's clock.
  constexpr Duration kLongest = std::chrono::hours(24 * 365);
  const auto left = std::clamp(deadline.left(clock), Duration::zero(), kLongest);
  const asio::any_io_executor executor = co_await asio::this_coro::executor;
  Waiter waiter(*this, executor);
  waiter.timer.expires_after(left);
  const auto [error] = co_await waiter.timer.async_wait(asio::as_tuple(asio::use_awaitable));
  if (waiter.notified) co_return ok();
  if (error) co_return Error(Errc::cancelled, "the caller gave up");
  co_return Error(Errc::timed_out, "nothing happened by the deadline");
}

void Condition::notify_all() {
  for (auto* waiter : std::exchange(waiters_, {})) {
    waiter->notified = true;
    waiter->timer.cancel();
  }
}

}  // namespace reelfs
