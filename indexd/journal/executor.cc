#include "indexd/journal/executor.h"

#include <condition_variable>
#include <cstring>
#include <deque>
#include <map>
#include <mutex>
#include <span>
#include <thread>
#include <utility>
#include <vector>

#include <boost/asio/async_result.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <unistd.h>

#include "common/async/blocking_pool.h"
#include "common/async/waiter.h"
#include "common/base/assert.h"
#include "common/observe/log.h"
#include "indexd/journal/core.h"
#include "indexd/journal/file.h"
#include "indexd/schema/store.h"

namespace reelfs::indexd {
namespace {

/// Operations that share a write, so that the first of them does not wait for long.
constexpr std::size_t kMaxGroup = 128;

Error stopped_error() { return Error(Errc::io, "the journal cannot be written; indexd has to be restarted"); }

/// Holds the directory against other processes; the kernel lets go when the process ends, however it ends.
class DirectoryLock {
 public:
  static Result<DirectoryLock> take(const std::filesystem::path& directory) {
    const auto path = directory / "lock";
    DirectoryLock lock(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0640));
    if (lock.fd_ < 0) return from_errno(errno, fmt::format("opening {}", path.string()));
    if (::flock(lock.fd_, LOCK_EX | LOCK_NB) != 0) {
      if (errno != EWOULDBLOCK) return from_errno(errno, fmt::format("locking {}", path.string()));
      return Error(Errc::busy, fmt::format("{} is in use by another indexd", directory.string()));
    }
    return lock;
  }
  explicit DirectoryLock(int fd) : fd_(fd) {}
  ~DirectoryLock() {
    if (fd_ >= 0) ::close(fd_);
  }
  DirectoryLock(DirectoryLock&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  DirectoryLock& operator=(DirectoryLock&&) = delete;

 private:
  int fd_;
};

TimePoint now() { return SystemClock().now(); }

}  // namespace

struct Executor::State {
  struct Operation {
    const std::function<bool(Transaction&)>* call;
    std::optional<Error>* failure;
    Waiter<> waiter;
  };

  State(Options given, DirectoryLock held)
      : options(std::move(given)), lock(std::move(held)), files(options.directory / "journal") {}

  const Options options;
  const DirectoryLock lock;
  Epoch epoch;
  JournalFile files;

  std::mutex mutex;
  std::condition_variable work;                            // for the writer
  std::condition_variable sync_work;                       // for the syncer
  std::condition_variable progress;                        // the core has moved on
  std::deque<Operation> queue;                             // guarded by mutex
  std::optional<JournalCore> core;                         // guarded by mutex; set once recovered
  std::map<JournalCore::WaiterId, Waiter<>> sync_waiters;  // guarded by mutex
  JournalCore::WaiterId last_waiter = 0;                   // guarded by mutex
  bool stopping = false;                                   // guarded by mutex
  bool writer_ended = false;                               // guarded by mutex
  bool flushed = false;          // guarded by mutex: journal files may have become removable
  bool flush_requested = false;  // guarded by mutex

  std::mutex mirror_mutex;          // after `mutex` where both are held
  JournalMirror* mirror = nullptr;  // guarded by mirror_mutex

  std::unique_ptr<Store> store;
  std::optional<BlockingPool> readers;
  std::thread writer;
  std::thread syncer;

