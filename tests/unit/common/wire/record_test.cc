#include "common/wire/record.h"

#include <cstring>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "common/base/crc32c.h"

namespace reelfs::wire {
namespace {

constexpr SegmentId kSegment{0x0102030405060708};
constexpr Generation kGeneration{3};

RecordInfo info_at(std::uint64_t segment_offset) {
  RecordInfo info;
  info.segment = kSegment;
  info.generation = kGeneration;
  info.segment_offset = segment_offset;
  info.channel = InodeId(5);
  info.inode = InodeId(77);
  info.file_offset = 1'000'000;
  info.sequence = 9;
  info.written_at_ns = 1'700'000'000'123'456'789;
  return info;
}

std::vector<std::byte> payload_of(std::size_t bytes) {
  std::vector<std::byte> payload(bytes);
  for (std::size_t i = 0; i < bytes; ++i) payload[i] = static_cast<std::byte>(i * 31 + i / 256 + 1);
  return payload;
}

void append_record(std::vector<std::byte>& unit, std::uint64_t unit_offset, std::size_t payload_bytes) {
  const auto payload = payload_of(payload_bytes);
  const auto start = unit.size();
  const auto header_bytes = record_header_bytes(static_cast<std::uint32_t>(payload_bytes));
  unit.resize(start + record_bytes(static_cast<std::uint32_t>(payload_bytes)));
  encode_record_header(info_at(unit_offset + start), payload, std::span(unit).subspan(start, header_bytes));
  std::memcpy(unit.data() + start + header_bytes, payload.data(), payload.size());
}

/// Records of these payloads, padded to whole pages.
std::vector<std::byte> unit_of(std::uint64_t offset, const std::vector<std::size_t>& payloads) {
  std::vector<std::byte> unit;
  for (const auto bytes : payloads) append_record(unit, offset, bytes);
  unit.resize(round_up(unit.size(), kPageBytes));
  return unit;
}

std::string verdict(std::span<const std::byte> unit, std::uint64_t offset = 8192,
                    SegmentId segment = kSegment, Generation generation = kGeneration) {
  const auto result = verify_append_unit(unit, segment, generation, offset);
  return result ? "good" : std::string(to_string(result.error().code()));
}

std::string hex(std::span<const std::byte> bytes) {
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string text;
  for (const auto byte : bytes) {
    text += kDigits[static_cast<unsigned>(byte) >> 4];
    text += kDigits[static_cast<unsigned>(byte) & 15];
  }
  return text;
}

TEST(Record, IsTheseBytes) {  // docs/formats/record.md; they never change for version 1
  const std::string text = "123456789";
  std::vector<std::byte> header(record_header_bytes(9));
  encode_record_header(info_at(0x20000), std::as_bytes(std::span(text)), header);
  EXPECT_EQ(hex(std::span(header).first(136)),
            "524c5243"          // magic
            "01"                // version
            "01"                // kind
            "0000"              // flags
            "c0000000"          // header bytes
            "09000000"          // payload bytes
            "0807060504030201"  // segment
            "0300000000000000"  // generation
            "0000020000000000"  // segment offset
            "0500000000000000"  // channel
            "4d00000000000000"  // inode
            "40420f0000000000"  // file offset
            "0900000000000000"  // sequence
            "15cd853dfe9c9717"  // written at
            "00000100"          // chunk bytes
            "01000000"          // chunks
            "000000000000000000000000000000000000000000000000000000000000000000000000"
            "6b2f528a"
            "839206e3"  // the chunk's checksum, 0xe3069283
            "00000000");
}

TEST(Record, RoundTripsAtEverySize) {
  for (const std::size_t bytes :
       {1ul, 63ul, 64ul, 65ul, 4096ul, 65535ul, 65536ul, 65537ul, 131072ul, 1048575ul, 1048576ul}) {
    SCOPED_TRACE(bytes);
    std::vector<std::byte> unit;
    append_record(unit, 8192, bytes);
    const auto record = decode_record_header(unit);
    ASSERT_TRUE(record) << record.error().describe();
    const auto& header = record.value().header;
    EXPECT_EQ(header.segment, kSegment.value);
    EXPECT_EQ(header.generation, kGeneration.value);
    EXPECT_EQ(header.segment_offset, 8192u);
    EXPECT_EQ(header.channel, 5u);
    EXPECT_EQ(header.inode, 77u);
    EXPECT_EQ(header.file_offset, 1'000'000u);
    EXPECT_EQ(header.sequence, 9u);
    EXPECT_EQ(header.written_at_ns, 1'700'000'000'123'456'789);
    EXPECT_EQ(header.payload_bytes, bytes);
    EXPECT_EQ(record.value().bytes(), unit.size());
    EXPECT_EQ(unit.size() % kRecordAlign, 0u);
    EXPECT_LE(header.header_bytes, round_up(kMaxHeaderBytes, kRecordAlign));
    EXPECT_EQ(record.value().chunk_crc32c.size(), (bytes + kChunkBytes - 1) / kChunkBytes);
    for (std::uint32_t chunk = 0; chunk < header.chunk_count; ++chunk) {
      const auto start = header.header_bytes + std::size_t{chunk} * kChunkBytes;
      EXPECT_TRUE(verify_chunk(record.value(), chunk,
                               std::span(unit).subspan(start, record.value().chunk_length(chunk))));
    }
  }
}

TEST(Record, EveryFlippedBitOfTheHeaderIsNoticed) {
  std::vector<std::byte> good;
  append_record(good, 0, 100'000);
  const std::size_t header_bytes = record_header_bytes(100'000);
  for (std::size_t bit = 0; bit < header_bytes * 8; ++bit) {
    auto bad = good;
    bad[bit / 8] ^= static_cast<std::byte>(1u << (bit % 8));
    const auto record = decode_record_header(bad);
    ASSERT_FALSE(record) << bit;
    EXPECT_EQ(record.error().code(), Errc::corrupt);
  }
}

TEST(Record, RefusesWhatIsCutShort) {
  std::vector<std::byte> good;
  append_record(good, 0, 100'000);
  const std::size_t header_bytes = record_header_bytes(100'000);
  for (std::size_t bytes = 0; bytes < header_bytes; ++bytes) {
    ASSERT_FALSE(decode_record_header(std::span(good).first(bytes))) << bytes;
  }
  EXPECT_TRUE(decode_record_header(std::span(good).first(header_bytes)));
}

TEST(Record, VerifyChunkNamesInodeAndOffset) {
  std::vector<std::byte> unit;
  append_record(unit, 0, 100'000);
  const auto record = decode_record_header(unit).value();
  auto second = std::vector<std::byte>(unit.begin() + record.header.header_bytes + kChunkBytes,
                                       unit.begin() + record.header.header_bytes + 100'000);
  EXPECT_TRUE(verify_chunk(record, 1, second));
  EXPECT_FALSE(verify_chunk(record, 0, second));
  EXPECT_FALSE(verify_chunk(record, 2, second));
  EXPECT_FALSE(verify_chunk(record, 1, std::span(second).first(second.size() - 1)));
  second[10] ^= std::byte{1};
  const auto verdict = verify_chunk(record, 1, second);
  ASSERT_FALSE(verdict);
  EXPECT_EQ(verdict.error().describe(), "corrupt: checksum mismatch in inode 77 at offset 1065536");
}

TEST(AppendUnit, IsAcceptedWhole) {
  for (const auto& payloads : std::vector<std::vector<std::size_t>>{
           {1}, {3904}, {3905}, {1, 2, 3}, {65536, 1048576, 10}, {100, 100'000, 3904 - 192}}) {
    EXPECT_EQ(verdict(unit_of(8192, payloads)), "good");
  }
}

TEST(AppendUnit, EveryFlippedBitIsNoticed) {
  const auto good = unit_of(8192, {100, 5000});
  for (std::size_t bit = 0; bit < good.size() * 8; ++bit) {
    auto bad = good;
    bad[bit / 8] ^= static_cast<std::byte>(1u << (bit % 8));
    ASSERT_NE(verdict(bad), "good") << bit;
  }
}

TEST(AppendUnit, IsRefusedElsewhere) {
  const auto unit = unit_of(8192, {100, 5000});
  EXPECT_EQ(verdict(unit, 8192), "good");
  EXPECT_EQ(verdict(unit, 12288), "corrupt");
  EXPECT_EQ(verdict(unit, 8192, SegmentId(8)), "corrupt");
  EXPECT_EQ(verdict(unit, 8192, kSegment, Generation(2)), "stale_generation");
  EXPECT_EQ(verdict(unit, 8192, kSegment, Generation(4)), "stale_generation");
}

TEST(AppendUnit, ConsistsOfWholePagesAndRecords) {
  const auto unit = unit_of(8192, {5000});
  EXPECT_EQ(verdict({}), "invalid");
  EXPECT_EQ(verdict(std::span(unit).first(4096)), "corrupt");
  EXPECT_EQ(verdict(std::span(unit).first(unit.size() - 64)), "invalid");
  EXPECT_EQ(verdict(unit, 8192 + 64), "invalid");
  auto longer = unit;
  longer.resize(unit.size() + kPageBytes);  // a page of zeros is no padding
  EXPECT_EQ(verdict(longer), "corrupt");
  EXPECT_EQ(verdict(std::vector<std::byte>(4096)), "corrupt");
}

}  // namespace
}  // namespace reelfs::wire
