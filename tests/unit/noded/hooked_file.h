#pragma once

#include <functional>
#include <memory>
#include <utility>

#include "common/io/disk_file.h"

namespace reelfs::noded {

/// What a test makes of the device files that are opened from now on.
struct FileHooks {
  std::function<void()> before_write;
  bool fail_syncs = false;
};

/// A device file that does as its hooks say.
class HookedFile final : public io::DiskFile {
 public:
  HookedFile(std::unique_ptr<io::DiskFile> file, const FileHooks& hooks)
      : file_(std::move(file)), hooks_(hooks) {}

  Task<void> read(std::uint64_t offset, std::span<std::byte> into) override {
    return file_->read(offset, into);
  }
  Task<void> write(std::uint64_t offset, std::span<const std::byte> from) override {
    if (hooks_.before_write) hooks_.before_write();
    return file_->write(offset, from);
  }
  Task<void> sync() override {
    if (hooks_.fail_syncs) co_return Error(Errc::io, "the flush was made to fail");
    co_return co_await file_->sync();
  }
  Task<void> discard(std::uint64_t offset, std::uint64_t bytes) override {
    return file_->discard(offset, bytes);
  }
  std::uint64_t size() const override { return file_->size(); }

 private:
  const std::unique_ptr<io::DiskFile> file_;
  const FileHooks& hooks_;
};

}  // namespace reelfs::noded
