#include <array>
#include <cstring>
#include <string>

#include <gtest/gtest.h>

#include "noded/device/descriptor.h"
#include "noded/device/superblock.h"

namespace reelfs::noded {
namespace {

Superblock sample_superblock() {
  Superblock superblock;
  for (std::uint8_t i = 0; i < 16; ++i) {
    superblock.cluster.bytes[i] = i;
    superblock.uuid.bytes[i] = static_cast<std::uint8_t>(0xf0 + i);
  }
  superblock.device = DeviceId(7);
  superblock.node_name = "node1";
  superblock.geometry = plan_geometry(64 * kMiB, 4 * kMiB).value();
  superblock.created_at_ns = 0x0102030405060708;
  return superblock;
}

BlockDescriptor sample_descriptor() {
  BlockDescriptor descriptor;
  descriptor.segment = 0x1122334455667788;
  descriptor.generation = 9;
  descriptor.channel = 3;
  descriptor.length = 2 * kPageBytes;
  descriptor.fence_generation = 8;
  descriptor.fence_length = kPageBytes;
  descriptor.update_counter = 17;
  descriptor.allocated_at_ns = 1;
  descriptor.boot = 0x0102030405060708;
  descriptor.verified_at_ns = 5;
  descriptor.worker = 2;
  descriptor.state = BlockState::open;
  descriptor.fenced = 1;
  return descriptor;
}

std::string hex(std::span<const std::byte> bytes) {
  std::string text;
  for (const auto byte : bytes) {
    constexpr char kDigits[] = "0123456789abcdef";
    text += kDigits[std::to_integer<int>(byte) >> 4];
    text += kDigits[std::to_integer<int>(byte) & 15];
  }
  return text;
}

constexpr BlockAddress kAddress{DeviceId(7), 5};

TEST(Geometry, LeavesRoomForBothSuperblocksTableAndWholeBlocks) {
  const auto geometry = plan_geometry(64 * kMiB, 4 * kMiB).value();
  EXPECT_EQ(geometry.block_count, 15u);
  EXPECT_EQ(geometry.table_offset, 4096u);
  EXPECT_EQ(geometry.data_offset, kMiB);
  EXPECT_EQ(geometry.copy_offset, 64 * kMiB - kPageBytes);
  EXPECT_LE(geometry.block_offset(geometry.block_count), geometry.copy_offset);
}

TEST(Geometry, GivesUpABlockRatherThanTheCopy) {
  const auto exact = kMiB + 4 * (4 * kMiB);
  EXPECT_EQ(plan_geometry(exact, 4 * kMiB).value().block_count, 3u);
  EXPECT_EQ(plan_geometry(exact + kPageBytes, 4 * kMiB).value().block_count, 4u);
}

TEST(Geometry, RefusesWhatHoldsNoBlock) {
  EXPECT_EQ(plan_geometry(4 * kMiB, 4 * kMiB).error().code(), Errc::no_space);
  EXPECT_EQ(plan_geometry(64 * kMiB, 5 * kMiB).error().code(), Errc::invalid);
  EXPECT_EQ(plan_geometry(64 * kMiB, 2 * kMiB).error().code(), Errc::invalid);
}

TEST(Geometry, LaysOutALargeDiskOfSmallBlocks) {
  const auto geometry = plan_geometry(24 * kTiB, 4 * kMiB).value();
  EXPECT_GT(geometry.block_count, 6'000'000u);
  EXPECT_GE(geometry.data_offset, geometry.table_offset + table_pages(geometry.block_count) * kPageBytes);
}

TEST(SuperblockFormat, ReadsWhatItWrote) {
  const auto superblock = sample_superblock();
  EXPECT_EQ(decode_superblock(encode_superblock(superblock).span()).value(), superblock);
}

TEST(SuperblockFormat, KeepsItsBytes) {
  const auto page = encode_superblock(sample_superblock());
  EXPECT_EQ(hex(page.span().first(168)),
            "5245454c46534456"                  // magic
            "0100000007000000"                  // version, device
            "000102030405060708090a0b0c0d0e0f"  // cluster
            "f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff"  // uuid
            "00004000000000000f00000080000000"  // block bytes, blocks, descriptor bytes
            "00100000000000000000100000000000"  // table, data
            "00f0ff03000000000807060504030201"  // copy, created
            "6e6f64653100000000000000000000000000000000000000000000000000000000000000000000000000000000000000"
            "00000000000000000000000000000000"  // node name
            "0000000000000000");                // reserved
  EXPECT_EQ(hex(page.span().last(4)), "f3c5efe2");
}

TEST(SuperblockFormat, RefusesEveryFlippedByte) {
  auto page = encode_superblock(sample_superblock());
  for (std::size_t at = 0; at < page.size(); at += at < 200 ? 1 : 61) {
    page.span()[at] ^= std::byte{0x20};
    EXPECT_FALSE(decode_superblock(page.span())) << at;
    page.span()[at] ^= std::byte{0x20};
  }
  EXPECT_TRUE(decode_superblock(page.span()));
}

TEST(SuperblockFormat, NamesTheVersionItDoesNotKnow) {
  auto page = encode_superblock(sample_superblock());
  page.span()[8] = std::byte{2};
  const auto decoded = decode_superblock(page.span());
  ASSERT_FALSE(decoded);
  EXPECT_EQ(decoded.error().code(), Errc::unsupported);
}

TEST(DescriptorFormat, ReadsWhatItWrote) {
  std::array<std::byte, sizeof(DescriptorEntry)> bytes;
  encode_descriptor(kAddress, sample_descriptor(), bytes);
  EXPECT_EQ(decode_descriptor(kAddress, 4 * kMiB, bytes).value(), sample_descriptor());
  encode_descriptor(kAddress, BlockDescriptor{}, bytes);
  EXPECT_EQ(decode_descriptor(kAddress, 4 * kMiB, bytes).value(), BlockDescriptor{});
}

TEST(DescriptorFormat, KeepsItsBytes) {
  std::array<std::byte, sizeof(DescriptorEntry)> bytes;
  encode_descriptor(kAddress, sample_descriptor(), bytes);
  EXPECT_EQ(hex(bytes),
            "524c4244"          // magic
            "02010100"          // version, state, fenced
            "07000000"          // device
            "05000000"          // block
            "8877665544332211"  // segment
            "0900000000000000"  // generation
            "0300000000000000"  // channel
            "0020000000000000"  // length
            "0800000000000000"  // fence generation
            "0010000000000000"  // fence length
            "1100000000000000"  // update counter
            "0100000000000000"  // allocated at
            "0200000000000000"  // worker
            "0807060504030201"  // boot
            "0500000000000000"  // verified at
            "0000000000000000000000000000000000000000"
            "7eb099c7");
}

TEST(DescriptorFormat, ReadsVersion1) {
  const std::string_view golden =
      "524c42440101010007000000050000008877665544332211090000000000000003000000000000000020000000000000080000"
      "00"
      "0000000000100000000000001100000000000000010000000000000002000000"
      "00000000000000000000000000000000000000000000000000000000000000000000000000000000"
      "cf06ae18";
  std::array<std::byte, sizeof(DescriptorEntry)> bytes;
  for (std::size_t at = 0; at < bytes.size(); ++at)
    bytes[at] = static_cast<std::byte>(std::stoi(std::string(golden.substr(2 * at, 2)), nullptr, 16));
  auto wanted = sample_descriptor();
  wanted.boot = kBootUnknown;
  wanted.verified_at_ns = 0;
  EXPECT_EQ(decode_descriptor(kAddress, 4 * kMiB, bytes).value(), wanted);
}

TEST(DescriptorFormat, RefusesEveryFlippedByteAndMisplacedOnes) {
  std::array<std::byte, sizeof(DescriptorEntry)> bytes;
  encode_descriptor(kAddress, sample_descriptor(), bytes);
  for (auto& byte : bytes) {
    byte ^= std::byte{1};
    EXPECT_FALSE(decode_descriptor(kAddress, 4 * kMiB, bytes));
    byte ^= std::byte{1};
  }
  EXPECT_TRUE(decode_descriptor(kAddress, 4 * kMiB, bytes));
  EXPECT_FALSE(decode_descriptor({DeviceId(7), 6}, 4 * kMiB, bytes));
  EXPECT_FALSE(decode_descriptor({DeviceId(8), 5}, 4 * kMiB, bytes));
}

TEST(DescriptorFormat, RefusesLengthsBeyondTheBlock) {
  std::array<std::byte, sizeof(DescriptorEntry)> bytes;
  auto descriptor = sample_descriptor();
  descriptor.length = 4 * kMiB + kPageBytes;
  encode_descriptor(kAddress, descriptor, bytes);
  EXPECT_FALSE(decode_descriptor(kAddress, 4 * kMiB, bytes));
}

}  // namespace
}  // namespace reelfs::noded
