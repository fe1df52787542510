#include "indexd/nodelog/piece.h"

#include <array>
#include <cstddef>
#include <cstring>
#include <span>

#include "common/base/assert.h"
#include "common/base/crc32c.h"

namespace reelfs::indexd {

namespace {

std::uint32_t checksum(const PieceHeader& header, std::string_view bytes) {
  std::array<std::byte, offsetof(PieceHeader, crc32c)> raw{};
  std::memcpy(raw.data(), &header, raw.size());
  return crc32c(std::as_bytes(std::span(bytes)), crc32c(raw));
}

bool is_sane(const PieceHeader& header) {
  switch (static_cast<PieceKind>(header.kind)) {
    case PieceKind::entries:
      return header.number == 0 && header.bytes > 0 && header.first_index > 0 &&
             header.first_index <= header.last_index && header.total > 0 && header.offset < header.total &&
             header.bytes <= header.total - header.offset;
    case PieceKind::checkpoint: {
      const bool is_last = header.total != 0;
      if (header.number == 0) return false;
      if (!is_last) return header.bytes > 0 && header.last_index == 0;
      return header.offset == header.total - 1 && header.last_index >= header.first_index;
    }
  }
  return false;
}

}  // namespace

std::string encode_piece(PieceHeader header, std::string_view bytes) {
  REELFS_ASSERT(bytes.size() <= kMaxPieceBytes);
  header.bytes = static_cast<std::uint32_t>(bytes.size());
  REELFS_ASSERT(is_sane(header));
  header.crc32c = checksum(header, bytes);
  std::string piece(sizeof header, '\0');
  std::memcpy(piece.data(), &header, sizeof header);
  piece.append(bytes);
  return piece;
}

Result<Piece> decode_piece(std::string_view payload) {
  Piece piece;
  if (payload.size() < sizeof piece.header)
    return Error(Errc::corrupt, "too short for a piece of the node log");
  std::memcpy(&piece.header, payload.data(), sizeof piece.header);
  piece.bytes = payload.substr(sizeof piece.header);
  const auto& header = piece.header;
  if (header.magic != PieceHeader{}.magic || header.version != 1)
    return Error(Errc::corrupt, "not a piece of the node log of a version that is known");
  if (header.bytes != piece.bytes.size() || header.bytes > kMaxPieceBytes)
    return Error(Errc::corrupt, "a piece of the node log has another size than it says");
  if (header.crc32c != checksum(header, piece.bytes))
    return Error(Errc::corrupt, "a piece of the node log has a wrong checksum");
  if (header.reserved != 0 || !is_sane(header))
    return Error(Errc::corrupt, "fields of a piece of the node log contradict each other");
  return piece;
}

}  // namespace reelfs::indexd
