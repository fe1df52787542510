#include "fuse/ops/convert.h"

#include <limits>

#include "common/base/units.h"
#include "fuse/ops/mount.h"

namespace reelfs::fuse {
namespace {

constexpr std::int64_t kSecond = 1'000'000'000;
/// st_blksize: what cp, cat and stdio read and write at a time.
constexpr blksize_t kPreferredIoBytes = 128 * kKiB;
constexpr std::uint64_t kStatBlockBytes = 512;  // of st_blocks, whatever st_blksize is

timespec to_timespec(std::int64_t ns) {
  timespec time{};
  const bool is_behind = ns % kSecond < 0;
  time.tv_sec = ns / kSecond - (is_behind ? 1 : 0);
  time.tv_nsec = ns % kSecond + (is_behind ? kSecond : 0);
  return time;
}

/// The index counts nanoseconds: what lies before 1677 or after 2262 becomes the end of that range, as other
/// filesystems do with theirs.
std::int64_t to_ns(const timespec& time) {
  std::int64_t ns = 0;
  if (__builtin_mul_overflow(std::int64_t{time.tv_sec}, kSecond, &ns) ||
      __builtin_add_overflow(ns, std::int64_t{time.tv_nsec}, &ns)) {
    return time.tv_sec < 0 ? std::numeric_limits<std::int64_t>::min()
                           : std::numeric_limits<std::int64_t>::max();
  }
  return ns;
}

}  // namespace

struct stat to_stat(const client::Attributes& attributes) {
  struct stat result {};
  result.st_ino = attributes.inode.value;
  result.st_mode = attributes.mode;
  result.st_nlink = attributes.nlink;
  result.st_uid = attributes.uid;
  result.st_gid = attributes.gid;
  result.st_rdev = attributes.rdev;
  result.st_size = static_cast<off_t>(attributes.size);
  result.st_blksize = kPreferredIoBytes;
  result.st_blocks = static_cast<blkcnt_t>((attributes.stored_bytes + kStatBlockBytes - 1) / kStatBlockBytes);
  result.st_atim = to_timespec(attributes.atime_ns);
  result.st_mtim = to_timespec(attributes.mtime_ns);
  result.st_ctim = to_timespec(attributes.ctime_ns);
  return result;
}

timespec birth(const client::Attributes& attributes) { return to_timespec(attributes.btime_ns); }

fuse_entry_param to_entry(const NodeIds& nodes, const client::Attributes& attributes,
                          std::chrono::milliseconds lease) {
  fuse_entry_param entry{};
  entry.ino = nodes.node(attributes.inode);
  entry.generation = attributes.generation;
  entry.attr = to_stat(attributes);
  entry.attr_timeout = to_seconds(attributes.lease);
  entry.entry_timeout = to_seconds(lease);
  return entry;
}

client::AttributeChanges to_changes(const struct stat& wanted, int to_set) {
  constexpr mode_t kPermissionBits = 07777;
  client::AttributeChanges changes;
  if (to_set & FUSE_SET_ATTR_MODE) changes.mode = wanted.st_mode & kPermissionBits;
  if (to_set & FUSE_SET_ATTR_UID) changes.uid = wanted.st_uid;
  if (to_set & FUSE_SET_ATTR_GID) changes.gid = wanted.st_gid;
  if (to_set & FUSE_SET_ATTR_SIZE) changes.size = static_cast<std::uint64_t>(wanted.st_size);
  if (to_set & FUSE_SET_ATTR_ATIME_NOW) {
    changes.atime_now = true;
  } else if (to_set & FUSE_SET_ATTR_ATIME) {
    changes.atime_ns = to_ns(wanted.st_atim);
  }
  if (to_set & FUSE_SET_ATTR_MTIME_NOW) {
    changes.mtime_now = true;
  } else if (to_set & FUSE_SET_ATTR_MTIME) {
    changes.mtime_ns = to_ns(wanted.st_mtim);
  }
  if (to_set & FUSE_SET_ATTR_CTIME) changes.ctime_ns = to_ns(wanted.st_ctim);
  changes.clear_suid = (to_set & (FUSE_SET_ATTR_KILL_SUID | FUSE_SET_ATTR_KILL_SGID)) != 0;
  return changes;
}

}  // namespace reelfs::fuse
