#include "admin/box/process.h"

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <deque>
#include <fstream>
#include <sstream>

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/syscall.h>
#include <unistd.h>

extern char** environ;

namespace reelfs::admin {
namespace {

using namespace std::chrono_literals;

constexpr auto kCallLimit = 2s;  // of a call that its process has not outlived: then it hangs
constexpr std::chrono::milliseconds kLookAgain = 100ms;

std::string boot_id() {
  std::ifstream file("/proc/sys/kernel/random/boot_id");
  std::string id;
  file >> id;
  return id;
}

struct Stat {
  char state = 0;
  std::uint64_t flags = 0;
  std::uint64_t start_ticks = 0;
};

// proc(5): "pid (comm) state ppid …", field 9 is the flags, 22 the start time. comm may hold spaces and
// parentheses.
std::optional<Stat> read_stat(pid_t pid) {
  std::ifstream file("/proc/" + std::to_string(pid) + "/stat");
  std::string line;
  if (!std::getline(file, line)) return std::nullopt;
  const auto end_of_name = line.rfind(')');
  if (end_of_name == std::string::npos) return std::nullopt;
  std::istringstream fields(line.substr(end_of_name + 1));
  Stat stat;
  fields >> stat.state;
  std::string skipped;
  for (int field = 4; field < 9; ++field) fields >> skipped;
  fields >> stat.flags;
  for (int field = 10; field < 22; ++field) fields >> skipped;
  if (!(fields >> stat.start_ticks)) return std::nullopt;
  return stat;
}

// A signal that was sent is pending until the process has run.
bool is_killed(pid_t pid, const Stat& stat) {
  constexpr std::uint64_t kExiting = 0x4;  // PF_EXITING, include/linux/sched.h
  constexpr std::uint64_t kKill = 1u << (SIGKILL - 1);
  if ((stat.flags & kExiting) != 0) return true;
  std::ifstream file("/proc/" + std::to_string(pid) + "/status");
  for (std::string line; std::getline(file, line);) {
    if (!line.starts_with("SigPnd:") && !line.starts_with("ShdPnd:")) continue;
    if ((std::strtoull(line.c_str() + sizeof("SigPnd:"), nullptr, 16) & kKill) != 0) return true;
  }
  return false;
}

// pidfd_open(2): the descriptor becomes readable when the last thread has ended.
bool all_threads_ended(pid_t pid) {
  const int descriptor = static_cast<int>(syscall(SYS_pidfd_open, pid, 0));
  if (descriptor < 0) return true;
  pollfd event{descriptor, POLLIN, 0};
  const bool ended = ::poll(&event, 1, 0) > 0;
  ::close(descriptor);
  return ended;
}

}  // namespace

Result<ProcessId> identify(pid_t pid) {
  const auto stat = read_stat(pid);
  if (!stat) return Error(Errc::not_found, "no process " + std::to_string(pid));
  return ProcessId{pid, stat->start_ticks, boot_id()};
}

ProcessState state_of(const ProcessId& process) {
  const auto stat = read_stat(process.pid);
  if (!stat || stat->start_ticks != process.start_ticks || process.boot != boot_id())
    return ProcessState::gone;
  // The first thread of a killed process is a zombie while another one, in a write to a disk say, still holds
  // what the process has open.
  const bool ended = stat->state == 'Z' || stat->state == 'X';
  if (ended) return all_threads_ended(process.pid) ? ProcessState::gone : ProcessState::ending;
  if (is_killed(process.pid, *stat)) return ProcessState::ending;
  return stat->state == 'T' ? ProcessState::paused : ProcessState::running;
}

std::optional<ProcessId> read_pid_file(const std::filesystem::path& path) {
  std::ifstream file(path);
  ProcessId process;
  if (!(file >> process.pid >> process.start_ticks >> process.boot)) return std::nullopt;
  return process;
}

Result<void> write_pid_file(const std::filesystem::path& path, const ProcessId& process) {
  // Written beside and renamed, so that a reader never meets half a line.
  const auto beside = path.string() + ".new";
  {
    std::ofstream file(beside, std::ios::trunc);
    file << process.pid << ' ' << process.start_ticks << ' ' << process.boot << '\n';
    if (!file.flush()) return Error(Errc::io, "cannot write " + beside);
  }
  if (::rename(beside.c_str(), path.c_str()) != 0) return from_errno(errno, "rename " + beside);
  return ok();
}

Result<ProcessId> start_process(const std::vector<std::string>& arguments, const std::filesystem::path& log) {
  std::vector<char*> argv;
  for (const auto& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);

  posix_spawn_file_actions_t files;
  posix_spawn_file_actions_init(&files);
  posix_spawn_file_actions_addopen(&files, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_addopen(&files, STDOUT_FILENO, log.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0644);
  posix_spawn_file_actions_adddup2(&files, STDOUT_FILENO, STDERR_FILENO);
  // From here on nothing of the caller's is open: a test that waits for the end of our output must not wait
  // for the box.
  posix_spawn_file_actions_addclosefrom_np(&files, STDERR_FILENO + 1);
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSID | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSIGMASK);
  sigset_t all;
  sigset_t none;
  sigfillset(&all);
  sigemptyset(&none);
  posix_spawnattr_setsigdefault(&attributes, &all);
  posix_spawnattr_setsigmask(&attributes, &none);

  pid_t pid = 0;
  const int failed = posix_spawn(&pid, argv[0], &files, &attributes, argv.data(), environ);
  posix_spawnattr_destroy(&attributes);
  posix_spawn_file_actions_destroy(&files);
  if (failed != 0) return from_errno(failed, "starting " + arguments.front());
  return identify(pid);
}

std::optional<ProcessId> find_process(const std::vector<std::string>& arguments) {
  const auto program = std::filesystem::path(arguments.front()).filename();
  std::string rest;
  for (auto next = arguments.begin() + 1; next != arguments.end(); ++next) rest += *next + '\0';
  std::error_code failed;
  std::filesystem::directory_iterator entries("/proc", failed);
  for (; !failed && entries != std::filesystem::directory_iterator(); entries.increment(failed)) {
    const auto name = entries->path().filename().string();
    if (name.find_first_not_of("0123456789") != name.npos) continue;
    std::ifstream file(entries->path() / "cmdline");
    std::string first;
    if (!std::getline(file, first, '\0') || std::filesystem::path(first).filename() != program) continue;
    const std::string others(std::istreambuf_iterator<char>(file), {});
    if (others != rest) continue;
    auto found = identify(static_cast<pid_t>(std::stol(name)));
    if (found && state_of(found.value()) != ProcessState::gone) return std::move(found).value();
  }
  return std::nullopt;
}

void signal_process(const ProcessId& process, int signal) {
  // The descriptor names the process, not the number: between the look and the signal the pid cannot be given
  // away.
  const int descriptor = static_cast<int>(syscall(SYS_pidfd_open, process.pid, 0));
  if (descriptor < 0) return;
  if (state_of(process) != ProcessState::gone) syscall(SYS_pidfd_send_signal, descriptor, signal, nullptr, 0);
  ::close(descriptor);
}

bool wait_gone(const ProcessId& process, std::chrono::milliseconds time) {
  using Clock = std::chrono::steady_clock;
  const int descriptor = static_cast<int>(syscall(SYS_pidfd_open, process.pid, 0));
  const auto until = Clock::now() + time;
  auto alive_at = Clock::now();
  bool gone = false;
  for (;;) {
    const auto state = state_of(process);
    const auto now = Clock::now();
    gone = descriptor < 0 || state == ProcessState::gone;
    if (state != ProcessState::ending) alive_at = now;
    if (gone || now >= until || now - alive_at > kCallLimit) break;
    pollfd event{descriptor, POLLIN, 0};
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(until - now);
    (void)::poll(&event, 1, static_cast<int>(std::min<std::chrono::milliseconds>(left, kLookAgain).count()));
  }
  if (descriptor >= 0) ::close(descriptor);
  return gone;
}

std::string last_lines(const std::filesystem::path& path, std::size_t lines) {
  std::ifstream file(path);
  std::deque<std::string> kept;
  for (std::string line; std::getline(file, line);) {
    kept.push_back(std::move(line));
    if (kept.size() > lines) kept.pop_front();
  }
  std::string text;
  for (const auto& line : kept) text += "    " + line + "\n";
  return text;
}

}  // namespace reelfs::admin
