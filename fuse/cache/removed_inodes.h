#pragma once

#include <atomic>
#include <mutex>
#include <optional>
#include <unordered_map>

#include "client/attributes.h"
#include "common/base/clock.h"
#include "common/base/ids.h"
#include "common/base/units.h"

namespace reelfs::fuse {

/// Inodes that lost their last name through this mount, for as long as the kernel knows them. Whoever works
/// in a removed directory, holds a removed fifo or socket open or has a removed file by O_PATH goes on to see
/// attributes, as on a local disk, though the index has forgotten the inode: of what the kernel alone has
/// open it was never told. Any thread.
class RemovedInodes {
 public:
  explicit RemovedInodes(const Clock& clock) : clock_(clock) {}

  /// To be called before the kernel is told that the name has gone. @param told  after that; ignored where
  /// names are left
  void note(const client::Attributes& told) {
    if (told.nlink > 0) return;
    const std::lock_guard lock(mutex_);
    if (removed_.size() >= kMax) removed_.clear();
    removed_.insert_or_assign(told.inode, told).first->second.lease = {};
    count_ = removed_.size();
  }

  std::optional<client::Attributes> find(InodeId inode) const {
    const std::lock_guard lock(mutex_);
    const auto found = removed_.find(inode);
    if (found == removed_.end()) return std::nullopt;
    return found->second;
  }

  /// @return with the changes made; nullopt: not known here
  std::optional<client::Attributes> change(InodeId inode, const client::AttributeChanges& changes) {
    const std::lock_guard lock(mutex_);
    const auto found = removed_.find(inode);
    if (found == removed_.end()) return std::nullopt;
    auto& now_is = found->second;
    const auto now = clock_.wall().time_since_epoch().count();
    if (changes.mode) now_is.mode = (now_is.mode & ~kPermissions) | (*changes.mode & kPermissions);
    now_is.uid = changes.uid.value_or(now_is.uid);
    now_is.gid = changes.gid.value_or(now_is.gid);
    now_is.atime_ns = changes.atime_now ? now : changes.atime_ns.value_or(now_is.atime_ns);
    now_is.mtime_ns = changes.mtime_now ? now : changes.mtime_ns.value_or(now_is.mtime_ns);
    now_is.ctime_ns = changes.ctime_ns.value_or(now);
    return now_is;
  }

  /// The kernel knows it no more.
  void forget(InodeId inode) {
    if (count_ == 0) return;  // the usual case, and the kernel forgets by the thousand
    const std::lock_guard lock(mutex_);
    removed_.erase(inode);
    count_ = removed_.size();
  }

 private:
  static constexpr std::uint32_t kPermissions = 07777;
  /// Of those that nobody holds the kernel lets go at once; the rest is what is open somewhere.
  static constexpr std::size_t kMax = 64 * kKiB;

  const Clock& clock_;
  mutable std::mutex mutex_;
  std::unordered_map<InodeId, client::Attributes> removed_;  // guarded by mutex_
  std::atomic<std::size_t> count_ = 0;                       // of removed_
};

}  // namespace reelfs::fuse
