#include <algorithm>
#include <array>
#include <cstring>

#include "common/base/assert.h"
#include "common/base/crc32c.h"
#include "noded/device/descriptor.h"
#include "noded/device/record_walk.h"
#include "noded/device/superblock.h"
#include "noded/scrub/record_scan.h"
#include "tests/fuzz/fuzz.h"

namespace reelfs::fuzz {
namespace {

using noded::BlockAddress;
using noded::BlockDescriptor;
using noded::Superblock;

constexpr std::uint64_t kBlockBytes = 4 * kMiB;
const BlockAddress kAddress{DeviceId(3), 17};

void decode_superblock(std::span<const std::byte> page) {
  const auto superblock = noded::decode_superblock(page);
  if (!superblock) return;
  const auto& geometry = superblock.value().geometry;
  REELFS_ASSERT(geometry.block_count > 0);
  REELFS_ASSERT(geometry.block_bytes >= noded::kMinBlockBytes &&
                geometry.block_bytes <= noded::kMaxBlockBytes);
  const auto again = noded::decode_superblock(noded::encode_superblock(superblock.value()).span());
  REELFS_ASSERT(again && again.value() == superblock.value());
}

void decode_descriptor(std::span<const std::byte> entry) {
  const auto descriptor = noded::decode_descriptor(kAddress, kBlockBytes, entry);
  if (!descriptor) return;
  REELFS_ASSERT(descriptor.value().length <= kBlockBytes);
  std::array<std::byte, sizeof(noded::DescriptorEntry)> again;
  noded::encode_descriptor(kAddress, descriptor.value(), again);
  const auto decoded = noded::decode_descriptor(kAddress, kBlockBytes, again);
  REELFS_ASSERT(decoded && decoded.value() == descriptor.value());
}

void scan(std::span<const std::byte> input) {
  std::vector<std::byte> block(input.begin(), input.end());
  block.resize(round_up(std::max<std::size_t>(block.size(), 1), kPageBytes));
  for (const std::uint64_t start : {std::uint64_t{0}, kPageBytes}) {
    if (start >= block.size()) continue;
    noded::RecordScan::Rules rules;
    rules.segment = SegmentId(7);
    rules.length = block.size();
    rules.start = start;
    rules.in_midst = start > 0;
    noded::RecordScan scan(rules);
    scan.feed(start, std::span(block).subspan(start));
    REELFS_ASSERT(scan.done());
    REELFS_ASSERT(scan.bad().common(scan.records()).empty());
    REELFS_ASSERT(scan.bad().within(start, block.size()) == scan.bad());
    REELFS_ASSERT(scan.records().within(start, block.size()) == scan.records());
  }
}

void walk(std::span<const std::byte> input) {
  std::vector<std::byte> block(input.begin(), input.end());
  block.resize(round_up(std::max<std::size_t>(block.size(), 1), kPageBytes));
  noded::RecordWalk::Rules rules;
  rules.segment = SegmentId(7);
  rules.block_bytes = block.size();
  noded::RecordWalk walk(rules);
  walk.feed(0, block);
  REELFS_ASSERT(walk.done());
  REELFS_ASSERT(walk.end() % kPageBytes == 0 && walk.end() <= block.size());
}

/// The first bytes of `input`, with a right checksum in their last four.
template <std::size_t Bytes>
std::array<std::byte, Bytes> sealed(std::span<const std::byte> input) {
  std::array<std::byte, Bytes> bytes;
  std::memcpy(bytes.data(), input.data(), Bytes);
  const auto crc = crc32c(std::span(bytes).first(Bytes - 4));
  std::memcpy(bytes.data() + Bytes - 4, &crc, 4);
  return bytes;
}

std::string text_of(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

std::string sample_superblock() {
  Superblock superblock;
  superblock.device = DeviceId(3);
  superblock.node_name = "node1";
  superblock.geometry = noded::plan_geometry(64 * kMiB, kBlockBytes).value();
  return text_of(noded::encode_superblock(superblock).span());
}

std::string sample_descriptor() {
  BlockDescriptor descriptor;
  descriptor.segment = 7;
  descriptor.generation = 2;
  descriptor.channel = 5;
  descriptor.length = kPageBytes;
  descriptor.update_counter = 4;
  descriptor.worker = 1;
  descriptor.state = noded::BlockState::open;
  std::array<std::byte, sizeof(noded::DescriptorEntry)> entry;
  noded::encode_descriptor(kAddress, descriptor, entry);
  return text_of(entry);
}

std::string sample_block() {
  const std::string payload(5000, 'x');
  std::vector<std::byte> header(wire::record_header_bytes(5000));
  wire::RecordInfo info;
  info.segment = SegmentId(7);
  info.generation = Generation(1);
  wire::encode_record_header(info, std::as_bytes(std::span(payload)), header);
  return text_of(header) + payload;
}

}  // namespace

void run(std::span<const std::byte> input) {
  decode_superblock(input);
  decode_descriptor(input);
  walk(input);
  scan(input);
  if (input.size() >= sizeof(noded::DescriptorEntry))
    decode_descriptor(sealed<sizeof(noded::DescriptorEntry)>(input));
  if (input.size() >= kPageBytes) decode_superblock(sealed<kPageBytes>(input));
}

std::vector<std::string> seeds() { return {sample_superblock(), sample_descriptor(), sample_block()}; }

}  // namespace reelfs::fuzz
