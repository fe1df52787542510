#pragma once

#include <span>
#include <string>

#include "common/async/task.h"
#include "common/base/buffer.h"
#include "common/rpc/stream.h"
#include "common/wire/frame.h"

namespace reelfs::rpc {

/// Takes frames off a stream. Reads a little ahead, so that small frames cost less than a system call each;
/// what a payload has beyond that goes straight into its buffer.
class FrameReader {
 public:
  explicit FrameReader(Stream& stream);

  /// @errors unavailable, cancelled, protocol
  Task<wire::FrameHeader> read_header();
  /// What follows the header. Allocates as much as it states, which decoding the header has checked.
  /// @errors as above; corrupt where the payload does not match its checksum
  Task<void> read_body(const wire::FrameHeader& header, std::string& message, Buffer& payload);

 private:
  Task<std::size_t> read_some(std::span<std::byte> into);
  Task<void> read_exactly(std::span<std::byte> into);

  Stream& stream_;
  Buffer ahead_;
  std::span<const std::byte> unread_;  // of ahead_
};

}  // namespace reelfs::rpc
