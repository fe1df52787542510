#include "common/io/blocking_disk.h"

#include <array>
#include <cerrno>
#include <utility>

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

#include "common/base/assert.h"
#include "common/base/units.h"

namespace reelfs::io {
namespace {

bool aligned(const void* address, std::uint64_t offset, std::size_t bytes) {
  return (reinterpret_cast<std::uintptr_t>(address) | offset | bytes) % kPageBytes == 0;
}

}  // namespace

Result<BlockingDisk> BlockingDisk::open(const std::filesystem::path& path) {
  const auto what = "opening " + path.string();
  constexpr int kFlags = O_RDWR | O_CLOEXEC;
  int number = ::open(path.c_str(), kFlags | O_DIRECT);
  const bool direct = number >= 0 || errno != EINVAL;
  if (!direct) number = ::open(path.c_str(), kFlags);
  if (number < 0) return from_errno(errno, what);
  BlockingDisk disk(Descriptor(number), path.string());
  disk.direct_ = direct;
  struct stat status {};
  if (fstat(number, &status) != 0) return from_errno(errno, what);
  disk.block_device_ = S_ISBLK(status.st_mode);
  if (!disk.block_device_ && !S_ISREG(status.st_mode)) {
    return Error(Errc::invalid, path.string() + " is neither a regular file nor a block device");
  }
  constexpr std::uint64_t kStatBlock = 512;
  disk.preallocated_ = !disk.block_device_ && static_cast<std::uint64_t>(status.st_blocks) * kStatBlock >=
                                                  static_cast<std::uint64_t>(status.st_size);
  auto bytes = static_cast<std::uint64_t>(status.st_size);
  if (disk.block_device_ && ioctl(number, BLKGETSIZE64, &bytes) != 0) return from_errno(errno, what);
  disk.bytes_ = round_down(bytes, kPageBytes);
  return disk;
}

// What the device says is an I/O error to the caller, whatever its number; only "not possible here" is
// another matter.
Error BlockingDisk::failed(const char* call) const {
  const auto number = errno;
  auto error = from_errno(number, std::string(call) + ' ' + name_);
  if (error.code() == Errc::unsupported || error.code() == Errc::no_space) return error;
  return Error(Errc::io, error.message());
}

Result<void> BlockingDisk::check_range(const void* address, std::uint64_t offset, std::uint64_t bytes) const {
  REELFS_ASSERT(aligned(address, offset, bytes));
  if (offset <= bytes_ && bytes <= bytes_ - offset) return ok();
  return Error(Errc::out_of_range,
               name_ + " ends before " + std::to_string(offset) + '+' + std::to_string(bytes));
}

Result<void> BlockingDisk::read(std::uint64_t offset, std::span<std::byte> into) const {
  REELFS_TRY(check_range(into.data(), offset, into.size()));
  while (!into.empty()) {
    const auto got = pread(fd_.get(), into.data(), into.size(), static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return failed("reading");
    if (got == 0) return Error(Errc::io, name_ + " has become shorter");
    into = into.subspan(static_cast<std::size_t>(got));
    offset += static_cast<std::uint64_t>(got);
  }
  return ok();
}

Result<void> BlockingDisk::write(std::uint64_t offset, std::span<const std::byte> from) const {
  REELFS_TRY(check_range(from.data(), offset, from.size()));
  while (!from.empty()) {
    const auto put = pwrite(fd_.get(), from.data(), from.size(), static_cast<off_t>(offset));
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) return failed("writing");
    if (put == 0) return Error(Errc::io, name_ + " takes no more bytes");
    from = from.subspan(static_cast<std::size_t>(put));
    offset += static_cast<std::uint64_t>(put);
  }
  return ok();
}

Result<void> BlockingDisk::sync() const {
  if (fdatasync(fd_.get()) != 0) return failed("fdatasync");
  return ok();
}

Result<void> BlockingDisk::discard(std::uint64_t offset, std::uint64_t bytes) const {
  REELFS_TRY(check_range(nullptr, offset, bytes));
  if (bytes == 0 || preallocated_) return ok();
  int result = 0;
  if (block_device_) {
    std::array<std::uint64_t, 2> range{offset, bytes};
    result = ioctl(fd_.get(), BLKDISCARD, range.data());
  } else {
    result = fallocate(fd_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(offset),
                       static_cast<off_t>(bytes));
  }
  if (result != 0) return failed("discarding");
  return ok();
}

}  // namespace reelfs::io
