#include "noded/supervisor/supervisor.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <climits>
#include <csignal>
#include <fstream>
#include <optional>
#include <utility>

#include <poll.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/observe/log.h"

namespace reelfs::noded {
namespace {

using namespace std::chrono_literals;

constexpr Duration kKillLimit = 10s;  // a killed process lives on until its last system call returns
constexpr Duration kCallLimit = 2s;   // of a call that its process has not outlived: then it hangs
constexpr Duration kLookPause = 200ms;
constexpr Duration kHangLookPause = 1s;
constexpr int kCannotExecute = 127;  // as a shell says it

spdlog::logger& log() {
  static auto& instance = logger("noded.supervisor");
  return instance;
}

/// Takes signals as things to read instead of interruptions, for a scope.
class SignalDescriptor {
 public:
  SignalDescriptor() {
    sigset_t taken;
    sigemptyset(&taken);
    for (const int signal : {SIGTERM, SIGINT, SIGCHLD}) sigaddset(&taken, signal);
    sigprocmask(SIG_BLOCK, &taken, &before_);
    fd_ = signalfd(-1, &taken, SFD_CLOEXEC | SFD_NONBLOCK);
  }
  ~SignalDescriptor() {
    if (fd_ >= 0) close(fd_);
    sigprocmask(SIG_SETMASK, &before_, nullptr);
  }
  SignalDescriptor(const SignalDescriptor&) = delete;
  SignalDescriptor& operator=(const SignalDescriptor&) = delete;

  int fd() const { return fd_; }
  /// The next one that has come; 0: none.
  int next() const {
    signalfd_siginfo info{};
    return read(fd_, &info, sizeof info) == sizeof info ? static_cast<int>(info.ssi_signo) : 0;
  }

 private:
  sigset_t before_{};
  int fd_ = -1;
};

/// Only calls that signal-safety(7) lists: the memory is the parent's as it was at fork().
[[noreturn]] void become_worker(pid_t supervisor, const char* program, char* const* arguments) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != supervisor) _exit(0);  // it died before the line above could count
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  execv(program, arguments);
  _exit(kCannotExecute);
}

/// Whether its first thread has ended: one of the others is in a call that no signal ends.
/// @pre it is a child that cannot be waited for yet
bool hangs_in_a_call(pid_t pid) {
  std::ifstream file("/proc/" + std::to_string(pid) + "/stat");
  std::string line;
  std::getline(file, line);
  const auto name_end = line.rfind(')');  // proc(5): the state stands behind it
  return name_end != std::string::npos && line.compare(name_end, 3, ") Z") == 0;
}

std::string how_it_ended(int status) {
  if (WIFSIGNALED(status)) return "signal " + std::to_string(WTERMSIG(status));
  return "status " + std::to_string(WEXITSTATUS(status));
}

}  // namespace

Supervisor::Supervisor(const Clock& clock, Options options)
    : clock_(clock), options_(std::move(options)), plan_(options_.workers) {}

Result<void> Supervisor::run() {
  const SignalDescriptor signals;
  if (signals.fd() < 0) return from_errno(errno, "signalfd");
  for (;;) {
    start_due();
    pollfd readable{signals.fd(), POLLIN, 0};
    if (poll(&readable, 1, wait_ms()) < 0 && errno != EINTR) return from_errno(errno, "poll");
    while (const int signal = signals.next()) {
      if (signal != SIGCHLD) stop(signal);
    }
    collect_ended();
    if (!stopping_) {
      replace_hanging();
      continue;
    }
    if (running_.empty() || only_calls_hang()) return outcome();
    if (clock_.now() < give_up_) continue;
    if (killed_) {
      return Error(Errc::timed_out, std::to_string(running_.size()) + " killed workers have not ended");
    }
    log().error("killing workers that do not end workers={}", running_.size());
    signal_all(SIGKILL);
    killed_ = true;
    give_up_ = clock_.now() + kKillLimit;
  }
}

void Supervisor::start_due() {
  for (const auto worker : plan_.due(clock_.now())) {
    const auto pid = spawn(worker);
    plan_.started(worker, clock_.now());
    if (pid) {
      running_[pid.value()] = worker;
      log().info("worker started worker={} pid={}", worker.value, pid.value());
      continue;
    }
    plan_.ended(worker, clock_.now());
    log().error("worker not started worker={} why=\"{}\"", worker.value, pid.error().describe());
  }
}

