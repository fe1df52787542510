#include "common/async/blocking_pool.h"

#include <chrono>
#include <condition_variable>
#include <csignal>
#include <deque>
#include <mutex>
#include <string>
#include <system_error>
#include <thread>
#include <utility>

#include <boost/asio/async_result.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <pthread.h>

#include "common/async/waiter.h"
#include "common/base/assert.h"

namespace reelfs {

/// Its threads hold it, so none of them has to be joined.
struct BlockingPool::State {
  std::size_t most;
  std::string thread_name;
  Duration idle_limit;

  std::mutex mutex;  // of all below
  std::condition_variable more;
  std::condition_variable last_ended;
  std::deque<std::function<void()>> queue;
  std::size_t threads = 0;
  std::size_t idle = 0;  // of the threads
  bool stopping = false;

  /// @errors std::system_error: the system has no thread for us
  static void start_thread(const std::shared_ptr<State>& self) {
    // Signals are for the loop's thread.
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &before);
    try {
      std::thread thread([self] { self->work(); });
      ++self->threads;
      ++self->idle;
      pthread_setname_np(thread.native_handle(), self->thread_name.c_str());
      thread.detach();
    } catch (const std::system_error&) {
      pthread_sigmask(SIG_SETMASK, &before, nullptr);
      throw;
    }
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
  }

  void work() noexcept {
    std::unique_lock lock(mutex);
    for (;;) {
      const auto until = std::chrono::system_clock::now() + idle_limit;
      const bool woken = more.wait_until(lock, until, [this] { return stopping || !queue.empty(); });
      if (queue.empty()) {
        if (stopping || (!woken && threads > 1)) break;
        continue;
      }
      --idle;
      auto next = std::move(queue.front());
      queue.pop_front();
      lock.unlock();
      next();
      next = nullptr;
      lock.lock();
      ++idle;
    }
    --idle;
    if (--threads == 0) last_ended.notify_all();
  }
};

BlockingPool::BlockingPool(std::size_t threads, const char* thread_name, Duration idle_limit)
    : state_(std::make_shared<State>()) {
  REELFS_ASSERT(threads > 0);
  state_->most = threads;
  state_->thread_name = std::string(thread_name).substr(0, 15);
  state_->idle_limit = idle_limit;
  const std::lock_guard lock(state_->mutex);
  State::start_thread(state_);
}

BlockingPool::~BlockingPool() {
  std::unique_lock lock(state_->mutex);
  state_->stopping = true;
  state_->more.notify_all();
  state_->last_ended.wait(lock, [this] { return state_->threads == 0; });
}

void BlockingPool::post(std::function<void()> work) {
  const std::lock_guard lock(state_->mutex);
  state_->queue.push_back(std::move(work));
  if (state_->queue.size() > state_->idle && state_->threads < state_->most) {
    try {
      State::start_thread(state_);
    } catch (const std::system_error&) {
      // Those that are there do it, one after another.
    }
  }
  state_->more.notify_one();
}

asio::awaitable<void> BlockingPool::run_erased(const std::function<void()>& work) {
  const asio::any_io_executor executor = co_await asio::this_coro::executor;
  // The coroutine's frame holds `waiter` and `work` until it resumes; the pool's thread takes the waiter out
  // first.
  Waiter<> waiter;
  auto start = [this, &executor, &waiter, &work](auto handler) {
    waiter = Waiter<>(executor, std::move(handler));
    post([&waiter, &work] {
      work();
      auto resuming = std::move(waiter);
      resuming.resume();
    });
  };
  co_await asio::async_initiate<const asio::use_awaitable_t<>, void()>(start, asio::use_awaitable);
}

}  // namespace reelfs
