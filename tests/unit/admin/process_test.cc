#include "admin/box/process.h"

#include <filesystem>
#include <fstream>
#include <sstream>
#include <thread>

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

namespace reelfs::admin {
namespace {

using namespace std::chrono_literals;

class Processes : public testing::Test {
 protected:
  void SetUp() override {
    auto pattern = (std::filesystem::temp_directory_path() / "reelfs-process-XXXXXX").string();
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    directory_ = pattern;
  }
  void TearDown() override {
    for (const auto pid : children_) {
      kill(pid, SIGKILL);
      waitpid(pid, nullptr, 0);
    }
    std::filesystem::remove_all(directory_);
  }
  ProcessId start(const std::vector<std::string>& arguments) {
    auto process = start_process(arguments, directory_ / "log").value();
    children_.push_back(process.pid);
    return process;
  }
  std::string log() const {
    std::ifstream file(directory_ / "log");
    std::ostringstream text;
    text << file.rdbuf();
    return text.str();
  }

  std::filesystem::path directory_;
  std::vector<pid_t> children_;
};

TEST_F(Processes, RunsInASessionOfItsOwnWithOutputInTheLog) {
  const auto process = start({"/bin/sh", "-c", "echo out; echo err >&2; read line; echo input ended"});
  EXPECT_TRUE(wait_gone(process, 10s));
  EXPECT_EQ(log(), "out\nerr\ninput ended\n");
  const auto sleeper = start({"/bin/sleep", "100"});
  EXPECT_EQ(getsid(sleeper.pid), sleeper.pid);
}

TEST_F(Processes, AppendsToTheLogOfThoseBefore) {
  EXPECT_TRUE(wait_gone(start({"/bin/echo", "first"}), 10s));
  EXPECT_TRUE(wait_gone(start({"/bin/echo", "second"}), 10s));
  EXPECT_EQ(log(), "first\nsecond\n");
  EXPECT_EQ(last_lines(directory_ / "log", 1), "    second\n");
}

TEST_F(Processes, InheritNoDescriptors) {
  const int descriptor = open("/dev/null", 0);
  ASSERT_GE(descriptor, 3);
  const auto process = start({"/bin/sh", "-c", "ls /proc/$$/fd; :"});
  close(descriptor);
  EXPECT_TRUE(wait_gone(process, 10s));
  EXPECT_EQ(log(), "0\n1\n2\n");
}

TEST_F(Processes, AMissingProgramIsAnError) {
  const auto result = start_process({"/no/such/program"}, directory_ / "log");
  ASSERT_TRUE(result.has_error());
  EXPECT_EQ(result.error().code(), Errc::not_found);
}

TEST_F(Processes, TellRunningPausedAndGoneApart) {
  const auto process = start({"/bin/sleep", "100"});
  EXPECT_EQ(state_of(process), ProcessState::running);
  signal_process(process, SIGSTOP);
  siginfo_t info{};
  ASSERT_EQ(waitid(P_PID, static_cast<id_t>(process.pid), &info, WSTOPPED | WNOWAIT), 0);
  EXPECT_EQ(state_of(process), ProcessState::paused);
  EXPECT_FALSE(wait_gone(process, 1ms));
  signal_process(process, SIGKILL);
  EXPECT_TRUE(wait_gone(process, 10s));
  EXPECT_EQ(state_of(process), ProcessState::gone) << "a zombie is gone";
}

TEST_F(Processes, OneOfWhichOnlyACallIsLeftIsEndingAndNotWaitedFor) {
  // As one looks that has ended while a thread of it is in a call that no signal ends.
  const auto child = fork();
  if (child == 0) {
    std::thread([] { pause(); }).detach();
    syscall(SYS_exit, 0);  // of this thread alone
  }
  children_.push_back(child);
  const auto process = identify(child).value();
  const auto begun = std::chrono::steady_clock::now();
  EXPECT_FALSE(wait_gone(process, 60s));
  EXPECT_LT(std::chrono::steady_clock::now() - begun, 30s);
  EXPECT_EQ(state_of(process), ProcessState::ending);
  kill(child, SIGKILL);
  EXPECT_TRUE(wait_gone(process, 10s)) << "the call has ended";
}

TEST_F(Processes, APidGivenToAnotherProcessIsNotTheOldOne) {
  auto other = identify(getpid()).value();
  EXPECT_EQ(state_of(other), ProcessState::running);
  other.start_ticks -= 1;
  EXPECT_EQ(state_of(other), ProcessState::gone);
  EXPECT_TRUE(wait_gone(other, 10s));
  signal_process(other, SIGKILL);  // would end this test
  other.start_ticks += 1;
  other.boot = "another";
  EXPECT_EQ(state_of(other), ProcessState::gone);
}

TEST_F(Processes, ArePutDownInPidFiles) {
  const auto path = directory_ / "one.pid";
  EXPECT_FALSE(read_pid_file(path).has_value());
  const auto self = identify(getpid()).value();
  ASSERT_TRUE(write_pid_file(path, self).has_value());
  const auto read = read_pid_file(path);
  ASSERT_TRUE(read.has_value());
  EXPECT_EQ(read->pid, self.pid);
  EXPECT_EQ(read->start_ticks, self.start_ticks);
  EXPECT_EQ(read->boot, self.boot);
  std::ofstream(path) << "not a pid";
  EXPECT_FALSE(read_pid_file(path).has_value());
}

}  // namespace
}  // namespace reelfs::admin
