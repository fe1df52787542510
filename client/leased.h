#pragma once

#include <cstddef>
#include <string>
#include <unordered_set>

#include "client/filesystem.h"
#include "common/base/clock.h"
#include "common/base/ids.h"

namespace reelfs::client {

/// What was answered with a lease not longer than a lease ago: what to forget where the index can no longer
/// say what has changed. Two generations, as in indexd's Leases. The loop's.
class Leased {
 public:
  explicit Leased(const Clock& clock) : clock_(clock) {}

  void note(InodeId inode);
  void note(InodeId directory, const std::string& name);
  /// `everything` is set where it is more than can be remembered.
  Change all() const;
  /// All of it has been forgotten.
  void clear();

 private:
  struct Generation {
    std::unordered_set<InodeId> inodes;
    std::unordered_set<std::string> names;  // the directory's number, a slash, the name
    bool full = false;
  };
  void turn();

  static constexpr std::size_t kMax = 1u << 16;

  const Clock& clock_;
  TimePoint turned_;
  Generation young_;
  Generation old_;
};

}  // namespace reelfs::client
