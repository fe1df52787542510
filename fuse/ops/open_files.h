#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <utility>

#include "client/filesystem.h"
#include "fuse/session/fuse_api.h"

namespace reelfs::fuse {

/// An open file, as the kernel's file handle refers to it.
struct OpenFile {
  std::shared_ptr<client::FileHandle> handle;

  /// Valid while the kernel has not released it, so for the time of each call that names it.
  static OpenFile& of(const fuse_file_info& info) { return *reinterpret_cast<OpenFile*>(info.fh); }
};

/// All of them. Any thread; but handles are made and destroyed on the loop.
class OpenFiles {
 public:
  /// @return the number for fuse_file_info::fh
  std::uint64_t add(std::shared_ptr<client::FileHandle> handle) {
    auto file = std::make_unique<OpenFile>();
    file->handle = std::move(handle);
    const auto number = reinterpret_cast<std::uint64_t>(file.get());
    const std::lock_guard lock(mutex_);
    files_.emplace(number, std::move(file));
    return number;
  }

  std::shared_ptr<client::FileHandle> take(std::uint64_t number) {
    const std::lock_guard lock(mutex_);
    auto file = files_.extract(number);
    if (file.empty()) return nullptr;
    return std::move(file.mapped()->handle);
  }

  /// After an unmount that released nothing.
  void clear() {
    const std::lock_guard lock(mutex_);
    files_.clear();
  }

 private:
  std::mutex mutex_;
  std::unordered_map<std::uint64_t, std::unique_ptr<OpenFile>> files_;  // guarded by mutex_
};

}  // namespace reelfs::fuse
