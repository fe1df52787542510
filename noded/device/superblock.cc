#include "noded/device/superblock.h"

#include <algorithm>
#include <cstring>

#include "common/base/assert.h"
#include "common/base/crc32c.h"
#include "noded/device/descriptor.h"

namespace reelfs::noded {
namespace {

constexpr std::uint64_t kDataAlign = kMiB;
constexpr std::uint64_t kTableOffset = kPageBytes;

std::uint64_t data_offset_for(std::uint64_t blocks) {
  return round_up(kTableOffset + table_pages(blocks) * kPageBytes, kDataAlign);
}

bool valid_block_bytes(std::uint64_t bytes) {
  return bytes >= kMinBlockBytes && bytes <= kMaxBlockBytes && std::has_single_bit(bytes);
}

}  // namespace

Result<Geometry> plan_geometry(std::uint64_t device_bytes, std::uint64_t block_bytes) {
  if (!valid_block_bytes(block_bytes)) {
    return Error(Errc::invalid,
                 "block size " + std::to_string(block_bytes) + " is not a power of two from 4M to 1G");
  }
  const auto usable = round_down(device_bytes, kPageBytes);
  auto blocks = std::min<std::uint64_t>(usable / block_bytes, UINT32_MAX - 1);
  while (blocks > 0 && data_offset_for(blocks) + blocks * block_bytes + kPageBytes > usable) --blocks;
  if (blocks == 0) {
    return Error(Errc::no_space, "a device of " + std::to_string(device_bytes) + " bytes holds no block of " +
                                     std::to_string(block_bytes));
  }
  Geometry geometry;
  geometry.block_bytes = block_bytes;
  geometry.block_count = static_cast<std::uint32_t>(blocks);
  geometry.table_offset = kTableOffset;
  geometry.data_offset = data_offset_for(blocks);
  geometry.copy_offset = usable - kPageBytes;
  return geometry;
}

Buffer encode_superblock(const Superblock& superblock) {
  REELFS_ASSERT(superblock.node_name.size() <= kMaxNodeNameBytes);
  SuperblockPage page;
  page.device = superblock.device.value;
  page.cluster = superblock.cluster.bytes;
  page.uuid = superblock.uuid.bytes;
  page.block_bytes = superblock.geometry.block_bytes;
  page.block_count = superblock.geometry.block_count;
  page.descriptor_bytes = sizeof(DescriptorEntry);
  page.table_offset = superblock.geometry.table_offset;
  page.data_offset = superblock.geometry.data_offset;
  page.copy_offset = superblock.geometry.copy_offset;
  page.created_at_ns = superblock.created_at_ns;
  std::copy(superblock.node_name.begin(), superblock.node_name.end(), page.node_name.begin());
  page.crc32c = crc32c(std::as_bytes(std::span(&page, 1)).first(offsetof(SuperblockPage, crc32c)));
  return Buffer::copy_of(std::as_bytes(std::span(&page, 1)));
}

Result<Superblock> decode_superblock(std::span<const std::byte> bytes) {
  SuperblockPage page;
  if (bytes.size() != sizeof page) return Error(Errc::corrupt, "a superblock is one page");
  std::memcpy(&page, bytes.data(), sizeof page);
  if (page.magic != SuperblockPage{}.magic) return Error(Errc::corrupt, "no superblock here");
  if (page.version != 1) {
    return Error(Errc::unsupported,
                 "superblock version " + std::to_string(page.version) + ", this build reads 1");
  }
  if (page.crc32c != crc32c(bytes.first(offsetof(SuperblockPage, crc32c)))) {
    return Error(Errc::corrupt, "superblock checksum mismatch");
  }
  const std::uint64_t blocks = page.block_count;
  const bool plausible = valid_block_bytes(page.block_bytes) && blocks > 0 && page.device != 0 &&
                         page.descriptor_bytes == sizeof(DescriptorEntry) &&
                         page.table_offset == kTableOffset && page.data_offset == data_offset_for(blocks) &&
                         page.copy_offset % kPageBytes == 0 && page.copy_offset >= page.data_offset &&
                         (page.copy_offset - page.data_offset) / page.block_bytes >= blocks &&
                         page.node_name.back() == 0;
  if (!plausible) return Error(Errc::corrupt, "superblock contradicts itself");
  Superblock superblock;
  superblock.cluster.bytes = page.cluster;
  superblock.uuid.bytes = page.uuid;
  superblock.device = DeviceId(page.device);
  superblock.node_name = page.node_name.data();
  superblock.geometry.block_bytes = page.block_bytes;
  superblock.geometry.block_count = page.block_count;
  superblock.geometry.table_offset = page.table_offset;
  superblock.geometry.data_offset = page.data_offset;
  superblock.geometry.copy_offset = page.copy_offset;
  superblock.created_at_ns = page.created_at_ns;
  return superblock;
}

}  // namespace reelfs::noded
