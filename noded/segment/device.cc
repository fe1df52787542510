#include "noded/segment/device.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <optional>
#include <utility>

#include <fmt/format.h>
#include <unistd.h>

#include "common/async/timeout.h"
#include "common/observe/log.h"
#include "noded/shm/crash_point.h"
#include "noded/shm/process_identity.h"

namespace reelfs::noded {
namespace {

using namespace std::chrono_literals;

// A device that hangs in them is found out by the calls for which others are left.
constexpr std::size_t kAdviceAtOnce = 2;
constexpr Duration kBusyPagePause = 1ms;   // another worker's page write takes about as long
constexpr Duration kStoppedAfter = 200ms;  // and where it does not end: whether that worker runs at all

spdlog::logger& log() {
  static auto& instance = logger("noded.device");
  return instance;
}

double seconds(Duration duration) { return std::chrono::duration<double>(duration).count(); }

}  // namespace

/// One call of the file. Its work is a coroutine that has not begun.
struct Device::Call {
  Task<void> work;
  std::shared_ptr<const void> memory;  // that the work uses
  const char* name = "";
  bool bounded = true;     // in time
  bool is_advice = false;  // its failure says nothing about the device
  bool may_fail = false;   // its caller judges that
  bool is_flush = false;   // who flushed for all judges that
  TimePoint began;         // once it runs
  std::shared_ptr<Pending<void>> pending = std::make_shared<Pending<void>>();
};

/// A call that counts as running for as long as this lives; who never ran it answers `cancelled`.
class Device::Running {
 public:
  Running(DevicePtr device, CallPtr call) : device_(std::move(device)), call_(std::move(call)) {}
  Running(Running&&) noexcept = default;
  Running& operator=(Running&&) = delete;
  ~Running() {
    if (device_) device_->finish(call_, std::move(outcome_));
  }
  Call& call() { return *call_; }
  void end(Result<void> outcome) { outcome_ = std::move(outcome); }

 private:
  DevicePtr device_;
  CallPtr call_;
  Result<void> outcome_ = Error(Errc::cancelled, "the worker is stopping");
};

/// Gives a claimed page back, however the coroutine ends.
class Device::PageGuard {
 public:
  PageGuard(DeviceTable& table, std::uint32_t page, WorkerId worker, std::uint64_t changes)
      : table_(table), page_(page), worker_(worker), changes_(changes) {}
  ~PageGuard() {
    if (!released_) release(false);
  }
  PageGuard(const PageGuard&) = delete;
  PageGuard& operator=(const PageGuard&) = delete;
  /// @return as DeviceTable::release_page
  bool release(bool written) {
    released_ = true;
    return table_.release_page(page_, worker_, changes_, written);
  }

 private:
  DeviceTable& table_;
  const std::uint32_t page_;
  const WorkerId worker_;
  const std::uint64_t changes_;
  bool released_ = false;
};

/// Reads through memory of its own, so that its caller may go while a call hangs.
class Device::AsFile final : public io::DiskFile {
 public:
  explicit AsFile(DevicePtr device) : device_(std::move(device)) {}
  Task<void> read(std::uint64_t offset, std::span<std::byte> into) override {
    auto bytes = std::make_shared<Buffer>(into.size());
    REELFS_CO_TRY(co_await device_->read(offset, bytes));
    std::memcpy(into.data(), bytes->data(), into.size());
    co_return ok();
  }
  Task<void> write(std::uint64_t offset, std::span<const std::byte> from) override {
    auto bytes = std::make_shared<Buffer>(from.size());
    std::memcpy(bytes->data(), from.data(), from.size());
    co_return co_await device_->write(offset, std::move(bytes));
  }
  Task<void> sync() override { return device_->sync(); }
  Task<void> discard(std::uint64_t offset, std::uint64_t bytes) override {
    return device_->discard(offset, bytes);
  }
  std::uint64_t size() const override { return device_->file_->size(); }

