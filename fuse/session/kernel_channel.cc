#include "fuse/session/kernel_channel.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <csignal>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <mutex>
#include <optional>
#include <thread>

#include <fcntl.h>
#include <linux/fuse.h>
#include <poll.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>
#include <unistd.h>

#include "common/base/assert.h"
#include "common/observe/log.h"

namespace reelfs::fuse {
namespace {

/// Breaks a thread out of read(2) on the device.
constexpr int kKickSignal = SIGUSR1;
/// One read of a player's, so that several nodes are asked at once; the kernel's default is 128 KiB.
constexpr unsigned kReadaheadKiB = 4096;
constexpr unsigned kMinThreads = 2;
constexpr unsigned kMaxThreads = 8;  // they copy and answer; the work is done on the client's loop

thread_local bool answering_init = false;
thread_local std::string libfuse_said;  // its last error, for whoever asked libfuse for something

ssize_t read_device(int fd, void* into, std::size_t size, void*) { return ::read(fd, into, size); }

/// libfuse 3.14.0 knows FUSE_CAP_PARALLEL_DIROPS but leaves it out of its answer to INIT; without it the
/// kernel looks up one name of a directory at a time.
ssize_t write_device(int fd, iovec* parts, int count, void*) {
  if (!answering_init || count != 2 || parts[1].iov_len < sizeof(fuse_init_out))
    return ::writev(fd, parts, count);
  fuse_init_out answer;
  std::memcpy(&answer, parts[1].iov_base, sizeof answer);
  answer.flags |= FUSE_PARALLEL_DIROPS;
  std::array<iovec, 2> changed{parts[0], iovec{&answer, sizeof answer}};
  return ::writev(fd, changed.data(), changed.size());
}

void log_from_libfuse(fuse_log_level level, const char* format, va_list arguments) {
  std::array<char, 1024> line;
  const int length = std::vsnprintf(line.data(), line.size(), format, arguments);
  if (length <= 0) return;
  std::string text(line.data(), std::min<std::size_t>(length, line.size() - 1));
  while (!text.empty() && (text.back() == '\n' || text.back() == ' ')) text.pop_back();
  if (text.empty()) return;
  if (level <= FUSE_LOG_ERR) {
    logger("fuse.lib").error("{}", text);
    libfuse_said = std::move(text);
  } else {
    logger("fuse.lib").debug("{}", text);
  }
}

/// What is mounted at the path, told without asking the file system.
std::optional<dev_t> device_at(const std::string& path) {
  struct statx found {};
  if (::statx(AT_FDCWD, path.c_str(), AT_STATX_DONT_SYNC | AT_NO_AUTOMOUNT, 0, &found) != 0)
    return std::nullopt;
  return makedev(found.stx_dev_major, found.stx_dev_minor);
}

void raise_readahead(dev_t device) {
  const auto path = "/sys/class/bdi/" + std::to_string(major(device)) + ":" + std::to_string(minor(device)) +
                    "/read_ahead_kb";
  std::ofstream file(path);
  if (!(file << kReadaheadKiB
             << std::flush)) {  // an ordinary user may not: reading is slower then, nothing else
    logger("fuse").debug("readahead left at the kernel's default path={}", path);
  }
}

Result<void> check_mountpoint(const std::string& path) {
  struct stat found {};
  if (::stat(path.c_str(), &found) != 0) {
    if (errno == ENOTCONN) {
      return Error(Errc::io, path + " is what a reelfs that died left behind: run umount " + path + " first");
    }
    return from_errno(errno, "mount point " + path);
  }
  if (!S_ISDIR(found.st_mode))
    return Error(Errc::not_directory, "mount point " + path + " is not a directory");
  return ok();
}

struct SessionDeleter {
  void operator()(fuse_session* session) const {
    fuse_session_unmount(session);
    fuse_session_destroy(session);
  }
};

}  // namespace

struct KernelChannel::State {
  Options options;
  std::unique_ptr<fuse_session, SessionDeleter> session;
  std::optional<dev_t> device;
  int ended = -1;  // eventfd
  std::vector<std::thread> threads;
  std::mutex mutex;
  std::condition_variable one_left;
  std::size_t serving = 0;  // guarded by mutex

  ~State() {
    if (ended >= 0) ::close(ended);
  }

  void serve() {
    fuse_buf buffer{};
    while (fuse_session_exited(session.get()) == 0) {
      const int received = fuse_session_receive_buf(session.get(), &buffer);
      if (received == -EINTR || received == -EAGAIN) continue;
      if (received <= 0) break;
      fuse_in_header header;
      if (static_cast<std::size_t>(received) >= sizeof header)
        std::memcpy(&header, buffer.mem, sizeof header);
      answering_init = header.opcode == FUSE_INIT;
      fuse_session_process_buf(session.get(), &buffer);
      answering_init = false;
    }
    std::free(buffer.mem);
    ::eventfd_write(ended, 1);
    const std::lock_guard lock(mutex);
    --serving;
    one_left.notify_all();
  }

  bool is_on_top() const { return device && device_at(options.mountpoint) == device; }

