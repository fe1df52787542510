#include "fuse/session/kernel_channel.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <csignal>
#include <cstdarg>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <mutex>
#include <optional>
#include <span>
#include <string_view>
#include <thread>
#include <utility>

#include <fcntl.h>
#include <fmt/format.h>
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
#include "common/mounts/mounts.h"
#include "common/observe/log.h"
#include "fuse/session/newer_calls.h"

namespace reelfs::fuse {
namespace {

/// Breaks a thread out of read(2) on the device.
constexpr int kKickSignal = SIGUSR1;
constexpr std::string_view kMountType = "fuse.reelfs";
/// One read of a player's, so that several nodes are asked at once; the kernel's default is 128 KiB.
constexpr unsigned kReadaheadKiB = 4096;
constexpr unsigned kMinThreads = 2;
constexpr unsigned kMaxThreads = 8;  // they copy and answer; the work is done on the client's loop

/// What an answer to INIT is for.
enum class Init { none, agreement, repetition };
thread_local Init answering_init = Init::none;
thread_local std::string init_answer;
thread_local const NewerCalls* newer_calls_of_init = nullptr;
thread_local std::string libfuse_said;  // its last error, for whoever asked libfuse for something

ssize_t read_device(int fd, void* into, std::size_t size, void*) { return ::read(fd, into, size); }

/// A repetition is answered to nobody.
ssize_t answer_init(int fd, const iovec& header, fuse_init_out answer) {
  newer_calls_of_init->complete(answer);
  init_answer.assign(reinterpret_cast<const char*>(&answer), sizeof answer);
  if (answering_init == Init::repetition) return static_cast<ssize_t>(header.iov_len + sizeof answer);
  const std::array<iovec, 2> changed{header, iovec{&answer, sizeof answer}};
  return ::writev(fd, changed.data(), changed.size());
}

ssize_t write_device(int fd, iovec* parts, int count, void* data) {
  if (answering_init != Init::none && count == 2 && parts[1].iov_len >= sizeof(fuse_init_out)) {
    fuse_init_out answer;
    std::memcpy(&answer, parts[1].iov_base, sizeof answer);
    return answer_init(fd, parts[0], answer);
  }
  return static_cast<KernelChannel::User*>(data)->unanswered.answer(fd, parts, count);
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

/// A mount that does not answer is not asked.
Result<void> check_mountpoint(const std::string& path) {
  const auto mounted = mounted_at(path);
  if (mounted && mounted->type == kMountType) {
    return Error(Errc::busy, path + " has " + mounted->source +
                                 " mounted already. (If a reelfs that died left it behind: umount " + path +
                                 ")");
  }
  struct stat found {};
  if (::stat(path.c_str(), &found) != 0) {
    if (errno == ENOENT) return Error(Errc::not_found, "mount point " + path + " does not exist");
    return from_errno(errno, "mount point " + path);
  }
  if (!S_ISDIR(found.st_mode))
    return Error(Errc::not_directory, "mount point " + path + " is not a directory");
  return ok();
}

/// The kernel's request INIT, as if it could no more than was agreed.
Result<std::string> limit_to_agreement(std::string request, const fuse_init_out& agreed) {
  fuse_in_header header;
  fuse_init_in can{};
  if (request.size() < sizeof header + offsetof(fuse_init_in, flags2))
    return Error(Errc::protocol, "the request INIT is too short");
  const auto size = std::min(sizeof can, request.size() - sizeof header);
  std::memcpy(&can, request.data() + sizeof header, size);
  can.flags &= agreed.flags;
  can.flags2 &= agreed.flags2;
  can.max_readahead = agreed.max_readahead;
  std::memcpy(request.data() + sizeof header, &can, size);
  return request;
}

Result<fuse_init_out> parse_init_answer(const std::string& bytes) {
  fuse_init_out answer;
  if (bytes.size() != sizeof answer) return Error(Errc::protocol, "the answer to INIT has the wrong size");
  std::memcpy(&answer, bytes.data(), sizeof answer);
  return answer;
}

void process(fuse_session* session, NewerCalls& newer_calls, fuse_buf request) {
  const NewerCalls::Scope scope(newer_calls, request);
  fuse_session_process_buf(session, &request);
}

void process(fuse_session* session, NewerCalls& newer_calls, std::string& request) {
  fuse_buf buffer{};
  buffer.size = request.size();
  buffer.mem = request.data();
  process(session, newer_calls, buffer);
}

/// Brings libfuse to where another process's libfuse was.
Result<void> repeat_init(fuse_session* session, NewerCalls& newer_calls,
                         const KernelChannel::Standing& standing) {
  REELFS_TRY(const auto agreed, parse_init_answer(standing.init_answer));
  REELFS_TRY(auto request, limit_to_agreement(standing.init_request, agreed));
  init_answer.clear();
  answering_init = Init::repetition;
  newer_calls_of_init = &newer_calls;
  process(session, newer_calls, request);
  answering_init = Init::none;
  const auto answer = parse_init_answer(init_answer);
  if (!answer) return Error(Errc::protocol, "libfuse refuses what was agreed with the kernel");
  constexpr std::uint32_t kKernelsAffair = FUSE_READDIRPLUS_AUTO;  // when it lists how
  const auto missing = agreed.flags & ~(answer.value().flags | kKernelsAffair);
  if (missing != 0 || answer.value().max_write < agreed.max_write) {
    return Error(Errc::unsupported,
                 fmt::format("this version does not do all that was agreed with the kernel (flags {:#x}, {} "
                             "bytes a write): unmount, and mount again",
                             agreed.flags, agreed.max_write));
  }
  return ok();
}

/// Ends what libfuse knows of a mount that is another process's now, which it does only where it unmounts;
/// what it finds severed, as a pipe without a reader is, it leaves mounted.
void disown_mount(fuse_session* session) {
  std::array<int, 2> ends{};
  if (::pipe2(ends.data(), O_CLOEXEC) != 0) return;
  ::close(ends[0]);
  ::dup2(ends[1], fuse_session_fd(session));
  ::close(ends[1]);
  fuse_session_unmount(session);
}

struct SessionDeleter {
  void operator()(fuse_session* session) const {
    fuse_session_unmount(session);
    fuse_session_destroy(session);
  }
};

}  // namespace

struct KernelChannel::State {
  State(Options chosen, User& owner) : options(std::move(chosen)), user(owner) {}

