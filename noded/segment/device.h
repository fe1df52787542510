#pragma once

#include <cstdint>
#include <memory>
#include <unordered_set>
#include <vector>

#include "common/async/task.h"
#include "common/async/task_group.h"
#include "common/io/disk_file.h"
#include "noded/segment/pending.h"
#include "noded/shm/device_table.h"

namespace reelfs::noded {

/// One device as a worker process uses it: its own open file, the shared table, and the writes that keep the
/// two alike. The group runs what must end whoever stops waiting for it; it is stopped before the device is
/// destroyed.
class Device {
 public:
  Device(std::unique_ptr<io::DiskFile> file, std::unique_ptr<DeviceTable> table, WorkerId worker,
         TaskGroup& group);
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;

  io::DiskFile& file() { return *file_; }
  DeviceTable& table() { return *table_; }
  const DeviceTable& table() const { return *table_; }
  DeviceId id() const { return table_->device(); }

  /// Writes the table page of this block, as it is now or later. On stable storage after the next sync().
  /// @errors io
  Task<void> persist(std::uint32_t block);
  /// Writes every page that is not on the device as it is in memory.
  Task<void> persist_all();
  /// Everything written before is on stable storage when this returns. Those who wait together share one
  /// fdatasync.
  Task<void> sync();
  /// A sync failed while the segment was open. What it holds may never come to stable storage, whatever a
  /// later fdatasync says: the kernel and the device tell of a failed flush once, and may drop the bytes.
  bool doubtful(SegmentId segment) const { return doubtful_.contains(segment); }

 private:
  class PageGuard;
  Task<void> write_page(std::uint32_t page);
  asio::awaitable<void> run_write_page(std::uint32_t page, Answer<void> answer);
  asio::awaitable<void> run_syncs();
  void doubt_open_segments();

  const std::unique_ptr<io::DiskFile> file_;
  const std::unique_ptr<DeviceTable> table_;
  const WorkerId worker_;
  TaskGroup& group_;
  std::vector<Answer<void>> sync_waiters_;  // for the next fdatasync
  bool syncing_ = false;
  std::unordered_set<SegmentId> doubtful_;  // grows by the open blocks when a sync fails
};

}  // namespace reelfs::noded
