#pragma once

#include <chrono>
#include <cstddef>
#include <functional>
#include <memory>
#include <optional>
#include <type_traits>

#include "common/async/task.h"
#include "common/base/clock.h"

namespace reelfs {

/// A few threads for calls that block (pread, fdatasync, RocksDB, name lookup): one always, others while
/// there is work for them.
///
///     auto work = [fd] { return do_fdatasync(fd); };   // name it: g++ 12 miscompiles owning temporaries in
///     co_await REELFS_CO_TRY(co_await pool_.run(std::move(work)));
///
/// The coroutine resumes on its own executor. A call that has started is not interrupted: cancelling waits
/// for its end.
class BlockingPool {
 public:
  /// @param threads  so many at most, and at least 1
  /// @param idle_limit  a thread without work for so long ends
  BlockingPool(std::size_t threads, const char* thread_name, Duration idle_limit = std::chrono::seconds(10));
  ~BlockingPool();  // waits for what runs; what is still queued is run too
  BlockingPool(const BlockingPool&) = delete;
  BlockingPool& operator=(const BlockingPool&) = delete;

  /// Runs `work`, which returns a Result<T>, on one of the threads.
  template <class Work, class R = std::invoke_result_t<Work&>>
  asio::awaitable<R> run(Work work) {
    std::optional<R> result;
    const std::function<void()> call = [&result, &work] { result.emplace(work()); };
    co_await run_erased(call);
    co_return std::move(*result);
  }

  /// Queues work whose end nobody awaits. Thread-safe.
  void post(std::function<void()> work);

 private:
  asio::awaitable<void> run_erased(const std::function<void()>& work);
  struct State;
  std::shared_ptr<State> state_;
};

}  // namespace reelfs
