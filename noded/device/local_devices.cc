#include "noded/device/local_devices.h"

#include <cerrno>
#include <fstream>
#include <span>
#include <string>
#include <utility>

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "common/base/crc32c.h"
#include "common/base/descriptor.h"
#include "common/io/blocking_disk.h"
#include "common/observe/log.h"

namespace reelfs::noded {
namespace {

constexpr std::size_t kThreadsPerDevice = 8;  // calls under way at once on one device
constexpr const char* kSysBlock = "/sys/dev/block";

spdlog::logger& log() {
  static auto& instance = logger("noded.device");
  return instance;
}

/// An open device with its threads, and the lock that keeps others away.
class LocalDevice final : public DeviceFile {
 public:
  LocalDevice(std::unique_ptr<BlockingPool> pool, Descriptor lock, io::BlockingDisk disk)
      : pool_(std::move(pool)), lock_(std::move(lock)), disk_(std::move(disk)) {}
  Task<void> read(std::uint64_t offset, std::span<std::byte> into) override {
    auto work = [this, offset, into] { return disk_.read(offset, into); };
    co_return co_await pool_->run(std::move(work));
  }
  Task<void> write(std::uint64_t offset, std::span<const std::byte> from) override {
    auto work = [this, offset, from] { return disk_.write(offset, from); };
    co_return co_await pool_->run(std::move(work));
  }
  Task<void> sync() override {
    auto work = [this] { return disk_.sync(); };
    co_return co_await pool_->run(std::move(work));
  }
  Task<void> sync_by(std::function<Result<void>(const BlockingSync&)> work) override {
    auto whole = [this, work = std::move(work)] { return work([this] { return disk_.sync(); }); };
    co_return co_await pool_->run(std::move(whole));
  }
  Task<void> discard(std::uint64_t offset, std::uint64_t bytes) override {
    auto work = [this, offset, bytes] { return disk_.discard(offset, bytes); };
    co_return co_await pool_->run(std::move(work));
  }
  std::uint64_t size() const override { return disk_.size(); }

