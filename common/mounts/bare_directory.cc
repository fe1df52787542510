#include "common/mounts/bare_directory.h"

#include <cerrno>
#include <memory>
#include <string_view>
#include <utility>

#include <dirent.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/mount.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "common/mounts/mounts.h"

namespace reelfs {
namespace {

constexpr mode_t kOrdinaryMode = 0755;
constexpr mode_t kPermissionBits = 07777;

/// A copy of what is mounted at the parent, without what is mounted below it. (glibc has open_tree(2) from
/// 2.36 on, in a header that cannot be included together with linux/mount.h.)
int open_beneath(const std::filesystem::path& path) {
  const auto parent = path.parent_path();
  const auto tree = static_cast<int>(
      ::syscall(SYS_open_tree, AT_FDCWD, parent.c_str(), OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC));
  if (tree < 0) return -1;
  const int found = ::openat(tree, path.filename().c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  const int failed = errno;
  ::close(tree);
  errno = failed;
  return found;
}

/// Where a file system has no such flags it says so in one of several ways.
bool means_unsupported(int error) {
  return error == ENOTTY || error == EOPNOTSUPP || error == ENOSYS || error == EINVAL;
}

}  // namespace

Result<BareDirectory> BareDirectory::open(const std::filesystem::path& mountpoint) {
  const auto path = mountpoint.lexically_normal();
  if (!path.is_absolute() || !path.has_filename())
    return Error(Errc::invalid, path.string() + " is no place to mount on");
  const int descriptor = mounted_at(path)
                             ? open_beneath(path)
                             : ::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  if (descriptor < 0) return from_errno(errno, "the directory beneath " + path.string());
  return BareDirectory(descriptor);
}

BareDirectory::~BareDirectory() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

BareDirectory::BareDirectory(BareDirectory&& other) noexcept
    : descriptor_(std::exchange(other.descriptor_, -1)) {}

Result<bool> BareDirectory::empty() const {
  // Of its own: a directory's position is shared by copies of its descriptor.
  const int copy = ::openat(descriptor_, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (copy < 0) return from_errno(errno, "open");
  const std::unique_ptr<DIR, int (*)(DIR*)> listing(::fdopendir(copy), &::closedir);
  if (!listing) {
    ::close(copy);
    return from_errno(errno, "fdopendir");
  }
  while (const auto* entry = ::readdir(listing.get())) {
    const std::string_view name = entry->d_name;
    if (name != "." && name != "..") return false;
  }
  return true;
}

Result<BareDirectory::Protection> BareDirectory::protection() const {
  int flags = 0;
  if (::ioctl(descriptor_, FS_IOC_GETFLAGS, &flags) == 0) {
    if ((flags & FS_IMMUTABLE_FL) != 0) return Protection::immutable;
  } else if (!means_unsupported(errno)) {
    return from_errno(errno, "flags");
  }
  struct stat found {};
  if (::fstat(descriptor_, &found) != 0) return from_errno(errno, "stat");
  return (found.st_mode & kPermissionBits) == 0 ? Protection::mode : Protection::none;
}

Result<BareDirectory::Protection> BareDirectory::protect() {
  int flags = 0;
  if (::ioctl(descriptor_, FS_IOC_GETFLAGS, &flags) == 0) {
    flags |= FS_IMMUTABLE_FL;
    if (::ioctl(descriptor_, FS_IOC_SETFLAGS, &flags) == 0) return Protection::immutable;
  }
  if (!means_unsupported(errno)) return from_errno(errno, "making the directory immutable");
  if (::fchmod(descriptor_, 0) != 0) return from_errno(errno, "taking away the directory's permissions");
  return Protection::mode;
}

Result<void> BareDirectory::unprotect() {
  int flags = 0;
  if (::ioctl(descriptor_, FS_IOC_GETFLAGS, &flags) == 0 && (flags & FS_IMMUTABLE_FL) != 0) {
    flags &= ~FS_IMMUTABLE_FL;
    if (::ioctl(descriptor_, FS_IOC_SETFLAGS, &flags) != 0)
      return from_errno(errno, "making the directory mutable");
  }
  REELFS_TRY(const auto left, protection());
  if (left == Protection::mode && ::fchmod(descriptor_, kOrdinaryMode) != 0)
    return from_errno(errno, "giving the directory permissions");
  return ok();
}

}  // namespace reelfs
