#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <mutex>
#include <optional>
#include <string_view>
#include <unordered_map>

#include "client/attributes.h"
#include "common/base/clock.h"
#include "common/base/ids.h"

namespace reelfs::fuse {

/// Which access control lists inodes have, as their attributes tell. After a look-up the kernel asks for the
/// list of each directory on the path that is not the caller's own; nearly always there is none, and the
/// index has just said so. It remembers the answer, but not of the mount's root, which it makes before it
/// knows that there are lists: of that it asks each time. Any thread.
class KnownAcls {
 public:
  explicit KnownAcls(const Clock& clock) : clock_(clock) {}

  void note(const client::Attributes& told) {
    const Known known{told.version, told.flags, clock_.now() + std::max(kValid, told.lease)};
    const std::lock_guard lock(mutex_);
    if (known_.size() >= kMax) known_.clear();
    auto& held = known_.try_emplace(told.inode, known).first->second;
    if (told.version > held.version) held = known;
    if (told.version == held.version) held.until = std::max(held.until, known.until);
  }

  static bool is_list(std::string_view name) { return flag_of(name) != 0; }

  /// Whether the inode has the list of that name; none: not known, or no list's name.
  std::optional<bool> has(InodeId inode, std::string_view name) const {
    const auto flag = flag_of(name);
    if (flag == 0) return std::nullopt;
    const std::lock_guard lock(mutex_);
    const auto known = known_.find(inode);
    if (known == known_.end() || clock_.now() > known->second.until) return std::nullopt;
    return (known->second.flags & flag) != 0;
  }

  /// Anything may have changed.
  void clear() {
    const std::lock_guard lock(mutex_);
    known_.clear();
  }
  /// One has been set or removed, or may have been.
  void forget(InodeId inode) {
    const std::lock_guard lock(mutex_);
    known_.erase(inode);
  }

 private:
  static std::uint32_t flag_of(std::string_view name) {
    if (name == "system.posix_acl_access") return client::kHasAccessAcl;
    return name == "system.posix_acl_default" ? client::kHasDefaultAcl : 0;
  }
  struct Known {
    std::uint64_t version = 0;
    std::uint32_t flags = 0;
    TimePoint until;
  };
  /// What another mount changes is to be seen by then, also without a lease.
  static constexpr std::chrono::milliseconds kValid{100};
  static constexpr std::size_t kMax = 1u << 16;

  const Clock& clock_;
  mutable std::mutex mutex_;
  std::unordered_map<InodeId, Known> known_;  // guarded by mutex_
};

}  // namespace reelfs::fuse
