#include "noded/segment/device.h"

#include <algorithm>
#include <array>
#include <chrono>

#include "common/async/timeout.h"
#include "common/base/buffer.h"
#include "noded/shm/crash_point.h"

namespace reelfs::noded {
namespace {

using namespace std::chrono_literals;

constexpr Duration kBusyPagePause = 1ms;  // another worker's page write takes about as long

}  // namespace

/// Gives a claimed page back, however the coroutine ends.
class Device::PageGuard {
 public:
  PageGuard(DeviceTable& table, std::uint32_t page, WorkerId worker, std::uint64_t changes)
      : table_(table), page_(page), worker_(worker), changes_(changes) {}
  ~PageGuard() { table_.release_page(page_, worker_, changes_, written_); }
  PageGuard(const PageGuard&) = delete;
  PageGuard& operator=(const PageGuard&) = delete;
  void written() { written_ = true; }

 private:
  DeviceTable& table_;
  const std::uint32_t page_;
  const WorkerId worker_;
  const std::uint64_t changes_;
  bool written_ = false;
};

Device::Device(std::unique_ptr<io::DiskFile> file, std::unique_ptr<DeviceTable> table, WorkerId worker,
               TaskGroup& group)
    : file_(std::move(file)), table_(std::move(table)), worker_(worker), group_(group) {}

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
  group_.spawn(run_write_page(page, Answer<void>(pending)));
  return Pending<void>::wait(std::move(pending));
}

asio::awaitable<void> Device::run_write_page(std::uint32_t page, Answer<void> answer) {
  const auto wanted = table_->page_changes(page);
  Buffer copy(kPageBytes);
  for (;;) {
    const auto claimed = table_->claim_page(page, worker_, wanted, copy.span());
    if (claimed.claim == DeviceTable::PageClaim::written) {
      answer.give(ok());
      co_return;
    }
    if (claimed.claim == DeviceTable::PageClaim::busy) {
      co_await sleep_for(kBusyPagePause);
      continue;
    }
    PageGuard guard(*table_, page, worker_, claimed.changes);
    auto written = co_await file_->write(table_->geometry().table_offset + page * kPageBytes, copy.span());
    if (written) guard.written();
    crash_point("page.on_disk");
    answer.give(std::move(written));
    co_return;
  }
}

Task<void> Device::sync() {
  auto pending = std::make_shared<Pending<void>>();
  sync_waiters_.emplace_back(pending);
  if (!syncing_) {
    syncing_ = true;
    group_.spawn(run_syncs());
  }
  return Pending<void>::wait(std::move(pending));
}

asio::awaitable<void> Device::run_syncs() {
  while (!sync_waiters_.empty()) {
    auto served = std::exchange(sync_waiters_, {});
    const auto synced = co_await file_->sync();
    if (!synced) doubt_open_segments();
    for (auto& waiter : served) waiter.give(synced);
  }
  syncing_ = false;
}

void Device::doubt_open_segments() {
  std::array<BlockSlot, 256> step;
  std::uint32_t first = 0;
  while (const auto count = table_->copy_slots(first, step)) {
    for (std::uint32_t i = 0; i < count; ++i) {
      const auto& descriptor = step[i].descriptor;
      if (descriptor.state == BlockState::open) doubtful_.insert(SegmentId(descriptor.segment));
    }
    first += static_cast<std::uint32_t>(count);
  }
}

}  // namespace reelfs::noded
