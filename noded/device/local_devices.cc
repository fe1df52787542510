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

#include "common/base/assert.h"
#include "common/base/crc32c.h"
#include "common/base/descriptor.h"
#include "common/io/blocking_disk.h"
#include "common/observe/log.h"
#include "noded/device/own_descriptors.h"

namespace reelfs::noded {
namespace {

constexpr std::size_t kThreadsPerDevice = 8;  // calls under way at once on one device
// The node's byte, and one for each of its workers behind it.
constexpr std::int64_t kMarkBytes = 2048;
constexpr const char* kSysBlock = "/sys/dev/block";

spdlog::logger& log() {
  static auto& instance = logger("noded.device");
  return instance;
}

/// Two hashes beside each other: nodes that share a device by mistake must not share a mark.
std::int64_t mark_of(const Uuid& cluster, std::string_view node_name) {
  const auto text = cluster.to_string() + "/" + std::string(node_name);
  const auto bytes = std::as_bytes(std::span(text));
  const auto backwards = std::string(text.rbegin(), text.rend());
  const auto high = static_cast<std::int64_t>(crc32c(bytes) >> 2);
  const auto low = static_cast<std::int64_t>(crc32c(std::as_bytes(std::span(backwards))));
  return (high << 32 | low) / kMarkBytes * kMarkBytes;
}

struct flock range(short type, std::int64_t start, std::int64_t bytes) {
  struct flock lock {};
  lock.l_type = type;
  lock.l_whence = SEEK_SET;
  lock.l_start = start;
  lock.l_len = bytes;
  return lock;
}

/// Keeps other nodes from a device for as long as its descriptor is open in any thread. Every process of a
/// node locks the same byte, shared, and its worker's; a lock outside the node's bytes is another node's.
class NodeLock {
 public:
  /// @errors not_permitted (others use it), busy (Use::first, and a process of this node does), io
  static Result<NodeLock> take(Descriptor fd, std::int64_t mark, WorkerId worker, DeviceAccess::Use use,
                               const std::string& path) {
    NodeLock lock(std::move(fd), mark);
    if (flock(lock.descriptor(), LOCK_SH | LOCK_NB) != 0) {
      if (errno == EWOULDBLOCK) {
        return Error(Errc::not_permitted,
                     path + " is in use: another process holds a lock on it (lslocks names it)");
      }
      return lock;
    }
    for (const auto byte : {mark, mark + worker.value}) {
      auto own = range(F_RDLCK, byte, 1);
      if (fcntl(lock.descriptor(), F_OFD_SETLK, &own) == 0) continue;
      if (errno == EAGAIN || errno == EACCES)
        return Error(Errc::not_permitted, path + " is in use by another process");
      return lock;
    }
    lock.works_ = true;
    REELFS_TRY(const bool below, lock.is_locked(0, mark));
    REELFS_TRY(const bool above, lock.is_locked(mark + kMarkBytes, 0));
    if (below || above) {
      return Error(Errc::not_permitted,
                   path + " is in use by another node on this machine: name it in one of the two");
    }
    if (use == DeviceAccess::Use::shared) return lock;
    REELFS_TRY(const bool held, lock.is_locked(mark, 1));
    if (held) {
      return Error(
          Errc::busy,
          path + " is still in use by a process of this node, maybe one that ended while " + "a call hung");
    }
    return lock;
  }

  int descriptor() const { return fd_.get(); }
  /// False where the device cannot be locked: nobody is kept from it.
  bool works() const { return works_; }
  /// Looks at the kernel's list, and so cannot hang.
  std::optional<bool> held_by_other(WorkerId worker) const {
    if (!works_) return std::nullopt;
    const auto held = is_locked(mark_ + worker.value, 1);
    if (!held) return std::nullopt;
    return held.value();
  }

 private:
  NodeLock(Descriptor fd, std::int64_t mark) : fd_(std::move(fd)), mark_(mark) {}

  /// Whether somebody else holds a lock in the range. @param bytes  0: up to the end
  Result<bool> is_locked(std::int64_t start, std::int64_t bytes) const {
    auto lock = range(F_WRLCK, start, bytes);
    if (fcntl(fd_.get(), F_OFD_GETLK, &lock) != 0) return from_errno(errno, "asking for locks");
    return lock.l_type != F_UNLCK;
  }

