#include "common/wire/record.h"

#include <cstring>
#include <string>

#include "common/base/assert.h"
#include "common/base/crc32c.h"

namespace reelfs::wire {
namespace {

std::uint32_t chunks_of(std::uint32_t payload_bytes) {
  return (payload_bytes + kChunkBytes - 1) / kChunkBytes;
}

bool all_zero(std::span<const std::byte> bytes) {
  return std::all_of(bytes.begin(), bytes.end(), [](std::byte b) { return b == std::byte{0}; });
}

std::uint32_t header_checksum(std::span<const std::byte> header) {
  constexpr auto kField = offsetof(RecordHeader, header_crc32c);
  constexpr std::array<std::byte, 4> kZero{};
  auto crc = crc32c(header.first(kField));
  crc = crc32c(kZero, crc);
  return crc32c(header.subspan(kField + 4), crc);
}

}  // namespace

std::uint32_t record_header_bytes(std::uint32_t payload_bytes) {
  return static_cast<std::uint32_t>(
      round_up(sizeof(RecordHeader) + 4 * chunks_of(payload_bytes), kRecordAlign));
}

std::uint64_t record_bytes(std::uint32_t payload_bytes) {
  return round_up(std::uint64_t{record_header_bytes(payload_bytes)} + payload_bytes, kRecordAlign);
}

void encode_record_header(const RecordInfo& info, std::span<const std::byte> payload,
                          std::span<std::byte> out) {
  REELFS_ASSERT(!payload.empty() && payload.size() <= kMaxRecordPayload);
  const auto payload_bytes = static_cast<std::uint32_t>(payload.size());
  REELFS_ASSERT(out.size() == record_header_bytes(payload_bytes));
  RecordHeader header;
  header.kind = static_cast<std::uint8_t>(RecordKind::data);
  header.header_bytes = static_cast<std::uint32_t>(out.size());
  header.payload_bytes = payload_bytes;
  header.segment = info.segment.value;
  header.generation = info.generation.value;
  header.segment_offset = info.segment_offset;
  header.channel = info.channel.value;
  header.inode = info.inode.value;
  header.file_offset = info.file_offset;
  header.sequence = info.sequence;
  header.written_at_ns = info.written_at_ns;
  header.chunk_bytes = kChunkBytes;
  header.chunk_count = chunks_of(payload_bytes);
  std::memset(out.data(), 0, out.size());
  for (std::uint32_t chunk = 0; chunk < header.chunk_count; ++chunk) {
    const auto start = std::size_t{chunk} * kChunkBytes;
    const auto crc =
        crc32c(payload.subspan(start, std::min<std::size_t>(kChunkBytes, payload.size() - start)));
    std::memcpy(out.data() + sizeof header + 4 * chunk, &crc, 4);
  }
  std::memcpy(out.data(), &header, sizeof header);
  header.header_crc32c = header_checksum(out);
  std::memcpy(out.data(), &header, sizeof header);
}

Result<Record> decode_record_header(std::span<const std::byte> bytes) {
  Record record;
  auto& header = record.header;
  if (bytes.size() < sizeof header) return Error(Errc::corrupt, "record header cut short");
  std::memcpy(&header, bytes.data(), sizeof header);
  if (header.magic != RecordHeader{}.magic) return Error(Errc::corrupt, "no record here");
  if (header.version != 1) {
    return Error(Errc::corrupt, "record version " + std::to_string(header.version) + ", this build reads 1");
  }
  if (header.payload_bytes == 0 || header.payload_bytes > kMaxRecordPayload ||
      header.chunk_bytes != kChunkBytes || header.chunk_count != chunks_of(header.payload_bytes) ||
      header.header_bytes != record_header_bytes(header.payload_bytes)) {
    return Error(Errc::corrupt, "record header contradicts itself");
  }
  if (bytes.size() < header.header_bytes) return Error(Errc::corrupt, "record chunk table cut short");
  const auto whole = bytes.first(header.header_bytes);
  if (header_checksum(whole) != header.header_crc32c)
    return Error(Errc::corrupt, "record header checksum mismatch");
  if (header.kind != static_cast<std::uint8_t>(RecordKind::data)) {
    return Error(Errc::corrupt, "record kind " + std::to_string(header.kind) + " is not known to this build");
  }
  record.chunk_crc32c.resize(header.chunk_count);
  std::memcpy(record.chunk_crc32c.data(), bytes.data() + sizeof header, 4 * std::size_t{header.chunk_count});
  return record;
}

Result<void> verify_chunk(const Record& record, std::uint32_t chunk, std::span<const std::byte> bytes) {
  if (chunk < record.header.chunk_count && bytes.size() == record.chunk_length(chunk) &&
      crc32c(bytes) == record.chunk_crc32c[chunk]) {
    return ok();
  }
  return Error(Errc::corrupt,
               "checksum mismatch in inode " + std::to_string(record.header.inode) + " at offset " +
                   std::to_string(record.header.file_offset + std::uint64_t{chunk} * kChunkBytes));
}

Result<void> verify_append_unit(std::span<const std::byte> unit, SegmentId segment, Generation generation,
                                std::uint64_t offset) {
  if (unit.empty() || unit.size() % kPageBytes != 0 || offset % kPageBytes != 0) {
    return Error(Errc::invalid, "an append is a whole number of pages at a page boundary");
  }
  std::size_t at = 0;
  while (at < unit.size()) {
    const auto rest = unit.subspan(at);
    if (at > 0 && rest.size() < kPageBytes && all_zero(rest)) return ok();
    REELFS_TRY(const auto record, decode_record_header(rest));
    const auto& header = record.header;
    if (header.segment != segment.value || header.segment_offset != offset + at) {
      return Error(Errc::corrupt, "record is addressed to another place");
    }
    if (header.generation != generation.value)
      return Error(Errc::stale_generation, "record of another grant");
    if (record.bytes() > rest.size()) return Error(Errc::corrupt, "record reaches beyond its append");
    for (std::uint32_t chunk = 0; chunk < header.chunk_count; ++chunk) {
      const auto start = header.header_bytes + std::size_t{chunk} * header.chunk_bytes;
      REELFS_TRY(verify_chunk(record, chunk, rest.subspan(start, record.chunk_length(chunk))));
    }
    const auto used = std::size_t{header.header_bytes} + header.payload_bytes;
    if (!all_zero(rest.subspan(used, record.bytes() - used)))
      return Error(Errc::corrupt, "padding is not zero");
    at += record.bytes();
  }
  return ok();
}

}  // namespace reelfs::wire
