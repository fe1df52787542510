#pragma once

#include <chrono>
#include <unordered_map>
#include <unordered_set>

#include "common/base/clock.h"
#include "common/base/ids.h"

namespace reelfs::fuse {

/// Which files' pages the kernel would wrongly keep. It drops them where attributes that it asks for show a
/// new mtime; but the attributes in an answer to SETATTR it takes as they are, and with them the mtime that
/// another mount's change has left. Both functions tell whether the kernel is to be told to drop the pages.
/// The loop's.
class StalePages {
 public:
  explicit StalePages(const Clock& clock) : clock_(clock) {}

  /// Another mount has changed it.
  bool changed_elsewhere(InodeId inode) {
    if (changed_.size() >= kMax) any_ = true;
    if (any_) {
      changed_.clear();
    } else {
      changed_.insert(inode);
    }
    // The answer to a change of ours may have overtaken the news of theirs.
    const auto set = set_.find(inode);
    return set != set_.end() && clock_.now() - set->second < kNewsAreLate;
  }
  /// Its attributes were set here, and the kernel is about to get them.
  bool attributes_set(InodeId inode) {
    if (set_.size() >= kMaxSet) {
      std::erase_if(set_, [now = clock_.now()](const auto& one) { return now - one.second >= kNewsAreLate; });
    }
    set_[inode] = clock_.now();
    return changed_.erase(inode) > 0 || any_;
  }
  /// More has changed elsewhere than can be said.
  void anything_changed() { any_ = true; }

 private:
  static constexpr std::size_t kMax = 1u << 17;
  static constexpr std::size_t kMaxSet = 1u << 12;
  static constexpr auto kNewsAreLate = std::chrono::seconds(5);

  const Clock& clock_;
  std::unordered_set<InodeId> changed_;
  bool any_ = false;  // may have changed: each file whose attributes are set loses its pages
  std::unordered_map<InodeId, TimePoint> set_;
};

}  // namespace reelfs::fuse
