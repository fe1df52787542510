#include "common/wire/frame.h"

#include <cstring>
#include <string>

#include <gtest/gtest.h>

#include "common/base/crc32c.h"

namespace reelfs::wire {
namespace {

FrameHeader sample() {
  FrameHeader header;
  header.kind = static_cast<std::uint8_t>(FrameKind::request);
  header.method = 0x0102;
  header.message_bytes = 0x00030405;
  header.payload_bytes = 0x00060708;
  header.request_id = 0x1112131415161718;
  header.epoch = 0x2122232425262728;
  header.deadline_ms = 0x31323334;
  header.payload_crc32c = 0x41424344;
  return header;
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

// Makes the checksum right again after a change.
std::array<std::byte, 64> sealed(std::array<std::byte, 64> bytes) {
  const auto crc = crc32c(std::span(bytes).first(60));
  std::memcpy(bytes.data() + 60, &crc, 4);
  return bytes;
}

TEST(Frame, IsTheseBytes) {  // docs/formats/frame.md; they never change for version 1
  EXPECT_EQ(hex(encode_frame_header(sample())),
            "524c4653"          // magic
            "01"                // version
            "01"                // kind
            "0201"              // method
            "05040300"          // message bytes
            "08070600"          // payload bytes
            "1817161514131211"  // request id
            "2827262524232221"  // epoch
            "34333231"          // deadline
            "44434241"          // payload checksum
            "0000000000000000000000000000000000000000"
            "743dd446");
}

TEST(Frame, RoundTrips) {
  const auto decoded = decode_frame_header(encode_frame_header(sample()));
  ASSERT_TRUE(decoded) << decoded.error().describe();
  auto expected = sample();
  expected.frame_crc32c = decoded.value().frame_crc32c;
  EXPECT_EQ(std::memcmp(&decoded.value(), &expected, sizeof expected), 0);
}

TEST(Frame, EveryFlippedBitIsNoticed) {
  const auto good = encode_frame_header(sample());
  for (std::size_t bit = 0; bit < 512; ++bit) {
    auto bad = good;
    bad[bit / 8] ^= static_cast<std::byte>(1u << (bit % 8));
    const auto decoded = decode_frame_header(bad);
    ASSERT_FALSE(decoded) << bit;
    EXPECT_EQ(decoded.error().code(), Errc::protocol);
  }
}

TEST(Frame, RefusesWhatItDoesNotKnowEvenIfTheChecksumIsRight) {
  const auto good = encode_frame_header(sample());
  const auto with = [&](std::size_t at, int value) {
    auto bytes = good;
    bytes[at] = static_cast<std::byte>(value);
    return decode_frame_header(sealed(bytes));
  };
  EXPECT_TRUE(with(5, 4));
  EXPECT_FALSE(with(0, 'X'));  // magic
  EXPECT_FALSE(with(4, 0));    // version
  EXPECT_FALSE(with(4, 2));
  EXPECT_FALSE(with(5, 0));  // kind
  EXPECT_FALSE(with(5, 5));
  for (std::size_t reserved = 40; reserved < 60; ++reserved) EXPECT_FALSE(with(reserved, 1)) << reserved;
}

TEST(Frame, RefusesSizesAboveTheLimits) {
  auto header = sample();
  header.message_bytes = kMaxMessageBytes;
  header.payload_bytes = kMaxPayloadBytes;
  EXPECT_TRUE(decode_frame_header(encode_frame_header(header)));
  ++header.message_bytes;
  EXPECT_FALSE(decode_frame_header(encode_frame_header(header)));
  --header.message_bytes;
  ++header.payload_bytes;
  EXPECT_FALSE(decode_frame_header(encode_frame_header(header)));
}

TEST(Frame, RefusesAnythingButSixtyFourBytes) {
  const auto good = encode_frame_header(sample());
  for (std::size_t bytes = 0; bytes < 64; ++bytes)
    EXPECT_FALSE(decode_frame_header(std::span(good).first(bytes)));
}

}  // namespace
}  // namespace reelfs::wire
