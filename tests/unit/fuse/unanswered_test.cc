#include "fuse/session/unanswered.h"

#include <array>
#include <chrono>
#include <cstring>

#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/fuse.h>
#include <unistd.h>

namespace reelfs::fuse {
namespace {

using namespace std::chrono_literals;

/// A pipe stands for the device.
class UnansweredTest : public ::testing::Test {
 protected:
  void SetUp() override { ASSERT_EQ(::pipe2(device.data(), O_NONBLOCK | O_CLOEXEC), 0); }
  void TearDown() override {
    for (const int end : device) ::close(end);
  }

  void add(std::uint32_t opcode, std::uint64_t number, const std::string& body = {}) {
    fuse_in_header header{};
    header.opcode = opcode;
    header.unique = number;
    std::string bytes(reinterpret_cast<const char*>(&header), sizeof header);
    bytes += body;
    unanswered.add(std::as_bytes(std::span(bytes)));
  }
  void interrupt(std::uint64_t number) {
    const fuse_interrupt_in which{number};
    add(FUSE_INTERRUPT, 1000, std::string(reinterpret_cast<const char*>(&which), sizeof which));
  }
  void answer(std::uint64_t number) {
    fuse_out_header header{};
    header.len = sizeof header;
    header.unique = number;
    const iovec part{&header, sizeof header};
    EXPECT_EQ(unanswered.answer(device[1], &part, 1), static_cast<ssize_t>(sizeof header));
  }
  Result<std::vector<std::string>> keep_back() { return unanswered.keep_back(Deadline::after(clock, 300ms)); }
  /// Number of the next answer that has reached the device; 0: none has.
  std::uint64_t next() {
    fuse_out_header header{};
    return ::read(device[0], &header, sizeof header) > 0 ? header.unique : 0;
  }

  SystemClock clock;
  Unanswered unanswered{clock};
  std::array<int, 2> device{};
};

TEST_F(UnansweredTest, NothingIsLeftWhereAllIsAnswered) {
  add(FUSE_WRITE, 2);
  answer(2);
  const auto left = keep_back();
  ASSERT_TRUE(left);
  EXPECT_TRUE(left.value().empty());
  EXPECT_EQ(next(), 2u);
}

TEST_F(UnansweredTest, WhatHasNoAnswerIsNotWaitedFor) {
  add(FUSE_FORGET, 2);
  add(FUSE_BATCH_FORGET, 4);
  interrupt(6);
  EXPECT_TRUE(keep_back());
}

TEST_F(UnansweredTest, AChangeIsNeverHandedOver) {
  for (const auto opcode : {FUSE_WRITE, FUSE_MKDIR, FUSE_UNLINK, FUSE_OPEN, FUSE_RELEASE, FUSE_SETATTR}) {
    add(opcode, 2);
    const auto left = keep_back();
    ASSERT_FALSE(left);
    EXPECT_EQ(left.error().code(), Errc::timed_out);
    answer(2);
    EXPECT_EQ(next(), 2u);
  }
}

TEST_F(UnansweredTest, ALongReadIsHandedOverAndItsAnswerKeptBack) {
  add(FUSE_READ, 2, "where");
  const auto left = keep_back();
  ASSERT_TRUE(left);
  ASSERT_EQ(left.value().size(), 1u);
  EXPECT_EQ(left.value().front().substr(sizeof(fuse_in_header)), "where");
  answer(2);
  EXPECT_EQ(next(), 0u);
}

TEST_F(UnansweredTest, WhereNobodyTookOverTheAnswerGoesOutOnce) {
  add(FUSE_SETLKW, 2);
  ASSERT_TRUE(keep_back());
  answer(2);
  unanswered.send_kept_back(device[1]);
  EXPECT_EQ(next(), 2u);
  EXPECT_EQ(next(), 0u);
  EXPECT_TRUE(keep_back().value().empty());
}

TEST_F(UnansweredTest, AnInterruptedCallEndsHere) {
  add(FUSE_READ, 2);
  interrupt(2);
  EXPECT_FALSE(keep_back());
}

}  // namespace
}  // namespace reelfs::fuse
