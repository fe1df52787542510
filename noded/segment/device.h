#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "common/async/task.h"
#include "common/async/task_group.h"
#include "common/base/buffer.h"
#include "common/base/clock.h"
#include "common/io/disk_file.h"
#include "noded/device/device_access.h"
#include "noded/segment/pending.h"
#include "noded/segment/shared_flush.h"
#include "noded/shm/device_table.h"

namespace reelfs::noded {

/// One device as a worker process uses it: its own open file, the shared table, and the writes that keep the
/// two alike.
///
/// An I/O error, or a call that does not end in time, takes the device out of service for the whole node; who
/// waits for it is answered at once. What is called then still has the memory that it was given, and the
/// device: both are held by the coroutines, which the group runs, and go when the last call has ended.
class Device : public std::enable_shared_from_this<Device> {
 public:
  struct Options {
    WorkerId worker;
    Duration call_limit = std::chrono::seconds(3);  // of one read, write or sync
    std::size_t calls_at_once = 8;                  // as many as the device has threads
  };
  Device(std::unique_ptr<DeviceFile> file, std::unique_ptr<DeviceTable> table, const Clock& clock,
         Options options, TaskGroup& group);
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;

  DeviceTable& table() { return *table_; }
  const DeviceTable& table() const { return *table_; }
  DeviceId id() const { return table_->device(); }
  /// See DeviceFile.
  std::optional<bool> in_use_by(WorkerId worker) const { return file_->in_use_by(worker); }
  /// Calls under way and waiting in this process.
  std::size_t queue_depth() const { return running_.size() + waiting_.size() + waiting_advice_.size(); }

  /// @errors io: it does not serve, and why
  Result<void> usable() const;
  /// Takes it out of service, here and in every process. Only the first verdict is logged.
  void retire(DeviceHealth health, const std::string& reason);
  /// Answers who waits where another process took it out of service; takes it out where a call takes too
  /// long.
  /// @param slept  this process was not running for a while: no call's age means anything
  void look_after(bool slept);

  /// Fills `into` from `begin` on. @errors io
  Task<void> read(std::uint64_t offset, std::shared_ptr<Buffer> into, std::size_t begin = 0);
  /// The same for who can do without the bytes: an I/O error, of a sector that cannot be read say, is an
  /// answer and does not take the device out of service. One that hangs does. @errors io
  Task<void> try_read(std::uint64_t offset, std::shared_ptr<Buffer> into, std::size_t begin = 0);
  Task<void> write(std::uint64_t offset, std::shared_ptr<const Buffer> from);
  Task<void> discard(std::uint64_t offset, std::uint64_t bytes);
  /// The device as a file whose calls end when it is taken out of service; it outlives its calls.
  std::unique_ptr<io::DiskFile> as_file();

  /// Writes the table page of this block, as it is now or later. On stable storage after the next sync().
  /// @errors io
  Task<void> persist(std::uint32_t block);
  /// Writes every page that is not on the device as it is in memory.
  Task<void> persist_all();
  /// Everything written before is on stable storage when this returns. Those who wait together, in this
  /// process and in others of the node, share one fdatasync.
  Task<void> sync();

 private:
  class PageGuard;
  class AsFile;
  class Running;
  struct Call;
  using CallPtr = std::shared_ptr<Call>;

  Task<void> submit(std::shared_ptr<Call> call);
  void start_calls();
  void finish(const CallPtr& call, Result<void> result);
  void give_up(const Error& why);
  asio::awaitable<void> carry_out(Running running);
  Task<void> write_page(std::uint32_t page);
  asio::awaitable<void> run_write_page(std::shared_ptr<Device> self, std::uint32_t page, Answer<void> answer);
  asio::awaitable<void> run_syncs(std::shared_ptr<Device> self);
  CallPtr new_sync();
  CallPtr new_read(std::uint64_t offset, std::shared_ptr<Buffer> into, std::size_t begin);
  void log_out_of_service() const;

  const std::unique_ptr<DeviceFile> file_;
  const std::unique_ptr<DeviceTable> table_;
  const Clock& clock_;
  const Options options_;
  TaskGroup& group_;
  std::set<CallPtr> running_;
  std::deque<CallPtr> waiting_;
  std::deque<CallPtr> waiting_advice_;
  std::size_t running_advice_ = 0;
  SharedFlush flush_;
  std::vector<Answer<void>> sync_waiters_;  // for the next fdatasync
  bool syncing_ = false;
  bool given_up_ = false;
};

using DevicePtr = std::shared_ptr<Device>;

}  // namespace reelfs::noded