 private:
  const DevicePtr device_;
};

Device::Device(std::unique_ptr<DeviceFile> file, std::unique_ptr<DeviceTable> table, const Clock& clock,
               Options options, TaskGroup& group)
    : file_(std::move(file)),
      table_(std::move(table)),
      clock_(clock),
      options_(options),
      group_(group),
      flush_(*table_, options.worker) {}

std::unique_ptr<io::DiskFile> Device::as_file() { return std::make_unique<AsFile>(shared_from_this()); }

// ---- health

Result<void> Device::usable() const {
  if (table_->serving()) return ok();
  const auto verdict = table_->verdict();
  return Error(Errc::io, fmt::format("device {} ({}) is {}: {}", id().value, table_->path(),
                                     to_string(verdict.health), verdict.reason));
}

void Device::retire(DeviceHealth health, const std::string& reason) {
  if (table_->retire(health, reason, clock_.wall().time_since_epoch().count())) log_out_of_service();
  if (const auto refused = usable(); !refused) give_up(refused.error());
}

void Device::log_out_of_service() const {
  const auto verdict = table_->verdict();
  log().error("device out of service device={} id={} state={} why=\"{}\"", table_->path(), id().value,
              to_string(verdict.health), verdict.reason);
}

void Device::give_up(const Error& why) {
  if (std::exchange(given_up_, true)) return;
  const auto waiting = std::exchange(waiting_, {});
  const auto advice = std::exchange(waiting_advice_, {});
  const std::vector<CallPtr> running(running_.begin(), running_.end());
  for (const auto& call : running) call->pending->answer(why);
  for (const auto& call : waiting) call->pending->answer(why);
  for (const auto& call : advice) call->pending->answer(why);
  auto syncs = std::exchange(sync_waiters_, {});
  for (auto& waiter : syncs) waiter.give(why);
}

void Device::look_after(bool slept) {
  if (given_up_) return;
  if (const auto refused = usable(); !refused) {
    log().warn("device given up, as another process found device={} why=\"{}\"", table_->path(),
               refused.error().message());
    return give_up(refused.error());
  }
  const auto now = clock_.now();
  for (const auto& call : running_) {
    if (slept) call->began = now;
    if (!call->bounded || now - call->began <= options_.call_limit) continue;
    return retire(DeviceHealth::stuck,
                  fmt::format("{} has not ended in {:.1f} s", call->name, seconds(options_.call_limit)));
  }
}

// ---- calls

Task<void> Device::submit(CallPtr call) {
  auto pending = call->pending;
  if (auto refused = usable(); !refused) {
    pending->answer(std::move(refused));
  } else {
    (call->is_advice ? waiting_advice_ : waiting_).push_back(std::move(call));
    start_calls();
  }
  return Pending<void>::wait(std::move(pending));
}

void Device::start_calls() {
  while (running_.size() < options_.calls_at_once) {
    const bool advice = running_advice_ < kAdviceAtOnce && !waiting_advice_.empty();
    auto& queue = advice ? waiting_advice_ : waiting_;
    if (queue.empty()) return;
    auto call = std::move(queue.front());
    queue.pop_front();
    if (advice) ++running_advice_;
    call->began = clock_.now();
    running_.insert(call);
    group_.spawn(carry_out(Running(shared_from_this(), std::move(call))));
  }
}

asio::awaitable<void> Device::carry_out(Running running) {
  auto work = std::move(running.call().work);
  auto outcome = co_await std::move(work);
  running.end(std::move(outcome));
}

void Device::finish(const CallPtr& call, Result<void> result) {
  running_.erase(call);
  if (call->is_advice) --running_advice_;
  // Space was set aside for every block: a device that has none left does not keep its word.
  const bool broken =
      !result && (result.error().code() == Errc::io || result.error().code() == Errc::no_space);
  const bool device_failed = broken && !call->is_advice && !call->may_fail;
  if (flush_.found_failure()) log_out_of_service();
  // A flush also fails where the device went out of service meanwhile: that it hung does not become a failure
  // by it.
  if (device_failed && (!call->is_flush || table_->serving())) {
    retire(DeviceHealth::failed, result.error().message());
  } else if (auto refused = usable(); !refused) {
    give_up(refused.error());
  }
  call->pending->answer(std::move(result));
  start_calls();
}

Device::CallPtr Device::new_read(std::uint64_t offset, std::shared_ptr<Buffer> into, std::size_t begin) {
  auto call = std::make_shared<Call>();
  call->work = file_->read(offset, into->span().subspan(begin));
  call->memory = std::move(into);
  call->name = "a read";
  return call;
}

Task<void> Device::read(std::uint64_t offset, std::shared_ptr<Buffer> into, std::size_t begin) {
  return submit(new_read(offset, std::move(into), begin));
}

Task<void> Device::try_read(std::uint64_t offset, std::shared_ptr<Buffer> into, std::size_t begin) {
  auto call = new_read(offset, std::move(into), begin);
  call->may_fail = true;
  return submit(std::move(call));
}

Task<void> Device::write(std::uint64_t offset, std::shared_ptr<const Buffer> from) {
  auto call = std::make_shared<Call>();
  call->work = file_->write(offset, from->span());
  call->memory = std::move(from);
  call->name = "a write";
  return submit(std::move(call));
}

Task<void> Device::discard(std::uint64_t offset, std::uint64_t bytes) {
  auto call = std::make_shared<Call>();
  call->work = file_->discard(offset, bytes);
  call->name = "a discard";
  call->bounded = false;  // a large one takes its time on many devices
  call->is_advice = true;
  return submit(std::move(call));
}

// ---- the table on disk

Task<void> Device::persist(std::uint32_t block) { return write_page(DeviceTable::page_of(block)); }

Task<void> Device::persist_all() {
  const auto pages = table_->dirty_pages();
  for (const auto page : pages) {
    REELFS_CO_TRY(co_await write_page(page));
  }
  co_return ok();
}

Task<void> Device::write_page(std::uint32_t page) {
  auto pending = std::make_shared<Pending<void>>();
  group_.spawn(run_write_page(shared_from_this(), page, Answer<void>(pending)));
  return Pending<void>::wait(std::move(pending));
}

asio::awaitable<void> Device::run_write_page(std::shared_ptr<Device> self, std::uint32_t page,
                                             Answer<void> answer) {
  auto wanted = table_->page_changes(page);
  auto copy = std::make_shared<Buffer>(kPageBytes);
  DeviceTable::PageWriter writer;
  writer.worker = options_.worker;
  writer.pid = static_cast<std::uint32_t>(getpid());
  auto look_at = clock_.now() + kStoppedAfter;
  for (;;) {
    // A process that hangs in a write of a failed device keeps its claim.
    if (auto refused = self->usable(); !refused) {
      answer.give(std::move(refused));
      co_return;
    }
    const auto claimed = table_->claim_page(page, writer, wanted, copy->span());
    if (claimed.claim == DeviceTable::PageClaim::written) {
      answer.give(ok());
      co_return;
    }
    if (claimed.claim == DeviceTable::PageClaim::busy) {
      // A process that was stopped in the middle would keep everybody waiting until it is continued.
      writer.instead_of = WorkerId();
      if (const auto now = clock_.now(); now >= look_at) {
        look_at = now + kStoppedAfter;
        if (is_stopped(claimed.writer_pid)) writer.instead_of = claimed.writer;
      }
      if (!writer.instead_of) co_await sleep_for(kBusyPagePause);
      continue;
    }
    PageGuard guard(*table_, page, options_.worker, claimed.changes);
    crash_point("page.copied");
    auto written = co_await write(table_->geometry().table_offset + page * kPageBytes, copy);
    crash_point("page.on_disk");
    if (guard.release(written.has_value()) && written) {
      wanted = table_->page_changes(page);
      continue;
    }
    answer.give(std::move(written));
    co_return;
  }
}

Task<void> Device::sync() {
  auto pending = std::make_shared<Pending<void>>();
  if (auto refused = usable(); !refused) {
    pending->answer(std::move(refused));
    return Pending<void>::wait(std::move(pending));
  }
  sync_waiters_.emplace_back(pending);
  if (!syncing_) {
    syncing_ = true;
    group_.spawn(run_syncs(shared_from_this()));
  }
  return Pending<void>::wait(std::move(pending));
}

Device::CallPtr Device::new_sync() {
  const auto now_ns = clock_.wall().time_since_epoch().count();
  auto call = std::make_shared<Call>();
  call->work = file_->sync_by(
      [this, now_ns](const DeviceFile::BlockingSync& sync) { return flush_.run(sync, now_ns); });
  call->name = "a sync";
  call->is_flush = true;
  return call;
}

asio::awaitable<void> Device::run_syncs(std::shared_ptr<Device> self) {
  while (!sync_waiters_.empty()) {
    auto served = std::exchange(sync_waiters_, {});
    const auto synced = co_await submit(new_sync());
    for (auto& waiter : served) waiter.give(synced);
  }
  self->syncing_ = false;
}

}  // namespace reelfs::noded