  const Options options;
  User& user;
  bool adopted = false;  // so libfuse does not know that anything is mounted
  bool left = false;     // to another process
  std::mutex init_mutex;
  Standing standing;  // guarded by init_mutex
  std::atomic<bool> paused = false;
  std::unique_ptr<fuse_session, SessionDeleter> session;
  std::optional<dev_t> device;
  int ended = -1;  // eventfd
  NewerCalls newer_calls;
  std::vector<std::thread> threads;
  std::mutex mutex;
  std::condition_variable one_left;
  std::size_t serving = 0;  // guarded by mutex

  ~State() {
    if (ended >= 0) ::close(ended);
  }

  Result<void> make_session(const fuse_lowlevel_ops& operations, int device);
  void start_threads();
  void stop_threads();

  void serve() {
    fuse_buf buffer{};
    while (!paused && fuse_session_exited(session.get()) == 0) {
      const int received = fuse_session_receive_buf(session.get(), &buffer);
      if (received == -EINTR || received == -EAGAIN) continue;
      if (received <= 0) break;
      process_received({static_cast<std::byte*>(buffer.mem), static_cast<std::size_t>(received)}, buffer);
    }
    std::free(buffer.mem);
    if (!paused) ::eventfd_write(ended, 1);
    const std::lock_guard lock(mutex);
    --serving;
    one_left.notify_all();
  }

  void process_received(std::span<const std::byte> request, const fuse_buf& buffer) {
    fuse_in_header header{};
    if (request.size() >= sizeof header) std::memcpy(&header, request.data(), sizeof header);
    if (header.opcode == FUSE_INIT) return process_init(request, buffer);
    user.unanswered.add(request);
    process(session.get(), newer_calls, buffer);
  }

