#include "common/wire/unit.h"

#include <cstring>
#include <random>

#include <gtest/gtest.h>

namespace reelfs::wire {
namespace {

Buffer random_bytes(std::size_t size, unsigned seed) {
  std::mt19937 random(seed);
  Buffer bytes(size);
  for (auto& byte : bytes.span()) byte = static_cast<std::byte>(random());
  return bytes;
}

TEST(AppendUnit, IsWhatANodeAcceptsAndHoldsThePayloads) {
  constexpr std::uint64_t kOffset = 40 * kPageBytes;
  const std::vector<std::size_t> sizes{1, 63, 64, 70'000, kMaxRecordPayload, 4096};
  std::vector<Buffer> payloads;
  std::vector<UnitRecord> records;
  std::uint64_t at = kOffset;
  for (const auto size : sizes) {
    payloads.push_back(random_bytes(size, static_cast<unsigned>(size)));
    UnitRecord record;
    record.info.segment = SegmentId(9);
    record.info.generation = Generation(4);
    record.info.segment_offset = at;
    record.info.inode = InodeId(100 + size);
    record.payload = payloads.back().span();
    records.push_back(record);
    at += record_bytes(static_cast<std::uint32_t>(size));
  }
  const auto bytes = static_cast<std::uint32_t>(round_up(at - kOffset, kPageBytes));
  const auto unit = form_unit(bytes, kOffset, records);
  ASSERT_EQ(unit.size(), bytes);
  const auto verified = verify_append_unit(unit.span(), SegmentId(9), Generation(4), kOffset);
  ASSERT_TRUE(verified) << verified.error().describe();
  for (const auto& record : records) {
    const auto bytes_of_record = unit.span().subspan(record.info.segment_offset - kOffset);
    const auto decoded = decode_record_header(bytes_of_record);
    ASSERT_TRUE(decoded);
    EXPECT_EQ(decoded.value().header.inode, record.info.inode.value);
    const auto payload = bytes_of_record.subspan(decoded.value().header.header_bytes, record.payload.size());
    EXPECT_EQ(std::memcmp(payload.data(), record.payload.data(), payload.size()), 0);
  }
}

}  // namespace
}  // namespace reelfs::wire
