// IndexDisk, and indexd::Executor without threads and files on top of it: the same promises, each operation
// and each sync takes its time in the world. Linked instead of indexd/journal/executor.cc.
#include "indexd/journal/executor.h"

#include <deque>
#include <utility>

#include <boost/asio/async_result.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/use_awaitable.hpp>

#include "common/async/waiter.h"
#include "common/base/assert.h"
#include "indexd/schema/change.h"
#include "tests/sim/cluster/index_disk.h"
#include "tests/sim/cluster/planted.h"

namespace reelfs::sim {
namespace {

IndexDisk* the_disk = nullptr;

void apply_to(std::map<std::string, std::string>& rows, std::string_view changes) {
  const auto applied =
      indexd::for_each_change(changes, [&](std::string_view key, std::optional<std::string_view> value) {
        if (value) {
          rows.insert_or_assign(std::string(key), std::string(*value));
        } else {
          rows.erase(std::string(key));
        }
      });
  REELFS_ASSERT(applied.has_value());
}

}  // namespace

void set_index_disk(IndexDisk* disk) { the_disk = disk; }

IndexDisk::IndexDisk(const std::filesystem::path& directory) {
  indexd::Store::Options options;
  options.directory = directory;
  options.cache_bytes = 1U << 20;
  auto opened = indexd::Store::open(std::move(options));
  REELFS_ASSERT(opened.has_value());
  store_ = std::move(opened).value();
}

void IndexDisk::begin_reign() {
  epoch_ = Epoch(epoch_.value + 1);
  sync(newest_);  // the reign's own entry is synced before anybody hears of it, and so are those before it
}

void IndexDisk::commit(indexd::Transaction& transaction) {
  auto changes = transaction.keep();
  if (changes.empty()) return;
  const auto applied = store_->apply(transaction, {.epoch = epoch_, .index = ++newest_});
  REELFS_ASSERT(applied.has_value());
  unsynced_.push_back(std::move(changes));
}

void IndexDisk::sync(std::uint64_t upto) {
  const auto done = synced();
  if (upto <= done) return;
  const auto count = static_cast<std::ptrdiff_t>(upto - done);
  for (auto entry = unsynced_.begin(); entry != unsynced_.begin() + count; ++entry) apply_to(stable_, *entry);
  unsynced_.erase(unsynced_.begin(), unsynced_.begin() + count);
}

void IndexDisk::lose_power(std::uint64_t entries_left) {
  sync(synced() + std::min<std::uint64_t>(entries_left, unsynced_.size()));
  std::map<std::string, std::string> found;
  const auto position = indexd::encode_key(indexd::AppliedKey{});
  const auto scanned = store_->view().scan_all([&](std::string_view key, std::string_view value) {
    if (key != position) found.emplace(key, value);
    return true;
  });
  REELFS_ASSERT(scanned.has_value());
  std::string changes;
  for (const auto& [key, value] : found) {
    if (!stable_.contains(key)) indexd::append_change(changes, key, std::nullopt);
  }
  for (const auto& [key, value] : stable_) {
    const auto there = found.find(key);
    if (there == found.end() || there->second != value) indexd::append_change(changes, key, value);
  }
  newest_ = synced();
  unsynced_.clear();
  if (changes.empty()) return;
  const auto applied = store_->apply(changes, {.epoch = epoch_, .index = newest_});
  REELFS_ASSERT(applied.has_value());
}

}  // namespace reelfs::sim

namespace reelfs::indexd {

using namespace std::chrono_literals;

struct Executor::State {
  explicit State(sim::IndexDisk& machine) : disk(machine), process(*sim::world().current()) {}

  struct SyncWaiter {
    std::uint64_t index;
    std::shared_ptr<Waiter<>> waiter;
  };

  /// One operation after the other.
  Duration turn(Duration takes) {
    busy_until = std::max(busy_until, sim::world().now()) + takes;
    return busy_until - sim::world().now();
  }
  void want_sync() {
    if (std::exchange(syncing, true)) return;
    const auto upto = disk.newest();
    const auto takes = sim::world().between(200us, sim::world().one_in(20) ? 60ms : 4ms);
    sim::world().after(process, takes, [this, upto] {
      syncing = false;
      disk.sync(upto);
      std::vector<std::shared_ptr<Waiter<>>> released;
      std::erase_if(waiters, [&](SyncWaiter& waiting) {
        if (waiting.index > upto) return false;
        released.push_back(waiting.waiter);
        return true;
      });
      for (const auto& waiter : released) waiter->resume();
      if (!waiters.empty()) want_sync();
    });
  }
  /// What nobody waits for is synced after a while, too.
  void sync_later() {
    if (std::exchange(sync_planned, true)) return;
    sim::world().after(process, 100ms, [this] {
      sync_planned = false;
      if (disk.unsynced() > 0) want_sync();
    });
  }

  sim::IndexDisk& disk;
  sim::Process& process;
  TimePoint busy_until{};
  bool syncing = false;
  bool sync_planned = false;
  std::vector<SyncWaiter> waiters;
};

Executor::Executor(std::unique_ptr<State> state) : state_(std::move(state)) {}
Executor::~Executor() = default;

Result<std::unique_ptr<Executor>> Executor::open(Options) {
  sim::the_disk->begin_reign();
  return std::unique_ptr<Executor>(new Executor(std::make_unique<State>(*sim::the_disk)));
}

asio::awaitable<std::optional<Error>> Executor::run_erased(const std::function<bool(Transaction&)>& op) {
  const auto takes = sim::world().between(20us, sim::world().one_in(50) ? 20ms : 300us);
  co_await sim::pass(state_->turn(takes));
  Transaction transaction(state_->disk.store());
  if (op(transaction)) {
    state_->disk.commit(transaction);
    state_->sync_later();
  } else {
    transaction.undo();
  }
  // It is written, and may be answered by a process that is killed before that.
  co_await sim::pass(sim::world().between(5us, 200us));
  co_return std::nullopt;
}

bool Executor::peek_erased(const std::function<void(const View&)>& f) {
  const auto view = state_->disk.store().view_in_memory();
  f(view);
  return !view.fell_short();
}

asio::awaitable<void> Executor::read_erased(const std::function<void(const View&)>& f) {
  co_await sim::pass(sim::world().between(5us, 300us));
  f(state_->disk.store().view());
  co_await sim::pass(sim::world().between(5us, 100us));
}

Task<void> Executor::sync() { return sync(journal_index()); }

Task<void> Executor::sync(std::uint64_t index) {
  if (synced_index() >= index || sim::planted(sim::Bug::journal_sync_nothing)) co_return ok();
  const asio::any_io_executor executor = co_await asio::this_coro::executor;
  auto start = [this, &executor, index](auto handler) {
    auto waiter = std::make_shared<Waiter<>>(executor, std::move(handler));
    state_->waiters.push_back({index, std::move(waiter)});
    state_->want_sync();
  };
  co_await asio::async_initiate<const asio::use_awaitable_t<>, void()>(start, asio::use_awaitable);
  co_return ok();
}

Task<void> Executor::sync_here() { return sync(journal_index()); }

/// There is none here: a machine that has lost its index entirely is not simulated.
std::uint64_t Executor::mirror_to(JournalMirror*) { return journal_index(); }
std::uint32_t Executor::salt() const { return 0; }

Epoch Executor::epoch() const { return state_->disk.epoch(); }
std::uint64_t Executor::journal_index() const { return state_->disk.newest(); }
std::uint64_t Executor::synced_index() const { return state_->disk.synced(); }
Result<void> Executor::health() const { return ok(); }

}  // namespace reelfs::indexd
