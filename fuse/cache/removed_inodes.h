#pragma once

#include <atomic>
#include <mutex>
#include <unordered_set>
#include <utility>
#include <vector>

#include "common/base/ids.h"

namespace reelfs::fuse {

/// Inodes that lost their last name through this mount, for as long as the kernel may know them: somebody
/// works in a removed directory, holds a removed fifo open, has a removed file by O_PATH, or was on the way
/// to open a name when it was taken away, and goes on as on a local disk. Until the kernel knows them no more
/// the index keeps them. They are no more than the inodes that the kernel holds, each of which takes more
/// room there. Any thread.
class RemovedInodes {
 public:
  /// To be called before the kernel is told that the last name has gone.
  void note(InodeId inode) {
    const std::lock_guard lock(mutex_);
    if (!removed_.insert(inode).second) return;
    unasked_.push_back(inode);
    count_ = removed_.size();
  }

  bool contains(InodeId inode) const {
    if (count_ == 0) return false;  // the usual case, and the kernel forgets by the thousand
    const std::lock_guard lock(mutex_);
    return removed_.contains(inode);
  }

  void forget(InodeId inode) {
    const std::lock_guard lock(mutex_);
    removed_.erase(inode);
    count_ = removed_.size();
  }

  /// Those noted since this was called last, where they are still here.
  std::vector<InodeId> take_unasked() {
    const std::lock_guard lock(mutex_);
    auto some = std::exchange(unasked_, {});
    std::erase_if(some, [this](InodeId inode) { return !removed_.contains(inode); });
    return some;
  }

 private:
  mutable std::mutex mutex_;
  std::unordered_set<InodeId> removed_;  // guarded by mutex_
  std::vector<InodeId> unasked_;         // guarded by mutex_
  std::atomic<std::size_t> count_ = 0;   // of removed_
};

}  // namespace reelfs::fuse
