#pragma once

#include <compare>
#include <cstdint>
#include <vector>

#include "common/base/ids.h"
#include "common/locks/lock_ranges.h"

namespace reelfs::client {

/// The two sorts, which do not see each other: fcntl(2) and flock(2).
enum class LockKind { posix, flock };

struct LockOwner {
  InodeId inode;
  LockKind kind = LockKind::posix;
  std::uint64_t id = 0;  // unique within the mount and kind
  friend auto operator<=>(const LockOwner&, const LockOwner&) = default;
};

/// What one owner has locked in one file, as another process takes it over.
struct CarriedLocks {
  LockOwner owner;
  std::vector<LockRanges::Piece> pieces;
  std::vector<std::uint64_t> handles;  // through which they were taken
  bool lost = false;
};

}  // namespace reelfs::client
