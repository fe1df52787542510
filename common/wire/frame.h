#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>

#include "common/base/result.h"
#include "common/base/units.h"
#include "common/wire/method.h"

namespace reelfs::wire {

enum class FrameKind : std::uint8_t {
  request = 1,
  reply = 2,   // the method's reply message, and payload
  error = 3,   // ErrorReply
  cancel = 4,  // the caller of request_id gave up; not answered
};

/// Begins every message on a connection; message and payload bytes follow. docs/formats/frame.md
struct FrameHeader {
  std::array<char, 4> magic{'R', 'L', 'F', 'S'};
  std::uint8_t version = 1;
  std::uint8_t kind = 0;            // FrameKind
  std::uint16_t method = 0;         // Method
  std::uint32_t message_bytes = 0;  // protobuf message that follows, then
  std::uint32_t payload_bytes = 0;  // raw bytes
  std::uint64_t request_id = 0;     // unique per connection, set by the caller
  std::uint64_t epoch = 0;          // of the active index server the sender knows
  std::uint32_t deadline_ms = 0;    // time left when sent; 0 = none
  std::uint32_t payload_crc32c = 0;
  std::array<std::uint8_t, 20> reserved{};  // zero when written, checked when read
  std::uint32_t frame_crc32c = 0;           // over the 60 bytes before it
};
static_assert(sizeof(FrameHeader) == 64 && std::has_unique_object_representations_v<FrameHeader>);
static_assert(std::endian::native == std::endian::little,
              "formats are little-endian and copied as they stand");

inline constexpr std::uint8_t kFrameVersion = 1;
inline constexpr std::uint32_t kMaxMessageBytes = 8 * kMiB;
inline constexpr std::uint32_t kMaxPayloadBytes = 8 * kMiB;

/// The 64 bytes as sent, with their checksum.
std::array<std::byte, 64> encode_frame_header(FrameHeader header);

/// @param bytes  exactly 64
/// @errors protocol: wrong size, magic, version, kind, checksum, reserved bytes, or sizes above the limits
Result<FrameHeader> decode_frame_header(std::span<const std::byte> bytes);

}  // namespace reelfs::wire