 private:
  const std::unique_ptr<BlockingPool> pool_;
  const Descriptor lock_;
  const io::BlockingDisk disk_;
};

/// Two hashes beside each other: nodes that share a device by mistake must not share a mark.
std::int64_t mark_of(const Uuid& cluster, std::string_view node_name) {
  const auto text = cluster.to_string() + "/" + std::string(node_name);
  const auto bytes = std::as_bytes(std::span(text));
  const auto backwards = std::string(text.rbegin(), text.rend());
  const auto high = static_cast<std::int64_t>(crc32c(bytes) >> 2);
  const auto low = static_cast<std::int64_t>(crc32c(std::as_bytes(std::span(backwards))));
  return high << 32 | low;
}

struct flock range(short type, std::int64_t start, std::int64_t bytes) {
  struct flock lock {};
  lock.l_type = type;
  lock.l_whence = SEEK_SET;
  lock.l_start = start;
  lock.l_len = bytes;
  return lock;
}

/// Whether somebody else holds a lock in the range. @param bytes  0: up to the end
Result<bool> is_locked(int fd, std::int64_t start, std::int64_t bytes) {
  auto lock = range(F_WRLCK, start, bytes);
  if (fcntl(fd, F_OFD_GETLK, &lock) != 0) return from_errno(errno, "asking for locks");
  return lock.l_type != F_UNLCK;
}

/// Every process of a node locks the same byte, shared; a lock on any other byte is another node's. The lock
/// is that of the open file, so it goes when the last call on the device has ended and the file is closed.
Result<void> lock_for_node(int fd, std::int64_t mark, DeviceAccess::Use use, const std::string& path) {
  if (flock(fd, LOCK_SH | LOCK_NB) != 0) {
    if (errno == EWOULDBLOCK) {
      return Error(Errc::not_permitted,
                   path + " is in use: another process holds a lock on it (lslocks names it)");
    }
    log().warn("device cannot be locked, other nodes are not kept from it device={}", path);
    return ok();
  }
  auto own = range(F_RDLCK, mark, 1);
  if (fcntl(fd, F_OFD_SETLK, &own) != 0) {
    if (errno == EAGAIN || errno == EACCES)
      return Error(Errc::not_permitted, path + " is in use by another process");
    log().warn("device cannot be locked, other nodes are not kept from it device={}", path);
    return ok();
  }
  REELFS_TRY(const bool below, is_locked(fd, 0, mark));
  REELFS_TRY(const bool above, is_locked(fd, mark + 1, 0));
  if (below || above) {
    return Error(Errc::not_permitted,
                 path + " is in use by another node on this machine: name it in one of the two");
  }
  if (use == DeviceAccess::Use::shared) return ok();
  REELFS_TRY(const bool held, is_locked(fd, mark, 1));
  if (held) {
    return Error(Errc::busy,
                 path + " is still in use by a process of this node, maybe one that ended while a call hung");
  }
  return ok();
}

bool reads_as(const std::filesystem::path& file, std::string_view word) {
  std::ifstream stream(file);
  std::string text;
  return static_cast<bool>(stream >> text) && text == word;
}

/// A block device's node stays after the device is gone; the kernel's view of it does not.
Result<void> check_block_device(std::uint64_t number) {
  std::error_code error;
  if (!std::filesystem::exists(kSysBlock, error)) return ok();
  const auto entry = std::filesystem::path(kSysBlock) /
                     (std::to_string(major(number)) + ":" + std::to_string(minor(number)));
  if (!std::filesystem::exists(entry, error)) return Error(Errc::not_found, "the device was unplugged");
  if (reads_as(entry / "size", "0")) return Error(Errc::not_found, "there is no medium in the device");
  // A loop device that is in use is detached when the last of its users has closed it.
  if (reads_as(entry / "loop/autoclear", "1")) return Error(Errc::not_found, "the loop device was detached");
  return ok();
}

/// Refuses a block device that is mounted, or part of a volume or an array; anything else passes.
Result<void> check_not_in_use(const std::filesystem::path& path) {
  struct stat status {};
  if (stat(path.c_str(), &status) != 0 || !S_ISBLK(status.st_mode)) return ok();
  // open(2): O_EXCL without O_CREAT fails where the device is in use.
  const Descriptor fd(open(path.c_str(), O_RDONLY | O_EXCL | O_CLOEXEC));
  if (fd.get() < 0 && errno == EBUSY) {
    return Error(Errc::not_permitted, path.string() + " is mounted, or part of a volume or an array");
  }
  return ok();
}

Result<DeviceSight> look_now(const std::filesystem::path& path) {
  DeviceSight sight;
  struct stat status {};
  if (stat(path.c_str(), &status) != 0) {
    const int number = errno;
    sight.reason = number == ENOENT || number == ENOTDIR ? std::string("there is nothing at this path")
                                                         : from_errno(number, "looking for it").describe();
    return sight;
  }
  sight.file_system = status.st_dev;
  sight.inode = status.st_ino;
  if (!S_ISREG(status.st_mode) && !S_ISBLK(status.st_mode)) {
    sight.reason = "what is at this path is neither a file nor a block device";
    return sight;
  }
  if (S_ISBLK(status.st_mode)) {
    sight.number = status.st_rdev;
    if (auto there = check_block_device(status.st_rdev); !there) {
      sight.reason = there.error().message();
      return sight;
    }
  }
  sight.present = true;
  return sight;
}

}  // namespace

LocalDevices::LocalDevices(const Uuid& cluster, std::string_view node_name)
    : node_mark_(mark_of(cluster, node_name)) {}

Task<DeviceSight> LocalDevices::look(std::filesystem::path path) {
  BlockingPool lookout(1, "lookout");  // its own: a look may hang
  auto work = [path] { return look_now(path); };
  co_return co_await lookout.run(std::move(work));
}

Task<std::unique_ptr<DeviceFile>> LocalDevices::open(std::filesystem::path path, Use use) {
  struct Opened {
    Descriptor lock;
    io::BlockingDisk disk;
  };
  auto pool = std::make_unique<BlockingPool>(kThreadsPerDevice, "device");
  const auto mark = node_mark_;
  auto work = [path, use, mark]() -> Result<Opened> {
    // Of a pipe that has taken the device's place, a plain open() would wait for the other end.
    Descriptor lock(::open(path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC));
    if (lock.get() < 0) return from_errno(errno, "opening " + path.string());
    if (use == Use::first) {
      REELFS_TRY(check_not_in_use(path));
    }
    REELFS_TRY(lock_for_node(lock.get(), mark, use, path.string()));
    REELFS_TRY(auto disk, io::BlockingDisk::open(path));
    return Opened{std::move(lock), std::move(disk)};
  };
  REELFS_CO_TRY(auto opened, co_await pool->run(std::move(work)));
  if (!opened.disk.direct()) log().warn("no direct I/O, using the page cache device={}", path.string());
  std::unique_ptr<DeviceFile> device =
      std::make_unique<LocalDevice>(std::move(pool), std::move(opened.lock), std::move(opened.disk));
  co_return std::move(device);
}

}  // namespace reelfs::noded
