#include "common/io/disk_file.h"

#include <array>
#include <cerrno>
#include <string>
#include <utility>

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/async/blocking_pool.h"
#include "common/base/assert.h"
#include "common/base/units.h"
#include "common/observe/log.h"

namespace reelfs::io {
namespace {

/// A descriptor that closes itself.
class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  ~Descriptor() {
    if (fd_ >= 0) close(fd_);
  }
  Descriptor(Descriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Descriptor& operator=(Descriptor&&) = delete;
  int get() const { return fd_; }

 private:
  int fd_;
};

bool aligned(const void* address, std::uint64_t offset, std::size_t bytes) {
  return (reinterpret_cast<std::uintptr_t>(address) | offset | bytes) % kPageBytes == 0;
}

/// pread, pwrite and fdatasync on the pool: works everywhere.
class PooledDiskFile final : public DiskFile {
 public:
  PooledDiskFile(Descriptor fd, bool block_device, std::uint64_t bytes, std::string name, BlockingPool& pool)
      : fd_(std::move(fd)), block_device_(block_device), bytes_(bytes), name_(std::move(name)), pool_(pool) {}

  Task<void> read(std::uint64_t offset, std::span<std::byte> into) override {
    auto work = [this, offset, into] { return read_now(offset, into); };
    co_return co_await pool_.run(std::move(work));
  }
  Task<void> write(std::uint64_t offset, std::span<const std::byte> from) override {
    auto work = [this, offset, from] { return write_now(offset, from); };
    co_return co_await pool_.run(std::move(work));
  }
  Task<void> sync() override {
    auto work = [this]() -> Result<void> {
      if (fdatasync(fd_.get()) != 0) return failed("fdatasync");
      return ok();
    };
    co_return co_await pool_.run(std::move(work));
  }
  Task<void> discard(std::uint64_t offset, std::uint64_t bytes) override {
    auto work = [this, offset, bytes] { return discard_now(offset, bytes); };
    co_return co_await pool_.run(std::move(work));
  }
  std::uint64_t size() const override { return bytes_; }

 private:
  // What the device says is an I/O error to the caller, whatever its number; only "not possible here" is
  // another matter.
  Error failed(const char* call) const {
    const auto number = errno;
    auto error = from_errno(number, std::string(call) + ' ' + name_);
    if (error.code() == Errc::unsupported || error.code() == Errc::no_space) return error;
    return Error(Errc::io, error.message());
  }
  Result<void> check_range(const void* address, std::uint64_t offset, std::uint64_t bytes) const {
    REELFS_ASSERT(aligned(address, offset, bytes));
    if (offset <= bytes_ && bytes <= bytes_ - offset) return ok();
    return Error(Errc::out_of_range,
                 name_ + " ends before " + std::to_string(offset) + '+' + std::to_string(bytes));
  }

  Result<void> read_now(std::uint64_t offset, std::span<std::byte> into) const {
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

  Result<void> write_now(std::uint64_t offset, std::span<const std::byte> from) const {
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

  Result<void> discard_now(std::uint64_t offset, std::uint64_t bytes) const {
    REELFS_TRY(check_range(nullptr, offset, bytes));
    if (bytes == 0) return ok();
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

  const Descriptor fd_;
  const bool block_device_;
  const std::uint64_t bytes_;
  const std::string name_;
  BlockingPool& pool_;
};

}  // namespace

Result<std::unique_ptr<DiskFile>> open_disk_file(const std::filesystem::path& path, DiskFileMode mode,
                                                 BlockingPool& pool) {
  const auto what = "opening " + path.string();
  const int flags = O_CLOEXEC | (mode == DiskFileMode::read_only ? O_RDONLY : O_RDWR);
  int number = open(path.c_str(), flags | O_DIRECT);
  if (number < 0 && errno == EINVAL) {
    number = open(path.c_str(), flags);
    if (number >= 0) logger("io").warn("no direct I/O, using the page cache file={}", path.string());
  }
  if (number < 0) return from_errno(errno, what);
  Descriptor fd(number);
  struct stat status {};
  if (fstat(fd.get(), &status) != 0) return from_errno(errno, what);
  const bool block_device = S_ISBLK(status.st_mode);
  if (!block_device && !S_ISREG(status.st_mode)) {
    return Error(Errc::invalid, path.string() + " is neither a regular file nor a block device");
  }
  auto bytes = static_cast<std::uint64_t>(status.st_size);
  if (block_device && ioctl(fd.get(), BLKGETSIZE64, &bytes) != 0) return from_errno(errno, what);
  return std::unique_ptr<DiskFile>(std::make_unique<PooledDiskFile>(
      std::move(fd), block_device, round_down(bytes, kPageBytes), path.string(), pool));
}

}  // namespace reelfs::io
