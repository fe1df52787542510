// Speaks the kernel's side of the FUSE protocol over a socket pair, so that answers are seen as the kernel
// sees them.
#include "fuse/session/request.h"

#include <array>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include <boost/asio/cancellation_state.hpp>
#include <boost/asio/this_coro.hpp>
#include <gtest/gtest.h>
#include <linux/fuse.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "common/async/timeout.h"
#include "fuse/session/operations.h"

namespace reelfs::fuse {
namespace {

class Kernel {
 public:
  using GetAttributes = std::function<void(fuse_req_t)>;

  explicit Kernel(GetAttributes operation) : answer_(std::move(operation)) {
    EXPECT_EQ(::socketpair(AF_UNIX, SOCK_SEQPACKET, 0, ends_.data()), 0);
    fuse_lowlevel_ops table{};
    table.getattr = [](fuse_req_t raw, fuse_ino_t, fuse_file_info*) {
      static_cast<Kernel*>(fuse_req_userdata(raw))->answer_(raw);
    };
    fuse_args args = FUSE_ARGS_INIT(0, nullptr);
    fuse_opt_add_arg(&args, "test");
    session_ = fuse_session_new(&args, &table, sizeof table, this);
    fuse_opt_free_args(&args);
    fuse_custom_io io{};
    io.read = [](int fd, void* into, std::size_t size, void*) { return ::read(fd, into, size); };
    io.writev = [](int fd, iovec* parts, int count, void*) { return ::writev(fd, parts, count); };
    EXPECT_EQ(fuse_session_custom_io(session_, &io, ends_[1]), 0);
    fuse_init_in greeting{};
    greeting.major = FUSE_KERNEL_VERSION;
    greeting.minor = FUSE_KERNEL_MINOR_VERSION;
    ask(FUSE_INIT, 1, greeting);
    EXPECT_EQ(answer().value_or(-1), 0);
  }
  ~Kernel() {
    fuse_session_destroy(session_);  // closes its end
    ::close(ends_[0]);
  }

  template <class Body>
  void ask(fuse_opcode opcode, std::uint64_t unique, const Body& body) {
    fuse_in_header header{};
    header.len = sizeof header + sizeof body;
    header.opcode = opcode;
    header.unique = unique;
    header.nodeid = FUSE_ROOT_ID;
    std::vector<char> message(header.len);
    std::memcpy(message.data(), &header, sizeof header);
    std::memcpy(message.data() + sizeof header, &body, sizeof body);
    ASSERT_EQ(::write(ends_[0], message.data(), message.size()), static_cast<ssize_t>(message.size()));
    fuse_buf buffer{};
    ASSERT_GT(fuse_session_receive_buf(session_, &buffer), 0);
    fuse_session_process_buf(session_, &buffer);
    std::free(buffer.mem);
  }
  void ask_attributes(std::uint64_t unique) { ask(FUSE_GETATTR, unique, fuse_getattr_in{}); }

  /// The errno of the next answer. @return nothing: none came
  std::optional<int> answer(std::chrono::milliseconds patience = std::chrono::seconds(10)) {
    pollfd readable{ends_[0], POLLIN, 0};
    if (::poll(&readable, 1, static_cast<int>(patience.count())) != 1) return std::nullopt;
    std::array<char, 4096> message;
    if (::read(ends_[0], message.data(), message.size()) < static_cast<ssize_t>(sizeof(fuse_out_header)))
      return std::nullopt;
    fuse_out_header header;
    std::memcpy(&header, message.data(), sizeof header);
    return -header.error;
  }
  bool is_silent() { return !answer(std::chrono::milliseconds(0)); }

 private:
  GetAttributes answer_;
  std::array<int, 2> ends_{};
  fuse_session* session_ = nullptr;
};

TEST(Request, ThatNobodyAnswersIsAnErrorAndNotAHang) {
  Kernel kernel([](fuse_req_t raw) { const Request forgotten(raw, "getattr"); });
  kernel.ask_attributes(2);
  EXPECT_EQ(kernel.answer(), EIO);
}

TEST(Request, IsAnsweredOnceThoughItMoves) {
  Kernel kernel([](fuse_req_t raw) {
    Request first(raw, "getattr");
    Request second(std::move(first));
    second.fail(Error(Errc::not_empty));
  });
  kernel.ask_attributes(2);
  EXPECT_EQ(kernel.answer(), ENOTEMPTY);
  EXPECT_TRUE(kernel.is_silent());
}

Operation answer_after(Request request, Duration wait, bool& cancelled) {
  co_await sleep_for(wait);
  const auto state = co_await asio::this_coro::cancellation_state;
  cancelled = state.cancelled() != asio::cancellation_type::none;
  if (!cancelled) request.succeed();
}

TEST(Operations, ACallerThatGivesUpGetsEintr) {
  Operations operations;
  bool cancelled = false;
  Kernel kernel([&](fuse_req_t raw) {
    operations.start(raw, answer_after(Request(raw, "getattr"), std::chrono::hours(1), cancelled));
  });
  kernel.ask_attributes(2);
  EXPECT_TRUE(kernel.is_silent());
  fuse_interrupt_in interrupt{};
  interrupt.unique = 2;
  kernel.ask(FUSE_INTERRUPT, 3, interrupt);
  EXPECT_EQ(kernel.answer(), EINTR);
  operations.stop();
  EXPECT_TRUE(cancelled);
}

TEST(Operations, WhatEndsSoonIsNotBrokenByASignal) {
  Operations operations;
  bool cancelled = false;
  Kernel kernel([&](fuse_req_t raw) {
    operations.start(raw, answer_after(Request(raw, "getattr"), std::chrono::milliseconds(5), cancelled));
  });
  kernel.ask_attributes(2);
  fuse_interrupt_in interrupt{};
  interrupt.unique = 2;
  kernel.ask(FUSE_INTERRUPT, 3, interrupt);
  EXPECT_EQ(kernel.answer(), 0);
  operations.stop();
}

TEST(Operations, StoppingAnswersEverythingUnderWayAndWhatComesLater) {
  Operations operations;
  bool cancelled = false;
  Kernel kernel([&](fuse_req_t raw) {
    operations.start(raw, answer_after(Request(raw, "getattr"), std::chrono::hours(1), cancelled));
  });
  kernel.ask_attributes(2);
  operations.stop();
  EXPECT_EQ(kernel.answer(), EIO);
  kernel.ask_attributes(3);
  EXPECT_EQ(kernel.answer(), EIO);
}

}  // namespace
}  // namespace reelfs::fuse
