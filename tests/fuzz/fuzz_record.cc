#include <cstring>

#include "common/base/assert.h"
#include "common/base/crc32c.h"
#include "common/wire/record.h"
#include "tests/fuzz/fuzz.h"

namespace reelfs::fuzz {
namespace {

constexpr SegmentId kSegment{7};
constexpr Generation kGeneration{3};
constexpr std::uint64_t kOffset = 8192;

void decode(std::span<const std::byte> bytes) {
  const auto record = wire::decode_record_header(bytes);
  if (record) {
    const auto& header = record.value().header;
    REELFS_ASSERT(header.payload_bytes >= 1 && header.payload_bytes <= wire::kMaxRecordPayload);
    REELFS_ASSERT(record.value().chunk_crc32c.size() == header.chunk_count);
    REELFS_ASSERT(record.value().bytes() == wire::record_bytes(header.payload_bytes));
    std::uint64_t payload = 0;
    for (std::uint32_t chunk = 0; chunk < header.chunk_count; ++chunk)
      payload += record.value().chunk_length(chunk);
    REELFS_ASSERT(payload == header.payload_bytes);
  }
  const auto verdict = wire::verify_append_unit(bytes, kSegment, kGeneration, kOffset);
  if (!verdict) return;
  REELFS_ASSERT(record);
  REELFS_ASSERT(record.value().header.segment == kSegment.value);
  REELFS_ASSERT(record.value().header.segment_offset == kOffset);
  REELFS_ASSERT(record.value().bytes() <= bytes.size());
}

template <class T>
void put(std::span<std::byte> bytes, std::size_t at, T value) {
  std::memcpy(bytes.data() + at, &value, sizeof value);
}

/// Makes right what would keep nearly every input from getting past the first check: addresses and checksums
/// of the records that the sizes in their headers lead to.
void repair(std::span<std::byte> unit) {
  std::size_t at = 0;
  while (unit.size() - at >= sizeof(wire::RecordHeader)) {
    const auto rest = unit.subspan(at);
    wire::RecordHeader header;
    std::memcpy(&header, rest.data(), sizeof header);
    if (header.payload_bytes == 0 || header.payload_bytes > wire::kMaxRecordPayload) return;
    const auto header_bytes = wire::record_header_bytes(header.payload_bytes);
    const auto bytes = wire::record_bytes(header.payload_bytes);
    if (bytes > rest.size()) return;
    put(rest, offsetof(wire::RecordHeader, segment), kSegment.value);
    put(rest, offsetof(wire::RecordHeader, segment_offset), kOffset + at);
    for (std::size_t start = 0; start < header.payload_bytes; start += wire::kChunkBytes) {
      const auto length = std::min<std::size_t>(wire::kChunkBytes, header.payload_bytes - start);
      put(rest, sizeof header + 4 * (start / wire::kChunkBytes),
          crc32c(rest.subspan(header_bytes + start, length)));
    }
    put(rest, offsetof(wire::RecordHeader, header_crc32c), std::uint32_t{0});
    put(rest, offsetof(wire::RecordHeader, header_crc32c), crc32c(rest.first(header_bytes)));
    at += bytes;
  }
}

std::string unit_of(std::initializer_list<std::size_t> payloads) {
  std::string unit;
  for (const auto payload_bytes : payloads) {
    const std::string payload(payload_bytes, 'x');
    std::vector<std::byte> header(wire::record_header_bytes(static_cast<std::uint32_t>(payload_bytes)));
    wire::RecordInfo info;
    info.segment = kSegment;
    info.generation = kGeneration;
    info.segment_offset = kOffset + unit.size();
    info.channel = InodeId(2);
    info.inode = InodeId(77);
    info.sequence = 1;
    wire::encode_record_header(info, std::as_bytes(std::span(payload)), header);
    unit.append(reinterpret_cast<const char*>(header.data()), header.size()).append(payload);
    unit.resize(round_up(unit.size(), wire::kRecordAlign));
  }
  unit.resize(round_up(unit.size(), kPageBytes));
  return unit;
}

}  // namespace

void run(std::span<const std::byte> input) {
  decode(input);
  std::vector<std::byte> repaired(input.begin(), input.end());
  repair(repaired);
  decode(repaired);
  repaired.resize(round_up(repaired.size(), kPageBytes));
  decode(repaired);
}

std::vector<std::string> seeds() {
  return {unit_of({1}), unit_of({100, 3000}), unit_of({64, 65, 66}), unit_of({70000})};
}

}  // namespace reelfs::fuzz
