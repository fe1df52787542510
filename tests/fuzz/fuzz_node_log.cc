#include <cstring>
#include <string_view>
#include <vector>

#include "common/base/assert.h"
#include "indexd/nodelog/assembly.h"
#include "indexd/nodelog/piece.h"
#include "tests/fuzz/fuzz.h"

namespace reelfs::fuzz {
namespace {

using namespace reelfs::indexd;

void decode(std::string_view bytes) {
  const auto piece = decode_piece(bytes);
  if (!piece) {
    REELFS_ASSERT(piece.error().code() == Errc::corrupt);
    return;
  }
  REELFS_ASSERT(encode_piece(piece.value().header, piece.value().bytes) == bytes);
}

/// What the headers say of themselves decides on the plan: none may make it run on, or contradict itself.
void plan(std::string_view bytes) {
  std::vector<PieceHeader> headers;
  for (; bytes.size() >= 8 && headers.size() < 64; bytes.remove_prefix(8)) {
    const auto at = [bytes](std::size_t i) { return static_cast<std::uint8_t>(bytes[i]); };
    PieceHeader header;
    header.kind = static_cast<std::uint8_t>(1 + at(0) % 2);
    header.salt = at(1) % 2;
    header.epoch = at(2) % 4;
    header.first_index = 1 + at(3) % 16;
    header.offset = at(4) % 4;
    header.bytes = 1 + at(5) % 4;
    const auto last = header.first_index + at(6) % 8;
    if (header.kind == 1) {
      header.last_index = last;
      header.total = header.offset + header.bytes + at(7) % 4;
    } else {
      header.number = 1 + at(5) % 2;
      const bool is_last = at(7) % 2 == 0;
      header.last_index = is_last ? last : 0;
      header.total = is_last ? header.offset + 1 : 0;
    }
    headers.push_back(header);
  }
  const auto plan = plan_rebuild(headers);
  if (!plan) return;
  auto next = plan->checkpoint.index + 1;
  for (const auto& entries : plan->entries) {
    REELFS_ASSERT(entries.first_index == next && entries.last_index >= next && !entries.pieces.empty());
    next = entries.last_index + 1;
  }
  REELFS_ASSERT(plan->last_index == next - 1 && plan->last_index >= plan->needed_index &&
                !plan->rows.empty());
}

}  // namespace

void run(std::span<const std::byte> input) {
  const std::string_view bytes(reinterpret_cast<const char*>(input.data()), input.size());
  decode(bytes);
  plan(bytes);
}

std::vector<std::string> seeds() {
  PieceHeader entries;
  entries.kind = static_cast<std::uint8_t>(PieceKind::entries);
  entries.first_index = entries.last_index = 1;
  entries.total = 5;
  PieceHeader rows;
  rows.kind = static_cast<std::uint8_t>(PieceKind::checkpoint);
  rows.number = 1;
  rows.total = 1;
  return {encode_piece(entries, "entry"), encode_piece(rows, "rows"), std::string(64, '\3'),
          std::string("\1\0\1\3\0\0\0\0\0\0\1\4\0\3\2\0", 16)};
}

}  // namespace reelfs::fuzz
