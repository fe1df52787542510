#include "common/async/blocking_pool.h"

#include <condition_variable>
#include <csignal>
#include <deque>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include <boost/asio/async_result.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <pthread.h>

#include "common/async/waiter.h"
#include "common/base/assert.h"

namespace reelfs {

struct BlockingPool::State {
  std::mutex mutex;
  std::condition_variable more;
  std::deque<std::function<void()>> queue;  // guarded by mutex
  bool stopping = false;                    // guarded by mutex
  std::vector<std::thread> threads;

  void work() noexcept {
    std::unique_lock lock(mutex);
    for (;;) {
      more.wait(lock, [this] { return stopping || !queue.empty(); });
      if (queue.empty()) return;
      auto next = std::move(queue.front());
      queue.pop_front();
      lock.unlock();
      next();
      next = nullptr;
      lock.lock();
    }
  }
};

BlockingPool::BlockingPool(std::size_t threads, const char* thread_name) : state_(std::make_unique<State>()) {
  REELFS_ASSERT(threads > 0);
  // Signals are for the loop's thread.
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_BLOCK, &all, &before);
  for (std::size_t i = 0; i < threads; ++i) {
    state_->threads.emplace_back([state = state_.get()] { state->work(); });
    pthread_setname_np(state_->threads.back().native_handle(),
                       std::string(thread_name).substr(0, 15).c_str());
  }
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

BlockingPool::~BlockingPool() {
  {
    const std::lock_guard lock(state_->mutex);
    state_->stopping = true;
  }
  state_->more.notify_all();
  for (auto& thread : state_->threads) thread.join();
}

void BlockingPool::post(std::function<void()> work) {
  {
    const std::lock_guard lock(state_->mutex);
    state_->queue.push_back(std::move(work));
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
