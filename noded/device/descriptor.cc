#include "noded/device/descriptor.h"

#include <cstring>
#include <string>

#include "common/base/assert.h"
#include "common/base/crc32c.h"

namespace reelfs::noded {

void encode_descriptor(BlockAddress address, const BlockDescriptor& descriptor, std::span<std::byte> out) {
  REELFS_ASSERT(out.size() == sizeof(DescriptorEntry));
  DescriptorEntry entry;
  entry.state = static_cast<std::uint8_t>(descriptor.state);
  entry.fenced = descriptor.fenced;
  entry.device = address.device.value;
  entry.block = address.block;
  entry.segment = descriptor.segment;
  entry.generation = descriptor.generation;
  entry.channel = descriptor.channel;
  entry.length = descriptor.length;
  entry.fence_generation = descriptor.fence_generation;
  entry.fence_length = descriptor.fence_length;
  entry.update_counter = descriptor.update_counter;
  entry.allocated_at_ns = descriptor.allocated_at_ns;
  entry.worker = descriptor.worker;
  entry.boot = descriptor.boot;
  entry.verified_at_ns = descriptor.verified_at_ns;
  entry.crc32c = crc32c(std::as_bytes(std::span(&entry, 1)).first(offsetof(DescriptorEntry, crc32c)));
  std::memcpy(out.data(), &entry, sizeof entry);
}

Result<BlockDescriptor> decode_descriptor(BlockAddress address, std::uint64_t block_bytes,
                                          std::span<const std::byte> bytes) {
  DescriptorEntry entry;
  if (bytes.size() != sizeof entry) return Error(Errc::corrupt, "block descriptor cut short");
  std::memcpy(&entry, bytes.data(), sizeof entry);
  if (entry.magic != DescriptorEntry{}.magic) return Error(Errc::corrupt, "no block descriptor here");
  if (entry.version != 1 && entry.version != 2) {
    return Error(Errc::unsupported,
                 "block descriptor version " + std::to_string(entry.version) + ", this build reads 1 and 2");
  }
  if (entry.crc32c != crc32c(bytes.first(offsetof(DescriptorEntry, crc32c)))) {
    return Error(Errc::corrupt, "block descriptor checksum mismatch");
  }
  if (entry.device != address.device.value || entry.block != address.block) {
    return Error(Errc::corrupt, "block descriptor is addressed to another place");
  }
  const bool used = entry.state != static_cast<std::uint8_t>(BlockState::free);
  const bool plausible = entry.state <= static_cast<std::uint8_t>(BlockState::sealed) && entry.fenced <= 1 &&
                         used == (entry.segment != 0) && entry.length <= block_bytes &&
                         entry.fence_length <= block_bytes && entry.length % kPageBytes == 0 &&
                         entry.fence_length % kPageBytes == 0 &&
                         (entry.version > 1 || (entry.boot == 0 && entry.verified_at_ns == 0));
  if (!plausible) return Error(Errc::corrupt, "block descriptor contradicts itself");
  BlockDescriptor descriptor;
  descriptor.segment = entry.segment;
  descriptor.generation = entry.generation;
  descriptor.channel = entry.channel;
  descriptor.length = entry.length;
  descriptor.fence_generation = entry.fence_generation;
  descriptor.fence_length = entry.fence_length;
  descriptor.update_counter = entry.update_counter;
  descriptor.allocated_at_ns = entry.allocated_at_ns;
  descriptor.boot = entry.boot;
  descriptor.verified_at_ns = entry.verified_at_ns;
  descriptor.worker = entry.worker;
  descriptor.state = static_cast<BlockState>(entry.state);
  descriptor.fenced = entry.fenced;
  return descriptor;
}

}  // namespace reelfs::noded
