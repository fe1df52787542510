#include <array>
#include <cstring>

#include "common/base/assert.h"
#include "common/base/crc32c.h"
#include "common/wire/frame.h"
#include "tests/fuzz/fuzz.h"

namespace reelfs::fuzz {
namespace {

void decode(std::span<const std::byte> bytes) {
  const auto header = wire::decode_frame_header(bytes);
  if (!header) {
    REELFS_ASSERT(header.error().code() == Errc::protocol);
    return;
  }
  REELFS_ASSERT(header.value().message_bytes <= wire::kMaxMessageBytes);
  REELFS_ASSERT(header.value().payload_bytes <= wire::kMaxPayloadBytes);
  const auto again = wire::encode_frame_header(header.value());
  REELFS_ASSERT(std::memcmp(again.data(), bytes.data(), again.size()) == 0);
}

}  // namespace

void run(std::span<const std::byte> input) {
  decode(input);
  if (input.size() < sizeof(wire::FrameHeader)) return;
  // The same with a checksum that is right, or hardly anything would get past it.
  std::array<std::byte, sizeof(wire::FrameHeader)> sealed;
  std::memcpy(sealed.data(), input.data(), sealed.size());
  const auto crc = crc32c(std::span(sealed).first(offsetof(wire::FrameHeader, frame_crc32c)));
  std::memcpy(sealed.data() + offsetof(wire::FrameHeader, frame_crc32c), &crc, sizeof crc);
  decode(sealed);
}

std::vector<std::string> seeds() {
  std::vector<std::string> all;
  for (const auto kind :
       {wire::FrameKind::request, wire::FrameKind::reply, wire::FrameKind::error, wire::FrameKind::cancel}) {
    wire::FrameHeader header;
    header.kind = static_cast<std::uint8_t>(kind);
    header.method = static_cast<std::uint16_t>(wire::Method::append);
    header.message_bytes = 20;
    header.payload_bytes = 65536;
    header.request_id = 7;
    header.deadline_ms = 1000;
    const auto bytes = wire::encode_frame_header(header);
    all.emplace_back(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  }
  return all;
}

}  // namespace reelfs::fuzz