  Result<void> recover();
  void start();
  void stop();
  void write_loop() noexcept;
  void sync_loop() noexcept;
  Result<void> carry_out(Transaction& transaction, std::vector<Operation>& group);
  Result<void> commit(Transaction& transaction);
  void tell_mirror(std::span<const JournalCore::Write> writes, std::uint64_t last_index);
  void wait_until_synced();
  void remove_old_files();
  void fail(const Error& error);
  void release(std::unique_lock<std::mutex>& held);
};

/// RocksDB is about to make its memory's content permanent: the journal goes first, so that it is never
/// behind.
void Executor::State::wait_until_synced() {
  std::unique_lock held(mutex);
  if (!core) return;  // recovering: what is replayed is synced
  const auto index = core->written_index();
  core->want_sync(index, {});
  sync_work.notify_one();
  progress.wait(held, [&] { return core->synced_index() >= index || core->has_failed(); });
}

Result<void> Executor::State::recover() {
  Store::Options store_options;
  store_options.directory = options.directory / "rocksdb";
  store_options.cache_bytes = options.cache_bytes;
  store_options.buffer_bytes = options.buffer_bytes;
  store_options.before_flush = [this] { wait_until_synced(); };
  store_options.after_flush = [this] {
    const std::scoped_lock held(mutex);
    flushed = true;
    sync_work.notify_one();
  };
  REELFS_TRY(auto opened, Store::open(std::move(store_options)));
  store = std::move(opened);

  const auto applied = store->position();
  std::uint64_t replayed = 0;
  const auto replay = [&](const Entry& entry) -> Result<void> {
    ++replayed;
    const JournalPosition position{.epoch = Epoch{entry.header.epoch}, .index = entry.header.index};
    if (static_cast<EntryType>(entry.header.type) == EntryType::changes)
      return store->apply(entry.payload, position);
    Transaction nothing(*store);
    return store->apply(nothing, position);
  };
  REELFS_TRY(const auto end, files.recover(applied, replay, options.lost_journal));
  epoch = options.epoch ? options.epoch : Epoch{end.position.epoch.value + 1};
  if (epoch < end.position.epoch) {
    return Error(Errc::stale_epoch, fmt::format("epoch {} has been before: the journal ends in {}",
                                                epoch.value, end.position.epoch.value));
  }
  JournalCore::Options core_options;
  core_options.file_bytes = options.journal_file_bytes;
  core_options.sync_interval = options.sync_interval;
  {
    // The reign begins with an entry of its own, synced before anybody hears of the epoch: the next gets a
    // higher one.
    const std::scoped_lock held(mutex);
    core.emplace(core_options, end, epoch);
    core->append(EntryType::reign, {}, now());
    core->want_sync(core->newest_index(), {});
  }
  start();
  Transaction nothing(*store);
  if (auto begun = commit(nothing); !begun) {
    fail(begun.error());
    return begun;
  }
  std::unique_lock held(mutex);
  progress.wait(held, [this] { return core->synced_index() == core->newest_index() || core->has_failed(); });
  if (core->has_failed()) return stopped_error();
  logger("indexd.journal")
      .info("journal recovered epoch={} index={} replayed={}", epoch.value, core->newest_index(), replayed);
  return ok();
}

void Executor::State::start() {
  readers.emplace(options.reader_threads, "index-read");
  writer = std::thread([this] { write_loop(); });
  syncer = std::thread([this] { sync_loop(); });
}

void Executor::State::stop() {
  readers.reset();
  {
    const std::scoped_lock held(mutex);
    stopping = true;
    work.notify_one();
  }
  if (writer.joinable()) writer.join();
  {
    const std::scoped_lock held(mutex);
    writer_ended = true;
    sync_work.notify_one();
  }
  if (syncer.joinable()) syncer.join();
  store.reset();
}

/// Writes, then applies: with RocksDB never ahead of the journal, a crash between the two is repaired by
/// replaying.
Result<void> Executor::State::commit(Transaction& transaction) {
  std::unique_lock held(mutex);
  const auto writes = core->take_writes();
  const auto position = core->position();
  held.unlock();
  if (writes.empty()) return ok();
  REELFS_TRY(files.write(writes));
  held.lock();
  core->written(position.index);
  sync_work.notify_one();
  held.unlock();
  // Before they are applied: what a reader sees has gone to the mirror.
  tell_mirror(writes, position.index);
  return store->apply(transaction, position);
}

void Executor::State::tell_mirror(std::span<const JournalCore::Write> writes, std::uint64_t last_index) {
  const std::scoped_lock held(mirror_mutex);
  if (mirror == nullptr) return;
  std::string entries;
  for (const auto& write : writes)
    entries.append(write.bytes, write.new_file ? sizeof(JournalFileHeader) : 0, std::string::npos);
  EntryHeader first;
  std::memcpy(&first, entries.data(), sizeof first);
  mirror->written(first.index, last_index, std::move(entries));
}

/// @errors io: a sync has failed meanwhile
Result<void> Executor::State::carry_out(Transaction& transaction, std::vector<Operation>& group) {
  for (auto& operation : group) {
    if (!(*operation.call)(transaction)) {
      transaction.undo();
      continue;
    }
    if (transaction.operation_bytes() > kMaxEntryPayload) {
      transaction.undo();
      *operation.failure = Error(Errc::too_big, "the operation changes too much at once");
      continue;
    }
    const auto changes = transaction.keep();
    if (changes.empty()) continue;
    const std::scoped_lock held(mutex);
    if (core->has_failed()) return stopped_error();
    core->append(EntryType::changes, changes, now());
  }
  return ok();
}

void Executor::State::write_loop() noexcept {
  Transaction transaction(*store);
  std::vector<Operation> group;
  std::unique_lock held(mutex);
  for (;;) {
    work.wait(held, [this] { return stopping || !queue.empty(); });
    if (queue.empty()) return;
    group.clear();
    while (!queue.empty() && group.size() < kMaxGroup) {
      group.push_back(std::move(queue.front()));
      queue.pop_front();
    }
    const bool refuses = core->has_failed();
    held.unlock();

    if (refuses) {
      for (auto& operation : group) *operation.failure = stopped_error();
    } else {
      auto committed = carry_out(transaction, group);
      if (committed) committed = commit(transaction);
      if (!committed) {
        fail(committed.error());
        // Whoever was refused on its merits saw what predecessors in this group did, which now is not so.
        for (auto& operation : group) *operation.failure = stopped_error();
      } else if (files.older_bytes() > options.replay_bytes) {
        held.lock();
        const bool asks = !std::exchange(flush_requested, true);
        held.unlock();
        if (asks) {
          if (auto requested = store->request_flush(); !requested) fail(requested.error());
        }
      }
    }
    for (auto& operation : group) operation.waiter.resume();
    held.lock();
  }
}

void Executor::State::sync_loop() noexcept {
  std::unique_lock held(mutex);
  for (;;) {
    if (std::exchange(flushed, false)) {
      flush_requested = false;
      held.unlock();
      remove_old_files();
      held.lock();
      continue;
    }
    if (writer_ended) core->want_sync(core->written_index(), {});
    if (const auto upto = core->take_sync(now())) {
      held.unlock();
      const auto synced = files.sync();
      if (!synced) fail(synced.error());
      held.lock();
      if (!core->has_failed()) core->synced(*upto);
      release(held);
      continue;
    }
    release(held);
    if (writer_ended) return;
    if (const auto due = core->sync_due()) {
      sync_work.wait_until(held, *due);
    } else {
      sync_work.wait(held);
    }
  }
}

/// Resumes those whose sync is done, or is not going to be. Lets go of the lock meanwhile.
void Executor::State::release(std::unique_lock<std::mutex>& held) {
  progress.notify_all();
  std::vector<Waiter<>> resuming;
  for (const auto id : core->take_released()) {
    const auto waiter = sync_waiters.find(id);
    REELFS_ASSERT(waiter != sync_waiters.end());
    resuming.push_back(std::move(waiter->second));
    sync_waiters.erase(waiter);
  }
  if (resuming.empty()) return;
  held.unlock();
  for (auto& waiter : resuming) waiter.resume();
  held.lock();
}

void Executor::State::remove_old_files() {
  auto persisted = store->persisted();
  auto removed = persisted ? files.remove_upto(persisted.value().index) : Result<void>(persisted.error());
  if (!removed) logger("indexd.journal").warn("old files not removed: {}", removed.error().describe());
}

void Executor::State::fail(const Error& error) {
  {
    const std::scoped_lock held(mutex);
    if (core->has_failed()) return;
    core->fail();
    progress.notify_all();
    sync_work.notify_one();
  }
  logger("indexd.journal").error("nothing is accepted any more: {}", error.describe());
}

Executor::Executor(std::unique_ptr<State> state) : state_(std::move(state)) {}

Executor::~Executor() { state_->stop(); }

Result<std::unique_ptr<Executor>> Executor::open(Options options) {
  std::error_code failure;
  std::filesystem::create_directories(options.directory, failure);
  if (failure) return from_errno(failure.value(), fmt::format("creating {}", options.directory.string()));
  REELFS_TRY(auto lock, DirectoryLock::take(options.directory));
  std::unique_ptr<Executor> executor(
      new Executor(std::make_unique<State>(std::move(options), std::move(lock))));
  REELFS_TRY(executor->state_->recover());
  return executor;
}

asio::awaitable<std::optional<Error>> Executor::run_erased(const std::function<bool(Transaction&)>& op) {
  const asio::any_io_executor executor = co_await asio::this_coro::executor;
  std::optional<Error> failure;
  auto start = [this, &executor, &op, &failure](auto handler) {
    const std::scoped_lock held(state_->mutex);
    state_->queue.push_back(
        {.call = &op, .failure = &failure, .waiter = Waiter<>(executor, std::move(handler))});
    state_->work.notify_one();
  };
  co_await asio::async_initiate<const asio::use_awaitable_t<>, void()>(start, asio::use_awaitable);
  co_return failure;
}

bool Executor::peek_erased(const std::function<void(const View&)>& f) {
  const auto view = state_->store->view_in_memory();
  f(view);
  return !view.fell_short();
}

asio::awaitable<void> Executor::read_erased(const std::function<void(const View&)>& f) {
  auto work = [this, &f]() -> Result<void> {
    f(state_->store->view());
    return ok();
  };
  co_await state_->readers->run(std::move(work));
}

Task<void> Executor::sync() {
  const auto index = journal_index();
  JournalMirror* mirror = nullptr;
  {
    const std::scoped_lock held(state_->mirror_mutex);
    mirror = state_->mirror;
  }
  // Both go on at the same time.
  if (mirror != nullptr) mirror->want(index);
  REELFS_CO_TRY(co_await sync(index));
  if (mirror != nullptr) co_await mirror->stored(index);
  co_return ok();
}

Task<void> Executor::sync_here() { return sync(journal_index()); }

std::uint64_t Executor::mirror_to(JournalMirror* mirror) {
  const std::scoped_lock held(state_->mutex, state_->mirror_mutex);
  state_->mirror = mirror;
  return state_->core->newest_index();
}

std::uint32_t Executor::salt() const {
  const std::scoped_lock held(state_->mutex);
  return state_->core->salt();
}

Task<void> Executor::sync(std::uint64_t index) {
  if (synced_index() >= index) co_return ok();
  const asio::any_io_executor executor = co_await asio::this_coro::executor;
  auto start = [this, &executor, index](auto handler) {
    const std::scoped_lock held(state_->mutex);
    const auto id = ++state_->last_waiter;
    state_->sync_waiters.emplace(id, Waiter<>(executor, std::move(handler)));
    state_->core->want_sync(index, id);
    state_->sync_work.notify_one();
  };
  co_await asio::async_initiate<const asio::use_awaitable_t<>, void()>(start, asio::use_awaitable);
  const std::scoped_lock held(state_->mutex);
  if (state_->core->synced_index() < index) co_return stopped_error();
  co_return ok();
}

Epoch Executor::epoch() const { return state_->epoch; }

std::uint64_t Executor::journal_index() const {
  const std::scoped_lock held(state_->mutex);
  return state_->core->newest_index();
}

std::uint64_t Executor::synced_index() const {
  const std::scoped_lock held(state_->mutex);
  return state_->core->synced_index();
}

Result<void> Executor::health() const {
  const std::scoped_lock held(state_->mutex);
  if (state_->core->has_failed()) return stopped_error();
  return ok();
}

}  // namespace reelfs::indexd
