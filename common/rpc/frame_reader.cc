#include "common/rpc/frame_reader.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "common/base/crc32c.h"
#include "common/base/units.h"

namespace reelfs::rpc {

FrameReader::FrameReader(Stream& stream) : stream_(stream), ahead_(kPageBytes) {}

Task<std::size_t> FrameReader::read_some(std::span<std::byte> into) {
  if (unread_.empty()) {
    if (into.size() >= ahead_.size()) co_return co_await stream_.read_some(into);
    REELFS_CO_TRY(const auto got, co_await stream_.read_some(ahead_.span()));
    unread_ = std::span<const std::byte>(ahead_.span()).first(got);
  }
  const auto taken = std::min(unread_.size(), into.size());
  std::memcpy(into.data(), unread_.data(), taken);
  unread_ = unread_.subspan(taken);
  co_return taken;
}

Task<void> FrameReader::read_exactly(std::span<std::byte> into) {
  while (!into.empty()) {
    REELFS_CO_TRY(const auto got, co_await read_some(into));
    into = into.subspan(got);
  }
  co_return ok();
}

Task<wire::FrameHeader> FrameReader::read_header() {
  std::array<std::byte, sizeof(wire::FrameHeader)> bytes;
  REELFS_CO_TRY(co_await read_exactly(bytes));
  co_return wire::decode_frame_header(bytes);
}

Task<void> FrameReader::read_body(const wire::FrameHeader& header, std::string& message, Buffer& payload) {
  if (header.message_bytes > 0) {
    message.resize(header.message_bytes);
    REELFS_CO_TRY(co_await read_exactly(std::as_writable_bytes(std::span(message))));
  }
  if (header.payload_bytes > 0) {
    payload = Buffer(header.payload_bytes);
    std::uint32_t crc = 0;
    for (auto rest = payload.span(); !rest.empty();) {
      REELFS_CO_TRY(const auto got, co_await read_some(rest));
      crc = crc32c(rest.first(got), crc);  // while the processor's cache has it
      rest = rest.subspan(got);
    }
    if (crc != header.payload_crc32c) {
      co_return Error(Errc::corrupt, "payload checksum mismatch on the wire");
    }
  }
  co_return ok();
}

}  // namespace reelfs::rpc
