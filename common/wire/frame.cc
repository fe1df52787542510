#include "common/wire/frame.h"

#include <algorithm>
#include <cstring>
#include <string>

#include "common/base/crc32c.h"

namespace reelfs::wire {
namespace {

constexpr std::size_t kChecksummedBytes = offsetof(FrameHeader, frame_crc32c);

}  // namespace

std::array<std::byte, 64> encode_frame_header(FrameHeader header) {
  std::array<std::byte, 64> bytes;
  std::memcpy(bytes.data(), &header, sizeof header);
  header.frame_crc32c = crc32c(std::span(bytes).first(kChecksummedBytes));
  std::memcpy(bytes.data(), &header, sizeof header);
  return bytes;
}

Result<FrameHeader> decode_frame_header(std::span<const std::byte> bytes) {
  FrameHeader header;
  if (bytes.size() != sizeof header) return Error(Errc::protocol, "a frame header has 64 bytes");
  std::memcpy(&header, bytes.data(), sizeof header);
  if (header.magic != FrameHeader{}.magic) return Error(Errc::protocol, "not a reelfs frame");
  if (header.version != kFrameVersion) {
    return Error(Errc::protocol, "frame version " + std::to_string(header.version) + ", this build speaks 1");
  }
  if (crc32c(bytes.first(kChecksummedBytes)) != header.frame_crc32c) {
    return Error(Errc::protocol, "frame header checksum mismatch");
  }
  if (header.kind < 1 || header.kind > 4) {
    return Error(Errc::protocol, "frame kind " + std::to_string(header.kind));
  }
  if (std::any_of(header.reserved.begin(), header.reserved.end(), [](auto b) { return b != 0; })) {
    return Error(Errc::protocol, "reserved frame bytes are set");
  }
  if (header.message_bytes > kMaxMessageBytes || header.payload_bytes > kMaxPayloadBytes) {
    return Error(Errc::protocol, "frame of " + std::to_string(header.message_bytes) + "+" +
                                     std::to_string(header.payload_bytes) + " bytes is above the limit");
  }
  return header;
}

}  // namespace reelfs::wire
