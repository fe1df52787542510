#pragma once

#include <chrono>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <utility>

#include "common/async/timeout.h"
#include "noded/device/device_access.h"

namespace reelfs::noded {

/// What a test makes of device files, from now on and until it changes its mind.
struct FileHooks {
  std::filesystem::path only;  // of this device; empty: of all
  std::function<void()> before_write;
  std::function<void()> before_sync;  // on a thread of the device, where a flush is due
  bool fail_syncs = false;
  bool fail_writes = false;
  bool fail_reads = false;
  bool hang = false;  // no call ends while it is set
  bool hang_discards = false;
  bool hang_opens = false;
};

/// A device file that does as its hooks say.
class HookedFile final : public DeviceFile {
 public:
  HookedFile(std::unique_ptr<DeviceFile> file, std::filesystem::path path, const FileHooks& hooks)
      : file_(std::move(file)), path_(std::move(path)), hooks_(hooks) {}

  Task<void> read(std::uint64_t offset, std::span<std::byte> into) override {
    co_await wait_while_it_hangs();
    if (concerned() && hooks_.fail_reads) co_return Error(Errc::io, "the read was made to fail");
    co_return co_await file_->read(offset, into);
  }
  Task<void> write(std::uint64_t offset, std::span<const std::byte> from) override {
    if (hooks_.before_write) hooks_.before_write();
    co_await wait_while_it_hangs();
    if (concerned() && hooks_.fail_writes) co_return Error(Errc::io, "the write was made to fail");
    co_return co_await file_->write(offset, from);
  }
  Task<void> sync() override {
    co_await wait_while_it_hangs();
    if (concerned() && hooks_.fail_syncs) co_return Error(Errc::io, "the flush was made to fail");
    co_return co_await file_->sync();
  }
  Task<void> sync_by(std::function<Result<void>(const BlockingSync&)> work) override {
    co_await wait_while_it_hangs();
    auto hooked = [this, work = std::move(work)](const BlockingSync& sync) {
      return work([&]() -> Result<void> {
        if (concerned() && hooks_.before_sync) hooks_.before_sync();
        if (concerned() && hooks_.fail_syncs) return Error(Errc::io, "the flush was made to fail");
        return sync();
      });
    };
    co_return co_await file_->sync_by(std::move(hooked));
  }
  std::optional<bool> in_use_by(WorkerId worker) const override { return file_->in_use_by(worker); }
  Task<void> discard(std::uint64_t offset, std::uint64_t bytes) override {
    while (hooks_.hang_discards) co_await sleep_for(std::chrono::milliseconds(1));
    co_await wait_while_it_hangs();
    co_return co_await file_->discard(offset, bytes);
  }
  std::uint64_t size() const override { return file_->size(); }

 private:
  bool concerned() const { return hooks_.only.empty() || hooks_.only == path_; }
  asio::awaitable<void> wait_while_it_hangs() {
    while (concerned() && hooks_.hang) co_await sleep_for(std::chrono::milliseconds(1));
  }

  const std::unique_ptr<DeviceFile> file_;
  const std::filesystem::path path_;
  const FileHooks& hooks_;
};

/// Real files behind hooks.
class HookedDevices final : public DeviceAccess {
 public:
  HookedDevices(std::unique_ptr<DeviceAccess> devices, const FileHooks& hooks)
      : devices_(std::move(devices)), hooks_(hooks) {}

  Task<DeviceSight> look(std::filesystem::path path) override { return devices_->look(std::move(path)); }
  Task<std::unique_ptr<DeviceFile>> open(std::filesystem::path path, Use use) override {
    while (hooks_.hang_opens) co_await sleep_for(std::chrono::milliseconds(1));
    REELFS_CO_TRY(auto file, co_await devices_->open(path, use));
    std::unique_ptr<DeviceFile> hooked = std::make_unique<HookedFile>(std::move(file), path, hooks_);
    co_return std::move(hooked);
  }

 private:
  const std::unique_ptr<DeviceAccess> devices_;
  const FileHooks& hooks_;
};

}  // namespace reelfs::noded