Result<pid_t> Supervisor::spawn(WorkerId worker) {
  std::array<std::string, 5> words = {"noded", "--config", options_.config.string(), "--worker",
                                      std::to_string(worker.value)};
  std::array<char*, words.size() + 1> arguments{};
  std::transform(words.begin(), words.end(), arguments.begin(),
                 [](std::string& word) { return word.data(); });
  const auto supervisor = getpid();
  const auto pid = fork();
  if (pid < 0) return from_errno(errno, "fork");
  if (pid == 0) become_worker(supervisor, options_.program.c_str(), arguments.data());
  return pid;
}

void Supervisor::collect_ended() {
  int status = 0;
  for (;;) {
    const auto pid = waitpid(-1, &status, WNOHANG);
    if (pid <= 0) return;
    note_ended(pid, status);
  }
}

void Supervisor::note_ended(pid_t pid, int status) {
  const auto found = running_.find(pid);
  if (found == running_.end()) return;
  const auto worker = found->second;
  running_.erase(found);
  const auto now = clock_.now();
  const auto again = plan_.ended(worker, now);
  if (WIFEXITED(status) && WEXITSTATUS(status) == kBadConfigStatus) {
    log().error("worker refuses its configuration, stopping the node worker={} pid={}", worker.value, pid);
    refused_ = worker;
    if (!stopping_) stop(SIGTERM);
  } else if (stopping_) {
    log().info("worker ended worker={} pid={} how=\"{}\"", worker.value, pid, how_it_ended(status));
  } else {
    log().warn("worker ended by itself worker={} pid={} how=\"{}\" again_in_ms={}", worker.value, pid,
               how_it_ended(status),
               std::chrono::duration_cast<std::chrono::milliseconds>(again - now).count());
  }
}

void Supervisor::replace_hanging() {
  const auto now = clock_.now();
  for (auto at = running_.begin(); at != running_.end();) {
    const auto [pid, worker] = *at;
    const bool hangs = hangs_in_a_call(pid);
    if (!hangs) seen_hanging_.erase(pid);
    if (!hangs || now - seen_hanging_.try_emplace(pid, now).first->second < kCallLimit) {
      ++at;
      continue;
    }
    log().error(
        "worker ended but for a call that hangs in the kernel, another takes its place worker={} pid={}",
        worker.value, pid);
    seen_hanging_.erase(pid);
    plan_.ended(worker, now);
    at = running_.erase(at);
  }
}

void Supervisor::stop(int signal) {
  log().info("stopping workers={} signal={}", running_.size(), signal);
  plan_.stop();
  if (!stopping_) give_up_ = clock_.now() + options_.stop_limit;
  stopping_ = true;
  signal_all(signal);
}

/// @return whether that was so for as long as a call may take
bool Supervisor::only_calls_hang() {
  const auto hangs = [](const auto& worker) { return hangs_in_a_call(worker.first); };
  if (!std::all_of(running_.begin(), running_.end(), hangs)) {
    hanging_since_.reset();
    return false;
  }
  const auto now = clock_.now();
  if (!hanging_since_) hanging_since_ = now;
  if (now - *hanging_since_ < kCallLimit) return false;
  for (const auto& [pid, worker] : running_) {
    log().error(
        "worker ended but for a call that hangs in the kernel: its disk stays in use until that returns "
        "worker={} pid={}",
        worker.value, pid);
  }
  return true;
}

void Supervisor::signal_all(int signal) {
  for (const auto& [pid, worker] : running_)
    kill(pid, signal);  // not yet waited for: the pid is still theirs
}

Result<void> Supervisor::outcome() const {
  if (!refused_) return ok();
  return Error(Errc::bad_config, "worker " + std::to_string(refused_.value) +
                                     " refuses its configuration: its message says why");
}

int Supervisor::wait_ms() const {
  auto until = plan_.next_due();
  if (stopping_) until = std::min(give_up_, clock_.now() + kLookPause);
  // The kernel does not tell of a worker that has ended but for a call.
  else if (!running_.empty())
    until = std::min(until.value_or(TimePoint::max()), clock_.now() + kHangLookPause);
  if (!until) return -1;
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(*until - clock_.now()).count();
  return static_cast<int>(std::clamp<std::int64_t>(left, 0, INT_MAX));
}

}  // namespace reelfs::noded
