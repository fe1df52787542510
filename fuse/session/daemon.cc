#include "fuse/session/daemon.h"

#include <array>
#include <cerrno>

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

namespace reelfs::fuse {
namespace {

[[noreturn]] void wait_for_child(int report, pid_t child, int failure_status) {
  char ready = 0;
  ssize_t got = 0;
  do {
    got = ::read(report, &ready, 1);
  } while (got < 0 && errno == EINTR);
  if (got == 1) ::_exit(0);
  ::waitpid(child, nullptr, 0);  // it has said why
  ::_exit(failure_status);
}

}  // namespace

Result<Daemon> Daemon::enter(int failure_status) {
  std::array<int, 2> pipe{};
  if (::pipe2(pipe.data(), O_CLOEXEC) != 0) return from_errno(errno, "pipe");
  const auto child = ::fork();
  if (child < 0) return from_errno(errno, "fork");
  if (child > 0) {
    ::close(pipe[1]);
    wait_for_child(pipe[0], child, failure_status);
  }
  ::close(pipe[0]);
  ::setsid();
  if (::chdir("/") != 0) return from_errno(errno, "chdir /");
  return Daemon(pipe[1]);
}

void Daemon::ready() {
  const int null = ::open("/dev/null", O_RDWR | O_CLOEXEC);
  if (null >= 0) {
    for (const int standard : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) ::dup2(null, standard);
    if (null > STDERR_FILENO) ::close(null);
  }
  const char ready = 1;
  [[maybe_unused]] const auto written = ::write(report_, &ready, 1);  // fails where nobody waits any more
  ::close(report_);
}

}  // namespace reelfs::fuse