  /// A signal between a thread's look at `exited` and its read is lost, so they are sent until all have left.
  void kick_until_all_left() {
    std::unique_lock lock(mutex);
    while (serving > 0) {
      for (auto& thread : threads) pthread_kill(thread.native_handle(), kKickSignal);
      one_left.wait_for(lock, std::chrono::milliseconds(10));
    }
  }
};

Result<std::unique_ptr<KernelChannel>> KernelChannel::mount(Options options,
                                                            const fuse_lowlevel_ops& operations,
                                                            void* user_data) {
  REELFS_TRY(check_mountpoint(options.mountpoint));
  fuse_set_log_func(&log_from_libfuse);

  char* joined = nullptr;
  fuse_opt_add_opt_escaped(&joined, ("fsname=" + options.source).c_str());
  for (const auto& flag : options.flags) fuse_opt_add_opt_escaped(&joined, flag.c_str());
  fuse_args args = FUSE_ARGS_INIT(0, nullptr);
  fuse_opt_add_arg(&args, "reelfs");
  fuse_opt_add_arg(&args, "-o");
  fuse_opt_add_arg(&args, joined);
  if (options.debug) fuse_opt_add_arg(&args, "-d");
  std::free(joined);
  auto state = std::make_unique<State>();
  state->session.reset(fuse_session_new(&args, &operations, sizeof operations, user_data));
  fuse_opt_free_args(&args);
  if (!state->session) return Error(Errc::invalid, "libfuse refuses the mount options");

  fuse_custom_io io{};
  io.read = &read_device;
  io.writev = &write_device;
  constexpr int kUntilMounted = 0;  // fuse_session_mount() puts the device's descriptor in its place
  if (fuse_session_custom_io(state->session.get(), &io, kUntilMounted) != 0 ||
      fuse_session_mount(state->session.get(), options.mountpoint.c_str()) != 0) {
    return Error(Errc::io,
                 "cannot mount on " + options.mountpoint + (libfuse_said.empty() ? "" : ": " + libfuse_said));
  }
  state->ended = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  state->options = std::move(options);
  return std::unique_ptr<KernelChannel>(new KernelChannel(std::move(state)));
}

KernelChannel::KernelChannel(std::unique_ptr<State> state) : state_(std::move(state)) {}

KernelChannel::~KernelChannel() { REELFS_ASSERT(state_->threads.empty()); }

void KernelChannel::serve() {
  struct sigaction wake {};
  wake.sa_handler = [](int) {};
  ::sigaction(kKickSignal, &wake, nullptr);  // without SA_RESTART: read(2) returns

  sigset_t all_but_kick;
  sigset_t before;
  sigfillset(&all_but_kick);
  sigdelset(&all_but_kick, kKickSignal);
  pthread_sigmask(SIG_SETMASK, &all_but_kick, &before);
  const auto count = std::clamp(std::thread::hardware_concurrency(), kMinThreads, kMaxThreads);
  state_->serving = count;
  for (unsigned i = 0; i < count; ++i) {
    state_->threads.emplace_back([state = state_.get()] { state->serve(); });
    pthread_setname_np(state_->threads.back().native_handle(), "fuse");
  }
  pthread_sigmask(SIG_SETMASK, &before, nullptr);

  state_->device = device_at(state_->options.mountpoint);
  if (state_->device) raise_readahead(*state_->device);
}

int KernelChannel::ended() const { return state_->ended; }

void KernelChannel::forget_name(fuse_ino_t directory, const std::string& name) {
  // Expired, not dropped: it may be some process's working directory.
  fuse_lowlevel_notify_expire_entry(state_->session.get(), directory, name.c_str(), name.size(),
                                    FUSE_LL_EXPIRE_ONLY);
}

void KernelChannel::forget_attributes(fuse_ino_t node) {
  constexpr off_t kAttributesOnly = -1;
  fuse_lowlevel_notify_inval_inode(state_->session.get(), node, kAttributesOnly, 0);
}

void KernelChannel::forget_all_names() {
  constexpr int kFuseNotifyIncEpoch = 8;  // FUSE_NOTIFY_INC_EPOCH: newer than Debian 12's headers
  fuse_out_header notification{};
  notification.len = sizeof notification;
  notification.error = kFuseNotifyIncEpoch;
  if (::write(fuse_session_fd(state_->session.get()), &notification, sizeof notification) < 0)
    logger("fuse").debug("names stay until their leases end reason=\"{}\"", std::strerror(errno));
}

void KernelChannel::stop_serving() {
  const auto& mountpoint = state_->options.mountpoint;
  if (state_->is_on_top() && ::umount2(mountpoint.c_str(), UMOUNT_NOFOLLOW) != 0) {
    logger("fuse").info("mount still in use mountpoint={} reason=\"{}\"", mountpoint, std::strerror(errno));
  }
  fuse_session_exit(state_->session.get());
  state_->kick_until_all_left();
  for (auto& thread : state_->threads) thread.join();
  state_->threads.clear();
}

}  // namespace reelfs::fuse
