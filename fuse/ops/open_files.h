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
  enum class Access { read_only, writable };

  /// @return the number for fuse_file_info::fh, which tells the access, too
  std::uint64_t add(Handle handle, Access access) {
    const std::lock_guard lock(mutex_);
    const auto number = ++last_ | (access == Access::read_only ? kReadOnly : 0);
    files_.emplace(number, std::move(handle));
    return number;
  }
  static bool is_writable(std::uint64_t number) { return (number & kReadOnly) == 0; }
  /// A number that the kernel has from another process.
  void adopt(std::uint64_t number, Handle handle) {
    const std::lock_guard lock(mutex_);
    last_ = std::max(last_, number & ~kReadOnly);
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
  static constexpr std::uint64_t kReadOnly = 1ULL << 63;

  mutable std::shared_mutex mutex_;
  std::unordered_map<std::uint64_t, Handle> files_;  // guarded by mutex_
  std::uint64_t last_ = 0;                           // guarded by mutex_
};

}  // namespace reelfs::fuse
