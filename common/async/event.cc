#include "common/async/event.h"

#include <utility>

#include <boost/asio/associated_cancellation_slot.hpp>
#include <boost/asio/async_result.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/use_awaitable.hpp>

#include "common/async/waiter.h"
#include "common/base/assert.h"

namespace reelfs {

struct Event::State {
  Waiter<bool> waiter;
  bool set = false;
};

Event::Event() : state_(std::make_shared<State>()) {}

Event::~Event() { REELFS_ASSERT(!state_->waiter); }

asio::awaitable<bool> Event::wait() {
  if (std::exchange(state_->set, false)) co_return true;
  REELFS_ASSERT(!state_->waiter);
  const asio::any_io_executor executor = co_await asio::this_coro::executor;
  auto start = [state = state_, &executor](auto handler) {
    auto slot = asio::get_associated_cancellation_slot(handler);
    if (slot.is_connected()) {
      slot.assign([weak = std::weak_ptr(state)](asio::cancellation_type) {
        const auto locked = weak.lock();
        if (locked && locked->waiter) locked->waiter.resume(false);
      });
    }
    state->waiter = Waiter<bool>(executor, std::move(handler));
  };
  co_return co_await asio::async_initiate<const asio::use_awaitable_t<>, void(bool)>(start,
                                                                                     asio::use_awaitable);
}

void Event::set() {
  if (state_->waiter) {
    state_->waiter.resume(true);
  } else {
    state_->set = true;
  }
}

bool Event::is_set() const { return state_->set; }

Task<void> wait_for(Event& event) {
  (void)co_await event.wait();
  co_return ok();
}

}  // namespace reelfs
