#include "noded/shm/process_identity.h"

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <optional>
#include <string>

#include <fcntl.h>
#include <poll.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "common/base/ids.h"

namespace reelfs::noded {
namespace {

/// Field 3 of a proc(5) stat file: 0 where it cannot be told.
char state_in(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  const auto end_of_name = line.rfind(") ");  // the command's name may hold anything
  return end_of_name != std::string::npos && end_of_name + 2 < line.size() ? line[end_of_name + 2] : '\0';
}

/// Field 22 of /proc/PID/stat; 0 where the process is gone, empty where that cannot be told.
std::optional<std::uint64_t> start_ticks_of(std::uint32_t pid) {
  char text[1024];
  const auto path = "/proc/" + std::to_string(pid) + "/stat";
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0 && errno != ENOENT) return std::nullopt;
  if (fd < 0) return 0;
  const auto bytes = read(fd, text, sizeof text - 1);
  close(fd);
  if (bytes <= 0) return 0;
  text[bytes] = 0;
  const char* at = std::strrchr(text, ')');  // the command's name may hold anything
  for (int field = 2; at != nullptr && field < 22; ++field) {
    at = std::strchr(at + 1, ' ');
  }
  return at != nullptr ? std::strtoull(at + 1, nullptr, 10) : 0;
}

}  // namespace

ProcessIdentity ProcessIdentity::self() {
  ProcessIdentity identity;
  identity.pid = static_cast<std::uint32_t>(getpid());
  identity.start_ticks = start_ticks_of(identity.pid).value_or(0);
  return identity;
}

std::uint64_t machine_boot() {
  std::ifstream file("/proc/sys/kernel/random/boot_id");
  std::string text;
  std::getline(file, text);
  const auto id = Uuid::parse(text);
  if (!id) return 0;
  std::uint64_t boot = 0;
  std::memcpy(&boot, id.value().bytes.data(), sizeof boot);
  return boot == UINT64_MAX ? 1 : boot;
}

std::int64_t started_at_ns(const ProcessIdentity& process, std::int64_t wall_ns) {
  constexpr std::int64_t kSecond = 1'000'000'000;
  timespec since_boot{};
  clock_gettime(CLOCK_BOOTTIME, &since_boot);
  const auto up_ns = since_boot.tv_sec * kSecond + since_boot.tv_nsec;
  const auto started_ns = static_cast<std::int64_t>(process.start_ticks) * (kSecond / sysconf(_SC_CLK_TCK));
  return wall_ns - up_ns + started_ns;
}

bool is_alive(const ProcessIdentity& process) {
  if (process.pid == 0) return false;
  const int fd = static_cast<int>(syscall(SYS_pidfd_open, process.pid, 0));
  if (fd < 0 && errno == ESRCH) return false;
  if (fd >= 0) {
    pollfd poll_fd{fd, POLLIN, 0};
    const bool ended =
        poll(&poll_fd, 1, 0) == 1;  // readable once the whole thread group has ended, pidfd_open(2)
    close(fd);
    if (ended) return false;
  }
  const auto start_ticks = start_ticks_of(process.pid);
  return !start_ticks || *start_ticks == process.start_ticks;
}

bool is_running(const ProcessIdentity& process) {
  if (!is_alive(process)) return false;
  // Its first thread is the loop's, and ends before the others only where all of them are to.
  const auto state = state_in("/proc/" + std::to_string(process.pid) + "/stat");
  return state != 'Z' && state != 'X';
}

bool is_stopped(std::uint32_t pid) {
  std::error_code failed;
  std::filesystem::directory_iterator threads("/proc/" + std::to_string(pid) + "/task", failed);
  for (; !failed && threads != std::filesystem::directory_iterator(); threads.increment(failed)) {
    const auto state = state_in(threads->path() / "stat");
    if (state != 'T' && state != 't') return false;
  }
  return !failed;
}

}  // namespace reelfs::noded
