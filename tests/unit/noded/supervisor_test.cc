// A node whose worker processes are started by a supervisor.
#include "noded/supervisor/supervisor.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "tests/unit/noded/processes_fixture.h"

namespace reelfs::noded {
namespace {

/// A process that need not be ours, held so that its pid does not become another's unnoticed.
class HeldProcess {
 public:
  explicit HeldProcess(pid_t pid) : fd_(static_cast<int>(syscall(SYS_pidfd_open, pid, 0))) {}
  ~HeldProcess() {
    if (fd_ >= 0) close(fd_);
  }
  HeldProcess(const HeldProcess&) = delete;
  HeldProcess& operator=(const HeldProcess&) = delete;
  bool ended() const {
    pollfd ending{fd_, POLLIN, 0};
    return fd_ < 0 || poll(&ending, 1, 0) == 1;
  }

 private:
  const int fd_;
};

constexpr std::uint32_t kSupervisor = 0;  // in `pids`

class SupervisorTest : public ProcessesTest {
 protected:
  void start_supervised() {
    pids[kSupervisor] = spawn({"--config", config_path()});
    ASSERT_TRUE(both_serve());
  }
  bool both_serve() {
    return wait_until([&] {
      return index.status(1) != nullptr && index.status(2) != nullptr && is_leader(1) != is_leader(2);
    });
  }
  pid_t worker_pid(std::uint32_t worker) const { return static_cast<pid_t>(index.status(worker)->pid()); }
  std::vector<std::string> shared_memory() const {
    return list_shm("/reelfs-" + files.cluster.to_string().substr(0, 8));
  }
  /// The exit status of the supervisor, waited for.
  int status_at_end() {
    int status = 0;
    const auto ended = [&] { return waitpid(pids.at(kSupervisor), &status, WNOHANG) != 0; };
    EXPECT_TRUE(wait_until(ended));
    pids.erase(kSupervisor);
    return status;
  }
};

TEST_F(SupervisorTest, StartsAKilledWorkerAgain) {
  start_supervised();
  for (const std::uint32_t worker : {1, 2, 1}) {
    const auto killed = worker_pid(worker);
    kill(killed, SIGKILL);
    ASSERT_TRUE(wait_until([&] { return worker_pid(worker) != killed; })) << worker;
    index.forget();
    ASSERT_TRUE(both_serve());
  }
}

TEST_F(SupervisorTest, StartsAWorkerAgainThatEndedInOrder) {
  start_supervised();
  const auto ended = worker_pid(2);
  kill(ended, SIGTERM);
  EXPECT_TRUE(wait_until([&] { return worker_pid(2) != ended; }));
}

TEST_F(SupervisorTest, WorkersEndWithAKilledSupervisor) {
  start_supervised();
  const HeldProcess first(worker_pid(1));
  const HeldProcess second(worker_pid(2));
  EXPECT_FALSE(first.ended() || second.ended());
  end(kSupervisor, SIGKILL);
  EXPECT_TRUE(wait_until([&] { return first.ended() && second.ended(); }));
}

TEST_F(SupervisorTest, PassesSignalsOnAndWaits) {
  for (const int signal : {SIGTERM, SIGINT}) {
    index.forget();
    start_supervised();
    const HeldProcess first(worker_pid(1));
    const HeldProcess second(worker_pid(2));
    EXPECT_EQ(end(kSupervisor, signal), 0);
    EXPECT_TRUE(first.ended() && second.ended());
    EXPECT_TRUE(shared_memory().empty()) << "they ended in order";
  }
}

TEST_F(SupervisorTest, EndsWhereAWorkerRefusesItsConfiguration) {
  start_supervised();
  const HeldProcess second(worker_pid(2));
  std::ofstream(config_path(), std::ios::app) << "colour = \"green\"\n";
  kill(worker_pid(1), SIGKILL);
  const auto status = status_at_end();
  EXPECT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 1);
  EXPECT_TRUE(second.ended());
}

TEST_F(SupervisorTest, BadConfigurationHasAnExitStatusOfItsOwn) {
  std::ofstream(config_path(), std::ios::app) << "colour = \"green\"\n";
  start(1);
  int status = 0;
  ASSERT_TRUE(wait_until([&] { return waitpid(pids.at(1), &status, WNOHANG) != 0; }));
  pids.erase(1);
  EXPECT_EQ(WEXITSTATUS(status), kBadConfigStatus);
  pids[kSupervisor] = spawn({"--config", config_path()});
  EXPECT_EQ(WEXITSTATUS(status_at_end()), 1) << "a supervisor says it like any failure";
}

TEST_F(SupervisorTest, KillsWorkersThatDoNotEndInTime) {
  Supervisor::Options options;
  options.program = kNodedProgram;
  options.config = config_path();
  options.stop_limit = 200ms;
  pids[kSupervisor] = fork();
  if (pids[kSupervisor] == 0) _exit(Supervisor(clock, options).run().has_value() ? 0 : 1);
  ASSERT_TRUE(both_serve());
  const HeldProcess first(worker_pid(1));
  const HeldProcess second(worker_pid(2));
  kill(worker_pid(2), SIGSTOP);
  EXPECT_EQ(end(kSupervisor, SIGTERM), 0);
  EXPECT_TRUE(first.ended() && second.ended());
}

class HangingWorkersTest : public SupervisorTest {
 protected:
  /// With workers whose first thread ends by itself; the other one is as hard to end by SIGTERM as one that
  /// hangs in a call.
  void start_hanging() {
    const auto program = files.directory() / "worker";
    std::ofstream(program) << "#!/usr/bin/env python3\n"
                              "import ctypes, signal, threading, time\n"
                              "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
                              "threading.Thread(target=time.sleep, args=(300,)).start()\n"
                              "ctypes.CDLL(None).syscall("
                           << SYS_exit << ", 0)\n";
    std::filesystem::permissions(program, std::filesystem::perms::owner_all);
    Supervisor::Options options;
    options.program = program;
    options.config = config_path();
    pids[kSupervisor] = fork();
    if (pids[kSupervisor] == 0) _exit(Supervisor(clock, options).run().has_value() ? 0 : 1);
  }
  int hanging() const {
    const auto pid = std::to_string(pids.at(kSupervisor));
    std::ifstream pids_of("/proc/" + pid + "/task/" + pid + "/children");
    int zombies = 0;
    for (pid_t child = 0; pids_of >> child;) {
      std::ifstream stat("/proc/" + std::to_string(child) + "/stat");
      std::string line;
      std::getline(stat, line);
      if (line.find(") Z") != std::string::npos) ++zombies;
    }
    return zombies;
  }
};

TEST_F(HangingWorkersTest, AreReplaced) {
  start_hanging();
  EXPECT_TRUE(wait_until([&] { return hanging() >= 4; }));
  EXPECT_EQ(end(kSupervisor, SIGTERM), 0);
}

TEST_F(HangingWorkersTest, AreNotWaitedForAtTheEnd) {
  start_hanging();
  ASSERT_TRUE(wait_until([&] { return hanging() >= 2; }));
  const auto begun = clock.now();
  EXPECT_EQ(end(kSupervisor, SIGTERM), 0);
  EXPECT_LT(clock.now() - begun, 20s) << "30 s until they are killed";
}

}  // namespace
}  // namespace reelfs::noded
