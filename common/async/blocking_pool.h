#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <optional>
#include <type_traits>

#include "common/async/task.h"

namespace reelfs {

/// A few threads for calls that block (pread, fdatasync, RocksDB, name lookup).
///
///     auto work = [fd] { return do_fdatasync(fd); };   // name it: g++ 12 miscompiles owning temporaries in
///     co_await REELFS_CO_TRY(co_await pool_.run(std::move(work)));
///
/// The coroutine resumes on its own executor. A call that has started is not interrupted: cancelling waits
/// for its end.
class BlockingPool {
 public:
  /// @param threads  at least 1
  BlockingPool(std::size_t threads, const char* thread_name);
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
  std::unique_ptr<State> state_;
};

}  // namespace reelfs
