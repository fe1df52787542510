#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>
#include <vector>

#include "common/base/ids.h"
#include "common/base/result.h"
#include "common/base/units.h"

namespace reelfs::wire {

/// What is appended to a segment, the same bytes on the wire and on disk: header, chunk table, payload,
/// padding. docs/formats/record.md
///
/// An *append unit* is one or more records back to back, each at a multiple of kRecordAlign from the unit's
/// start, then zeros up to a multiple of kPageBytes. A segment is units back to back. So whoever knows a
/// record's end finds the next at the next multiple of kRecordAlign or, where no record begins there, at the
/// next page.
struct RecordHeader {
  std::array<char, 4> magic{'R', 'L', 'R', 'C'};
  std::uint8_t version = 1;
  std::uint8_t kind = 1;  // RecordKind
  std::uint16_t flags = 0;
  std::uint32_t header_bytes = 0;   // this header and the chunk table, a multiple of kRecordAlign
  std::uint32_t payload_bytes = 0;  // 1 .. kMaxRecordPayload
  std::uint64_t segment = 0;
  std::uint64_t generation = 0;      // of the grant it was written under
  std::uint64_t segment_offset = 0;  // of this header: a misplaced write is noticed
  std::uint64_t channel = 0;
  std::uint64_t inode = 0;
  std::uint64_t file_offset = 0;
  std::uint64_t sequence = 0;      // grows within a writer
  std::int64_t written_at_ns = 0;  // wall time of the writer
  std::uint32_t chunk_bytes = 0;   // of all chunks but the last
  std::uint32_t chunk_count = 0;
  std::array<std::uint8_t, 36> reserved{};
  std::uint32_t header_crc32c = 0;  // over header_bytes with this field zero
};
static_assert(sizeof(RecordHeader) == 128 && std::has_unique_object_representations_v<RecordHeader>);
static_assert(std::endian::native == std::endian::little);

enum class RecordKind : std::uint8_t { data = 1 };

inline constexpr std::uint32_t kRecordAlign = 64;
inline constexpr std::uint32_t kChunkBytes = 64 * kKiB;
inline constexpr std::uint32_t kMaxRecordPayload = 1 * kMiB;
inline constexpr std::uint32_t kMaxHeaderBytes = sizeof(RecordHeader) + 4 * (kMaxRecordPayload / kChunkBytes);

/// What a writer says of a record; the rest follows from it.
struct RecordInfo {
  SegmentId segment;
  Generation generation;
  std::uint64_t segment_offset = 0;
  InodeId channel;
  InodeId inode;
  std::uint64_t file_offset = 0;
  std::uint64_t sequence = 0;
  std::int64_t written_at_ns = 0;
};

/// Bytes of header and chunk table for a payload of this size.
std::uint32_t record_header_bytes(std::uint32_t payload_bytes);
/// Bytes of the whole record, padded to kRecordAlign.
std::uint64_t record_bytes(std::uint32_t payload_bytes);

/// Writes header and chunk table into `out`; the payload is to stand behind them.
/// @pre out.size() == record_header_bytes(payload.size()), 1 <= payload.size() <= kMaxRecordPayload
void encode_record_header(const RecordInfo& info, std::span<const std::byte> payload,
                          std::span<std::byte> out);

/// A header that was read back, and its chunks' checksums.
struct Record {
  RecordHeader header;
  std::vector<std::uint32_t> chunk_crc32c;

  std::uint64_t bytes() const {
    return round_up(std::uint64_t{header.header_bytes} + header.payload_bytes, kRecordAlign);
  }
  std::uint32_t chunk_length(std::uint32_t chunk) const {
    const auto start = chunk * header.chunk_bytes;
    return std::min(header.chunk_bytes, header.payload_bytes - start);
  }
};

/// @param bytes  starts with the header; at least as long as header and chunk table
/// @errors corrupt: not a record, checksum wrong, or fields that contradict each other
Result<Record> decode_record_header(std::span<const std::byte> bytes);

/// Compares a chunk's bytes with the table. @errors corrupt, naming inode and offset
Result<void> verify_chunk(const Record& record, std::uint32_t chunk, std::span<const std::byte> bytes);

/// Checks an append unit as a node does before it writes: every record whole, its checksums right, of this
/// segment and generation and at the place where it will stand; the padding zero.
/// @param offset  of the unit in the segment, page-aligned
/// @errors corrupt, invalid (size or offset not page-aligned), stale_generation
Result<void> verify_append_unit(std::span<const std::byte> unit, SegmentId segment, Generation generation,
                                std::uint64_t offset);

}  // namespace reelfs::wire
