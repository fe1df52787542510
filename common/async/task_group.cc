#include "common/async/task_group.h"

#include <cstdio>
#include <exception>
#include <list>

#include <boost/asio/bind_cancellation_slot.hpp>
#include <boost/asio/cancellation_signal.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/error.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/system/system_error.hpp>

#include "common/async/event.h"
#include "common/base/assert.h"

namespace reelfs {
namespace {

asio::awaitable<void> enter_from_loop(asio::awaitable<void> coroutine) {
  co_await asio::post(asio::use_awaitable);
  co_await std::move(coroutine);
}

void check_ending(const std::exception_ptr& failure) {
  if (!failure) return;
  try {
    std::rethrow_exception(failure);
  } catch (const boost::system::system_error& error) {
    if (error.code() == asio::error::operation_aborted) return;
    std::fprintf(stderr, "background coroutine ended with %s\n", error.what());
  } catch (const std::exception& error) {
    std::fprintf(stderr, "background coroutine ended with %s\n", error.what());
  }
  std::terminate();
}

}  // namespace

struct TaskGroup::State {
  asio::any_io_executor executor;
  std::list<asio::cancellation_signal> running;
  std::list<Event*> stoppers;
  bool stopping = false;
};

TaskGroup::TaskGroup(asio::any_io_executor executor) : state_(std::make_shared<State>()) {
  state_->executor = std::move(executor);
}

TaskGroup::~TaskGroup() { REELFS_ASSERT(state_->running.empty()); }

void TaskGroup::spawn(asio::awaitable<void> coroutine) {
  if (state_->stopping) return;
  const auto signal = state_->running.emplace(state_->running.end());
  auto ended = [state = state_, signal](const std::exception_ptr& failure) {
    check_ending(failure);
    state->running.erase(signal);
    if (!state->running.empty()) return;
    for (auto* stopper : state->stoppers) stopper->set();
  };
  asio::co_spawn(state_->executor, enter_from_loop(std::move(coroutine)),
                 asio::bind_cancellation_slot(signal->slot(), std::move(ended)));
}

asio::awaitable<void> TaskGroup::stop() {
  const auto state = state_;
  state->stopping = true;
  // Cancelled coroutines resume from the loop, so the list stays as it is meanwhile.
  for (auto& signal : state->running) signal.emit(asio::cancellation_type::all);
  if (state->running.empty()) co_return;
  Event empty;
  const auto stopper = state->stoppers.insert(state->stoppers.end(), &empty);
  // Joining is not cut short by cancelling whoever joins: the group's owner is about to be destroyed.
  const bool throws = co_await asio::this_coro::throw_if_cancelled();
  co_await asio::this_coro::throw_if_cancelled(false);
  while (!state->running.empty()) co_await empty.wait();
  co_await asio::this_coro::throw_if_cancelled(throws);
  state->stoppers.erase(stopper);
}

std::size_t TaskGroup::size() const { return state_->running.size(); }

bool TaskGroup::stopping() const { return state_->stopping; }

}  // namespace reelfs
