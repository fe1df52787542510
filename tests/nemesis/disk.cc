// A disk that can be made slow, full, broken or hanging while it is used: a FUSE file system with one file,
// `device`, whose bytes lie in another file.
//
//   nemesis_disk BACKING MOUNTPOINT
//
// Commands come as lines on standard input, and each is answered by its own line on standard output once it
// holds:
//   ok            every call is carried out at once
//   slow MS       every read, write and sync takes so long in addition
//   hang          none returns
//   full          writes fail with ENOSPC
//   broken        everything fails with EIO
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <memory>
#include <mutex>
#include <sstream>
#include <string>
#include <thread>

#define FUSE_USE_VERSION 312
#include <fcntl.h>
#include <fuse_lowlevel.h>
#include <sys/stat.h>
#include <unistd.h>

namespace {

constexpr fuse_ino_t kDevice = 2;
constexpr const char* kName = "device";
constexpr unsigned kThreads = 128;  // calls that hang keep theirs
constexpr double kAttributeSeconds = 1.0;

enum class Call { read, write, sync };

/// What happens to calls now.
class Condition {
 public:
  /// @return whether the line was understood
  bool set(const std::string& line) {
    std::istringstream words(line);
    std::string what;
    unsigned ms = 0;
    words >> what;
    if (what == "slow" && !(words >> ms)) return false;
    const std::lock_guard lock(mutex_);
    if (what != "ok" && what != "slow" && what != "hang" && what != "full" && what != "broken") return false;
    hangs_ = what == "hang";
    delay_ = std::chrono::milliseconds(ms);
    write_error_ = what == "full" ? ENOSPC : what == "broken" ? EIO : 0;
    other_error_ = what == "broken" ? EIO : 0;
    changed_.notify_all();
    return true;
  }

  /// Returns when the call may go on. @return its errno
  int pass(Call call) {
    std::unique_lock lock(mutex_);
    const auto begun = std::chrono::steady_clock::now();
    while (hangs_ || std::chrono::steady_clock::now() < begun + delay_) {
      if (hangs_) {
        changed_.wait(lock);
      } else {
        changed_.wait_until(lock, begun + delay_);
      }
    }
    return call == Call::write ? write_error_ : other_error_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool hangs_ = false;
  std::chrono::milliseconds delay_{0};
  int write_error_ = 0;
  int other_error_ = 0;
};

struct Disk {
  int backing = -1;
  Condition condition;
};

Disk& disk_of(fuse_req_t request) { return *static_cast<Disk*>(fuse_req_userdata(request)); }

bool attributes(fuse_req_t request, fuse_ino_t inode, struct stat& status) {
  if (inode == FUSE_ROOT_ID) {
    status.st_mode = S_IFDIR | 0755;
    status.st_nlink = 2;
  } else if (inode != kDevice || fstat(disk_of(request).backing, &status) != 0) {
    return false;
  }
  status.st_ino = inode;
  return true;
}

void get_attributes(fuse_req_t request, fuse_ino_t inode, fuse_file_info* /*file*/) {
  struct stat status {};
  if (!attributes(request, inode, status)) {
    fuse_reply_err(request, ENOENT);
    return;
  }
  fuse_reply_attr(request, &status, kAttributeSeconds);
}

void look_up(fuse_req_t request, fuse_ino_t parent, const char* name) {
  fuse_entry_param entry{};
  if (parent != FUSE_ROOT_ID || std::strcmp(name, kName) != 0 || !attributes(request, kDevice, entry.attr)) {
    fuse_reply_err(request, ENOENT);
    return;
  }
  entry.ino = kDevice;
  entry.attr_timeout = entry.entry_timeout = kAttributeSeconds;
  fuse_reply_entry(request, &entry);
}

void open_file(fuse_req_t request, fuse_ino_t /*inode*/, fuse_file_info* file) {
  file->direct_io = 1;  // nothing is kept by the kernel, as with O_DIRECT
  fuse_reply_open(request, file);
}

void read_file(fuse_req_t request, fuse_ino_t /*inode*/, std::size_t bytes, off_t offset,
               fuse_file_info* /*file*/) {
  auto& disk = disk_of(request);
  if (const int error = disk.condition.pass(Call::read); error != 0) {
    fuse_reply_err(request, error);
    return;
  }
  const std::unique_ptr<char[]> buffer(new char[bytes]);
  const auto got = pread(disk.backing, buffer.get(), bytes, offset);
  if (got < 0) {
    fuse_reply_err(request, errno);
  } else {
    fuse_reply_buf(request, buffer.get(), static_cast<std::size_t>(got));
  }
}

void write_file(fuse_req_t request, fuse_ino_t /*inode*/, const char* from, std::size_t bytes, off_t offset,
                fuse_file_info* /*file*/) {
  auto& disk = disk_of(request);
  if (const int error = disk.condition.pass(Call::write); error != 0) {
    fuse_reply_err(request, error);
    return;
  }
  const auto put = pwrite(disk.backing, from, bytes, offset);
  if (put < 0) {
    fuse_reply_err(request, errno);
  } else {
    fuse_reply_write(request, static_cast<std::size_t>(put));
  }
}

void sync_file(fuse_req_t request, fuse_ino_t /*inode*/, int /*data_only*/, fuse_file_info* /*file*/) {
  auto& disk = disk_of(request);
  const int error = disk.condition.pass(Call::sync);
  fuse_reply_err(request, error != 0 ? error : fdatasync(disk.backing) == 0 ? 0 : errno);
}

void take_commands(Condition& condition) {
  std::string line;
  while (std::getline(std::cin, line)) {
    std::cout << (condition.set(line) ? line : "not understood: " + line) << std::endl;
  }
}

int serve(Disk& disk, const char* point) {
  fuse_lowlevel_ops calls{};
  calls.lookup = look_up;
  calls.getattr = get_attributes;
  calls.open = open_file;
  calls.read = read_file;
  calls.write = write_file;
  calls.fsync = sync_file;
  char program[] = "nemesis_disk";
  char option[] = "-oallow_other";
  char* arguments[] = {program, option};
  fuse_args args = FUSE_ARGS_INIT(2, arguments);
  fuse_session* session = fuse_session_new(&args, &calls, sizeof calls, &disk);
  if (session == nullptr || fuse_set_signal_handlers(session) != 0 || fuse_session_mount(session, point) != 0)
    return 1;
  std::thread(take_commands, std::ref(disk.condition)).detach();  // in a read that only the other end can end
  fuse_loop_config* loop = fuse_loop_cfg_create();
  fuse_loop_cfg_set_max_threads(loop, kThreads);
  fuse_loop_cfg_set_idle_threads(loop, kThreads);
  const int ended = fuse_session_loop_mt(session, loop);
  fuse_loop_cfg_destroy(loop);
  fuse_session_unmount(session);
  return ended < 0 ? 1 : 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: nemesis_disk BACKING MOUNTPOINT\n");
    return 2;
  }
  static Disk disk;
  disk.backing = open(argv[1], O_RDWR | O_CLOEXEC);
  if (disk.backing < 0) {
    std::perror(argv[1]);
    return 1;
  }
  // Threads may be in calls that hang: nothing is destroyed under them.
  std::_Exit(serve(disk, argv[2]));
}
