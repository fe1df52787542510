#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include <sys/uio.h>

#include "common/async/event.h"
#include "common/async/task.h"
#include "common/base/buffer.h"
#include "common/base/clock.h"
#include "common/rpc/stream.h"
#include "common/wire/frame.h"

namespace reelfs::rpc {

/// A frame on its way out. The header's sizes, time left and checksums are filled in when it leaves.
struct OutgoingFrame {
  wire::FrameHeader header;
  std::string message;
  SharedBuffer payload;
  std::size_t payload_offset = 0;
  std::size_t payload_bytes = 0;
  std::optional<Deadline> deadline;
  std::array<std::byte, sizeof(wire::FrameHeader)> encoded{};
};

/// The frames waiting to be sent on one connection, and the coroutine that sends them, several in one system
/// call.
class Outbox {
 public:
  explicit Outbox(const Clock& clock) : clock_(clock) {}

  void push(OutgoingFrame frame);
  std::size_t size() const { return frames_.size(); }
  void clear();

  /// Takes back a frame. @return false where it is on its way already
  bool remove(std::uint64_t request_id);

  /// Sends what is pushed, in order, until the stream breaks or close() was called. One at a time.
  /// @param sent  told of each frame that left
  Task<void> drain(Stream& stream, std::function<void(const OutgoingFrame&)> sent);
  /// Ends drain(); another one may begin after that.
  void close();

 private:
  void encode(OutgoingFrame& frame);

  const Clock& clock_;
  std::deque<OutgoingFrame> frames_;
  Event changed_;
  bool closed_ = false;
};

}  // namespace reelfs::rpc
