#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <mutex>
#include <shared_mutex>
#include <unordered_map>
#include <utility>
#include <vector>

#include "client/filesystem.h"
#include "common/base/assert.h"

namespace reelfs::fuse {

/// The open files, by the numbers that the kernel has for them. Any thread; but handles are made and
/// destroyed on the loop.
class OpenFiles {
 public:
  using Handle = std::shared_ptr<client::FileHandle>;

  /// @return the number for fuse_file_info::fh
  std::uint64_t add(Handle handle) {
    const std::lock_guard lock(mutex_);
    files_.emplace(++last_, std::move(handle));
    return last_;
  }
  /// A number that the kernel has from another process.
  void adopt(std::uint64_t number, Handle handle) {
    const std::lock_guard lock(mutex_);
    last_ = std::max(last_, number);
    files_.emplace(number, std::move(handle));
  }

  /// @pre the kernel has not released it
  Handle find(std::uint64_t number) const {
    const std::shared_lock lock(mutex_);
    const auto found = files_.find(number);
    REELFS_ASSERT(found != files_.end());
    return found->second;
  }

  Handle take(std::uint64_t number) {
    const std::lock_guard lock(mutex_);
    auto file = files_.extract(number);
    return file.empty() ? nullptr : std::move(file.mapped());
  }

  std::vector<std::pair<std::uint64_t, Handle>> all() const {
    const std::shared_lock lock(mutex_);
    return {files_.begin(), files_.end()};
  }

  /// After an unmount that released nothing.
  void clear() {
    const std::lock_guard lock(mutex_);
    files_.clear();
  }

 private:
  mutable std::shared_mutex mutex_;
  std::unordered_map<std::uint64_t, Handle> files_;  // guarded by mutex_
  std::uint64_t last_ = 0;                           // guarded by mutex_
};

}  // namespace reelfs::fuse
