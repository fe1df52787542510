#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <type_traits>

#include "common/async/task.h"
#include "common/base/clock.h"
#include "indexd/journal/file.h"
#include "indexd/journal/mirror.h"
#include "indexd/schema/transaction.h"
#include "indexd/schema/view.h"

namespace reelfs::indexd {

/// Carries out operations on the index: one after the other on a thread of its own, each journaled as one
/// entry, then applied to RocksDB, then answered. Reads run beside it on a few threads and never wait for it.
///
///     auto op = [params, now](Transaction& txn) { return tree::create(txn, params, now); };   // named:
///     style.md, g++ 12 REELFS_CO_TRY(auto attributes, co_await executor.run(std::move(op)));
///     REELFS_CO_TRY(co_await executor.sync());          // now on stable storage
///
/// Every member may be called from any thread. A coroutine resumes on its own executor. What was begun is not
/// interrupted: a cancelled coroutine still gets its answer. Calls must have ended before the executor is
/// destroyed. docs/formats/journal.md, "Procedures"
class Executor {
 public:
  struct Options {
    std::filesystem::path directory;  // made where it is missing; only one process at a time
    Epoch epoch;                      // of this reign; none: one more than the last
    std::uint64_t journal_file_bytes = 64ULL << 20;
    Duration sync_interval =
        std::chrono::milliseconds(100);  // longest that an answered change is not on stable storage
    LostJournal lost_journal = LostJournal::refuse;
    std::size_t reader_threads = 2;
    std::uint64_t cache_bytes = 256ULL << 20;
    std::uint64_t buffer_bytes = 32ULL << 20;
    std::uint64_t replay_bytes = 192ULL
                                 << 20;  // of journal files before the newest; beyond it RocksDB is flushed
  };

  /// Recovers: what the journal has and RocksDB has not is applied.
  /// @errors busy (another process has the directory), corrupt, io
  static Result<std::unique_ptr<Executor>> open(Options options);
  /// Carries out what is queued, syncs, closes.
  ~Executor();
  Executor(const Executor&) = delete;
  Executor& operator=(const Executor&) = delete;

  /// Carries out `op`, which takes a Transaction& and returns a Result<T>. If that is an error, nothing is
  /// changed. Otherwise the change survives the end of this process when this returns, and the machine's
  /// after sync(). `op` may be called once only, on the writer's thread; it must not wait for anything.
  /// @errors those of op; too_big (its changes exceed kMaxEntryPayload); io: the journal cannot be written,
  /// and nothing is accepted any more
  template <class Op, class R = std::invoke_result_t<Op&, Transaction&>>
  asio::awaitable<R> run(Op op) {
    std::optional<R> result;
    const std::function<bool(Transaction&)> call = [&result, &op](Transaction& transaction) {
      result.emplace(op(transaction));
      return result->has_value();
    };
    auto failure = co_await run_erased(call);
    if (failure) co_return std::move(*failure);
    co_return std::move(*result);
  }

  /// Calls `f`, which takes a const View& and returns a Result<T>, on a reader's thread. It sees every change
  /// that was answered before this call.
  template <class F, class R = std::invoke_result_t<F&, const View&>>
  asio::awaitable<R> read(F f) {
    std::optional<R> result;
    const std::function<void(const View&)> call = [&result, &f](const View& view) {
      result.emplace(f(view));
    };
    co_await read_erased(call);
    co_return std::move(*result);
  }

  /// The same for what may be called twice: called on the caller's thread where it reads few rows that are in
  /// memory, which spares two changes of thread, else as by read().
  template <class F, class R = std::invoke_result_t<F&, const View&>>
  asio::awaitable<R> peek(F f) {
    std::optional<R> result;
    const std::function<void(const View&)> call = [&result, &f](const View& view) {
      result.emplace(f(view));
    };
    if (!peek_erased(call)) co_await read_erased(call);
    co_return std::move(*result);
  }

  /// Returns when everything answered before is on stable storage, here and in the mirror. Concurrent calls
  /// share a sync. With a mirror: on the mirror's executor alone. @errors io
  Task<void> sync();
  /// The same, here alone.
  Task<void> sync_here();
  /// Returns when the entries up to this one are. @errors io
  Task<void> sync(std::uint64_t index);

  /// What is answered from now on goes there, too. Null: no longer, and no call of it is under way when this
  /// returns. @return the newest entry that may not have gone there
  std::uint64_t mirror_to(JournalMirror* mirror);
  /// Of the journal: docs/formats/journal.md
  std::uint32_t salt() const;

  /// Of this reign.
  Epoch epoch() const;
  /// Of the newest entry, and of the newest on stable storage.
  std::uint64_t journal_index() const;
  std::uint64_t synced_index() const;
  /// @errors io: the journal could not be written, and nothing is accepted any more
  Result<void> health() const;

 private:
  asio::awaitable<std::optional<Error>> run_erased(const std::function<bool(Transaction&)>& op);
  bool peek_erased(const std::function<void(const View&)>& f);
  asio::awaitable<void> read_erased(const std::function<void(const View&)>& f);
  struct State;
  explicit Executor(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace reelfs::indexd
