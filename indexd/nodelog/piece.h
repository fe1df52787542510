#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <type_traits>

#include "common/base/ids.h"
#include "common/base/result.h"
#include "common/wire/record.h"

namespace reelfs::indexd {

/// The channel under which nodes keep the journal: no inode, so that nobody lists it and no policy reaches
/// it.
inline constexpr InodeId kNodeLogChannel{UINT64_MAX};

/// What a piece holds; also the inode that its record names.
enum class PieceKind : std::uint8_t {
  entries = 1,     // of the journal, or a part of them
  checkpoint = 2,  // rows
};

/// Begins the payload of a record of the node log; bytes follow. docs/formats/node-log.md
struct PieceHeader {
  std::array<char, 4> magic{'R', 'L', 'N', 'L'};
  std::uint8_t version = 1;
  std::uint8_t kind = 0;  // PieceKind
  std::uint16_t reserved = 0;
  std::uint32_t salt = 0;   // of the journal
  std::uint32_t bytes = 0;  // that follow
  std::uint64_t epoch = 0;  // of the reign in which it was made
  // entries: of the group that the piece is a part of. checkpoint: the position from which on entries are to
  // be applied to it, exclusive
  std::uint64_t first_index = 0;
  // entries: the last of the group. checkpoint: 0, or in its last piece the entry up to which some of its
  // rows may be newer than first_index
  std::uint64_t last_index = 0;
  std::uint64_t offset = 0;  // entries: in the group's bytes. checkpoint: number of the piece, from 0 on
  std::uint64_t total =
      0;  // entries: bytes of the group. checkpoint: 0, or in its last piece how many there are
  std::uint32_t number = 0;  // checkpoint: which of its reign, from 1 on
  std::uint32_t crc32c = 0;  // over the 60 bytes before it and the bytes that follow
  friend bool operator==(const PieceHeader&, const PieceHeader&) = default;
};
static_assert(sizeof(PieceHeader) == 64 && std::has_unique_object_representations_v<PieceHeader>);
static_assert(std::endian::native == std::endian::little,
              "formats are little-endian and copied as they stand");

inline constexpr std::uint32_t kMaxPieceBytes = wire::kMaxRecordPayload - sizeof(PieceHeader);

/// A piece in the bytes it was decoded from.
struct Piece {
  PieceHeader header;
  std::string_view bytes;
};

/// @pre 1 <= bytes.size() <= kMaxPieceBytes, but the last piece of a checkpoint may be empty
std::string encode_piece(PieceHeader header, std::string_view bytes);
/// @param payload  of the whole record. @errors corrupt: not a whole, sound piece, or fields that contradict
/// each other
Result<Piece> decode_piece(std::string_view payload);

}  // namespace reelfs::indexd