  Descriptor fd_;
  std::int64_t mark_;
  bool works_ = false;
};

/// An open device with its threads, and the lock that keeps others away.
class LocalDevice final : public DeviceFile {
 public:
  LocalDevice(std::unique_ptr<BlockingPool> pool, NodeLock lock, io::BlockingDisk disk)
      : pool_(std::move(pool)), lock_(std::move(lock)), disk_(std::move(disk)) {}
  Task<void> read(std::uint64_t offset, std::span<std::byte> into) override {
    auto work = [this, offset, into] { return disk_.read(offset, into); };
    co_return co_await run(work);
  }
  Task<void> write(std::uint64_t offset, std::span<const std::byte> from) override {
    auto work = [this, offset, from] { return disk_.write(offset, from); };
    co_return co_await run(work);
  }
  Task<void> sync() override {
    auto work = [this] { return disk_.sync(); };
    co_return co_await run(work);
  }
  Task<void> sync_by(std::function<Result<void>(const BlockingSync&)> work) override {
    auto whole = [this, work = std::move(work)] { return work([this] { return disk_.sync(); }); };
    co_return co_await run(std::move(whole));
  }
  Task<void> discard(std::uint64_t offset, std::uint64_t bytes) override {
    auto work = [this, offset, bytes] { return disk_.discard(offset, bytes); };
    co_return co_await run(work);
  }
  std::uint64_t size() const override { return disk_.size(); }
  std::optional<bool> in_use_by(WorkerId worker) const override { return lock_.held_by_other(worker); }

 private:
  template <class Work>
  Task<void> run(Work work) {
    auto alone = [this, work = std::move(work)] {
      // With the lock: it is to stand for as long as a call goes on.
      use_own_descriptors({lock_.descriptor(), disk_.descriptor()});
      return work();
    };
    co_return co_await pool_->run(std::move(alone));
  }

  const std::unique_ptr<BlockingPool> pool_;
  const NodeLock lock_;
  const io::BlockingDisk disk_;
};

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

LocalDevices::LocalDevices(const Uuid& cluster, std::string_view node_name, WorkerId worker)
    : node_mark_(mark_of(cluster, node_name)), worker_(worker) {
  REELFS_ASSERT(worker.value < kMarkBytes);
}

Task<DeviceSight> LocalDevices::look(std::filesystem::path path) {
  BlockingPool lookout(1, "lookout");  // its own: a look may hang
  auto work = [path] {
    use_own_descriptors({});
    return look_now(path);
  };
  co_return co_await lookout.run(std::move(work));
}

Task<std::unique_ptr<DeviceFile>> LocalDevices::open(std::filesystem::path path, Use use) {
  struct Opened {
    NodeLock lock;
    io::BlockingDisk disk;
  };
  auto pool = std::make_unique<BlockingPool>(kThreadsPerDevice, "device");
  auto work = [path, use, mark = node_mark_, worker = worker_]() -> Result<Opened> {
    // Of a pipe that has taken the device's place, a plain open() would wait for the other end.
    Descriptor fd(::open(path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC));
    if (fd.get() < 0) return from_errno(errno, "opening " + path.string());
    if (use == Use::first) {
      REELFS_TRY(check_not_in_use(path));
    }
    REELFS_TRY(auto lock, NodeLock::take(std::move(fd), mark, worker, use, path.string()));
    REELFS_TRY(auto disk, io::BlockingDisk::open(path));
    return Opened{std::move(lock), std::move(disk)};
  };
  REELFS_CO_TRY(auto opened, co_await pool->run(std::move(work)));
  if (!opened.lock.works()) {
    log().warn("device cannot be locked, other nodes are not kept from it device={}", path.string());
  }
  if (!opened.disk.direct()) log().warn("no direct I/O, using the page cache device={}", path.string());
  std::unique_ptr<DeviceFile> device =
      std::make_unique<LocalDevice>(std::move(pool), std::move(opened.lock), std::move(opened.disk));
  co_return std::move(device);
}

}  // namespace reelfs::noded
