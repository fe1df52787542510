#pragma once

#include <chrono>
#include <cstdint>
#include <limits>
#include <optional>

#include "common/base/clock.h"
#include "common/base/ids.h"

namespace reelfs::client {

/// No file reaches beyond it.
inline constexpr std::uint64_t kMaxFileBytes = std::numeric_limits<std::int64_t>::max();

/// `version` of an inode that has not changed since it was made.
inline constexpr std::uint64_t kFirstVersion = 1;

/// Attributes::flags: there is such an extended attribute (system.posix_acl_…).
inline constexpr std::uint32_t kHasAccessAcl = 1;
inline constexpr std::uint32_t kHasDefaultAcl = 2;

/// What stat(2) tells of an inode, and what the store adds. Times are nanoseconds since 1970.
struct Attributes {
  InodeId inode;
  std::uint64_t generation = 0;
  std::uint32_t mode = 0;  // S_IFMT and permissions
  std::uint32_t uid = 0;
  std::uint32_t gid = 0;
  std::uint32_t nlink = 0;
  std::uint64_t rdev = 0;
  std::uint64_t size = 0;
  std::uint64_t stored_bytes = 0;
  std::int64_t atime_ns = 0;
  std::int64_t mtime_ns = 0;
  std::int64_t ctime_ns = 0;
  std::int64_t btime_ns = 0;
  InodeId channel;
  InodeId parent;             // directories only
  std::uint64_t version = 0;  // kFirstVersion when made, grows with every change of data or attributes
  std::uint32_t flags = 0;    // kHas…
  /// They may be believed this long from when they are answered, see FileSystem::on_change.
  std::chrono::milliseconds lease{0};
};

/// What setattr changes; what is absent stays.
struct AttributeChanges {
  std::optional<std::uint32_t> mode;  // permission bits
  std::optional<std::uint32_t> uid;
  std::optional<std::uint32_t> gid;
  std::optional<std::uint64_t> size;
  std::optional<std::int64_t> atime_ns;
  std::optional<std::int64_t> mtime_ns;
  std::optional<std::int64_t> ctime_ns;
  bool atime_now = false;
  bool mtime_now = false;
  bool clear_suid = false;
};

}  // namespace reelfs::client
