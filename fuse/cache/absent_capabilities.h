#pragma once

#include <chrono>
#include <cstdint>
#include <mutex>
#include <unordered_map>

#include "common/base/clock.h"
#include "common/base/ids.h"

namespace reelfs::fuse {

/// Inodes known to have no `security.capability`. The kernel asks for it before every write(2), so that the
/// write can drop it, and libfuse 3.14 cannot tell it that we would do that ourselves
/// (FUSE_HANDLE_KILLPRIV_V2); asking the index each time would double the cost of a write, and would stop
/// writing while no index server answers. What this mount sets is known at once, and what another sets where
/// this one holds a lease; else at the second write after that: an absence older than kValid is answered once
/// more, and asked for meanwhile. Any thread.
class AbsentCapabilities {
 public:
  explicit AbsentCapabilities(const Clock& clock) : clock_(clock) {}

  static constexpr const char* kName = "security.capability";

  enum class Known { no, yes, ask_again };

  /// @return ask_again: it was absent when last asked; whoever gets this answer is to ask the index, in the
  /// background
  Known look_up(InodeId inode) {
    const std::lock_guard lock(mutex_);
    const auto known = until_.find(inode);
    if (known == until_.end()) return Known::no;
    const auto now = clock_.now();
    if (now < known->second) return Known::yes;
    known->second = now + kValid;  // one question at a time
    return Known::ask_again;
  }

  /// To be taken before asking the index.
  std::uint64_t changes() const {
    const std::lock_guard lock(mutex_);
    return changes_;
  }
  /// The index has answered that there is none. @param changes  as before asking: an answer overtaken by
  /// forget() is ignored
  void insert(InodeId inode, std::uint64_t changes) {
    const std::lock_guard lock(mutex_);
    if (changes != changes_) return;
    if (until_.size() >= kMax) until_.clear();
    until_[inode] = clock_.now() + kValid;
  }
  /// Anything may have been set.
  void clear() {
    const std::lock_guard lock(mutex_);
    ++changes_;
    until_.clear();
  }
  /// One has been set, or may have been.
  void forget(InodeId inode) {
    const std::lock_guard lock(mutex_);
    ++changes_;
    until_.erase(inode);
  }

 private:
  static constexpr std::chrono::seconds kValid{1};
  static constexpr std::size_t kMax = 1u << 16;

  const Clock& clock_;
  mutable std::mutex mutex_;
  std::unordered_map<InodeId, TimePoint> until_;  // guarded by mutex_
  std::uint64_t changes_ = 0;                     // guarded by mutex_
};

}  // namespace reelfs::fuse
