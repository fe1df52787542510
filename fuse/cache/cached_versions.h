#pragma once

#include <cstdint>
#include <unordered_map>

#include "common/base/ids.h"

namespace reelfs::fuse {

/// Whether the pages the kernel holds of a file are still good when it is opened again: they are where
/// nothing has changed the file since it was opened last in this mount. A version grows with every change by
/// any mount, and the pages were read at that version or later; so pages older than the version remembered
/// cannot exist, and an equal version means none newer. The loop's.
class CachedVersions {
 public:
  /// Notes that `inode` is being opened at `version`. @return the kernel may keep its pages
  bool keep(InodeId inode, std::uint64_t version) {
    if (versions_.size() >= kMax) versions_.clear();
    const auto [known, is_new] = versions_.try_emplace(inode, version);
    const bool same = !is_new && known->second == version;
    known->second = version;
    return same;
  }

  /// Names remembered; beyond it all are forgotten, which costs each a read from the nodes.
  static constexpr std::size_t kMax = 1u << 17;

 private:
  std::unordered_map<InodeId, std::uint64_t> versions_;
};

}  // namespace reelfs::fuse