  void process_init(std::span<const std::byte> request, const fuse_buf& buffer) {
    answering_init = Init::agreement;
    newer_calls_of_init = &newer_calls;
    process(session.get(), newer_calls, buffer);
    answering_init = Init::none;
    const std::lock_guard lock(init_mutex);
    standing.init_request.assign(reinterpret_cast<const char*>(request.data()), request.size());
    standing.init_answer = init_answer;
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

/// @param device  0: to be opened by fuse_session_mount()
Result<void> KernelChannel::State::make_session(const fuse_lowlevel_ops& operations, int device) {
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
  session.reset(fuse_session_new(&args, &operations, sizeof operations, &user));
  fuse_opt_free_args(&args);
  if (!session) return Error(Errc::invalid, "libfuse refuses the mount options");

  fuse_custom_io io{};
  io.read = &read_device;
  io.writev = &write_device;
  if (fuse_session_custom_io(session.get(), &io, device) != 0) return Error(Errc::io, libfuse_said);
  ended = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  return ok();
}

Result<std::unique_ptr<KernelChannel>> KernelChannel::mount(Options options,
                                                            const fuse_lowlevel_ops& operations, User& user) {
  REELFS_TRY(check_mountpoint(options.mountpoint));
  auto state = std::make_unique<State>(std::move(options), user);
  constexpr int kUntilMounted = 0;  // fuse_session_mount() puts the device's descriptor in its place
  REELFS_TRY(state->make_session(operations, kUntilMounted));
  const auto& mountpoint = state->options.mountpoint;
  if (fuse_session_mount(state->session.get(), mountpoint.c_str()) != 0) {
    return Error(Errc::io,
                 "cannot mount on " + mountpoint + (libfuse_said.empty() ? "" : ": " + libfuse_said));
  }
  return std::unique_ptr<KernelChannel>(new KernelChannel(std::move(state)));
}

Result<std::unique_ptr<KernelChannel>> KernelChannel::adopt(Options options,
                                                            const fuse_lowlevel_ops& operations, User& user,
                                                            Standing standing, int device) {
  auto state = std::make_unique<State>(std::move(options), user);
  state->adopted = state->left = true;  // until serve() the mount is the other's
  if (auto made = state->make_session(operations, device); !made) {
    if (!state->session) ::close(device);
    return std::move(made.error());
  }
  REELFS_TRY(repeat_init(state->session.get(), state->newer_calls, standing));
  state->standing = std::move(standing);
  return std::unique_ptr<KernelChannel>(new KernelChannel(std::move(state)));
}

KernelChannel::KernelChannel(std::unique_ptr<State> state) : state_(std::move(state)) {}

KernelChannel::~KernelChannel() {
  REELFS_ASSERT(state_->threads.empty());
  if (!state_->session || (!state_->left && !state_->adopted)) return;
  const bool mounted = state_->is_on_top();
  if (!state_->adopted) disown_mount(state_->session.get());
  fuse_session_destroy(state_->session.release());  // fails what waits, unless another has the device
  if (state_->left || !mounted) return;
  const auto& mountpoint = state_->options.mountpoint;
  if (const auto unmounted = unmount(mountpoint, Unmount::lazy); !unmounted)
    logger("fuse").warn("not unmounted error=\"{}\"", unmounted.error().describe());
}

void KernelChannel::State::start_threads() {
  struct sigaction wake {};
  wake.sa_handler = [](int) {};
  ::sigaction(kKickSignal, &wake, nullptr);  // without SA_RESTART: read(2) returns

  sigset_t all_but_kick;
  sigset_t before;
  sigfillset(&all_but_kick);
  sigdelset(&all_but_kick, kKickSignal);
  pthread_sigmask(SIG_SETMASK, &all_but_kick, &before);
  const auto count = std::clamp(std::thread::hardware_concurrency(), kMinThreads, kMaxThreads);
  serving = count;
  for (unsigned i = 0; i < count; ++i) {
    threads.emplace_back([this] { serve(); });
    pthread_setname_np(threads.back().native_handle(), "fuse");
  }
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

void KernelChannel::State::stop_threads() {
  kick_until_all_left();
  for (auto& thread : threads) thread.join();
  threads.clear();
}

void KernelChannel::serve() {
  state_->left = false;
  for (auto& request : std::exchange(state_->standing.unanswered, {})) {
    state_->user.unanswered.add(std::as_bytes(std::span(request)));
    process(state_->session.get(), state_->newer_calls, request);
  }
  state_->start_threads();
  state_->device = device_at(state_->options.mountpoint);
  if (state_->device) raise_readahead(*state_->device);
}

int KernelChannel::ended() const { return state_->ended; }
int KernelChannel::device() const { return fuse_session_fd(state_->session.get()); }

Result<KernelChannel::Standing> KernelChannel::pause(Deadline deadline) {
  state_->paused = true;
  state_->stop_threads();
  auto unanswered = state_->user.unanswered.keep_back(deadline);
  if (!unanswered) {
    resume();
    return std::move(unanswered.error());
  }
  const std::lock_guard lock(state_->init_mutex);
  auto standing = state_->standing;
  standing.unanswered = std::move(unanswered.value());
  return standing;
}

void KernelChannel::resume() {
  state_->paused = false;
  state_->user.unanswered.send_kept_back(device());
  state_->start_threads();
}

void KernelChannel::leave() { state_->left = true; }

void KernelChannel::forget_name(fuse_ino_t directory, const std::string& name) {
  // Expired, not dropped: it may be some process's working directory.
  fuse_lowlevel_notify_expire_entry(state_->session.get(), directory, name.c_str(), name.size(),
                                    FUSE_LL_EXPIRE_ONLY);
}

void KernelChannel::forget_attributes(fuse_ino_t node) { (void)knows(node); }

void KernelChannel::forget_pages(fuse_ino_t node) {
  (void)fuse_lowlevel_notify_inval_inode(state_->session.get(), node, 0, 0);
}

bool KernelChannel::knows(fuse_ino_t node) {
  constexpr off_t kAttributesOnly = -1;
  return fuse_lowlevel_notify_inval_inode(state_->session.get(), node, kAttributesOnly, 0) != -ENOENT;
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
  state_->stop_threads();
}

}  // namespace reelfs::fuse
