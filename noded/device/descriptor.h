#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>

#include "common/base/ids.h"
#include "common/base/result.h"
#include "common/base/units.h"

namespace reelfs::noded {

enum class BlockState : std::uint8_t {
  free = 0,
  open = 1,    // may be appended to
  sealed = 2,  // holds `length` valid bytes and never more
};

/// BlockDescriptor::boot of a block that may have lost what was not flushed: it was written by an older
/// version, or its device was away.
inline constexpr std::uint64_t kBootUnknown = 0;
/// Of one that was flushed and fenced before anything could be lost: it has all that it ever acknowledged.
inline constexpr std::uint64_t kBootStable = UINT64_MAX;

/// What is known of one block, as far as it outlives the node's processes. Trivially copyable: it stands in
/// shared memory.
struct BlockDescriptor {
  std::uint64_t segment = 0;     // SegmentId; 0 where free
  std::uint64_t generation = 0;  // the highest this copy was told of: an append with a lower one is refused
  std::uint64_t channel = 0;
  std::uint64_t length = 0;  // sealed: of the copy. open: at least this much is valid, the walk begins here
  std::uint64_t fence_generation =
      0;  // records at or beyond fence_length with a lower generation do not count
  std::uint64_t fence_length = 0;
  std::uint64_t update_counter = 0;  // grows with each change of this descriptor, freeing included
  std::int64_t allocated_at_ns = 0;
  std::uint64_t boot = 0;           // in which it was opened for appending, or kBootUnknown or kBootStable
  std::int64_t verified_at_ns = 0;  // wall time at which all of it was read and was right; 0: never
  std::uint32_t worker = 0;         // that took the block
  BlockState state = BlockState::free;
  std::uint8_t fenced = 0;  // 1: open, but no writer may go on before it is reopened
  std::uint16_t reserved = 0;

  friend bool operator==(const BlockDescriptor&, const BlockDescriptor&) = default;
};
static_assert(sizeof(BlockDescriptor) == 88 && std::is_trivially_copyable_v<BlockDescriptor>);

/// The same on disk, 32 to a page. docs/formats/device.md
struct DescriptorEntry {
  std::array<char, 4> magic{'R', 'L', 'B', 'D'};
  std::uint8_t version = 2;
  std::uint8_t state = 0;
  std::uint8_t fenced = 0;
  std::uint8_t reserved0 = 0;
  std::uint32_t device = 0;  // with `block`: a misplaced write is noticed
  std::uint32_t block = 0;
  std::uint64_t segment = 0;
  std::uint64_t generation = 0;
  std::uint64_t channel = 0;
  std::uint64_t length = 0;
  std::uint64_t fence_generation = 0;
  std::uint64_t fence_length = 0;
  std::uint64_t update_counter = 0;
  std::int64_t allocated_at_ns = 0;
  std::uint32_t worker = 0;
  std::uint32_t reserved1 = 0;
  std::uint64_t boot = 0;  // this and the next are zero in version 1
  std::int64_t verified_at_ns = 0;
  std::array<std::uint8_t, 20> reserved{};
  std::uint32_t crc32c = 0;  // over the 124 bytes before it
};
static_assert(sizeof(DescriptorEntry) == 128 && std::has_unique_object_representations_v<DescriptorEntry>);

inline constexpr std::uint32_t kDescriptorsPerPage = kPageBytes / sizeof(DescriptorEntry);

constexpr std::uint64_t table_pages(std::uint64_t blocks) {
  return (blocks + kDescriptorsPerPage - 1) / kDescriptorsPerPage;
}

/// Which block of which device an entry describes.
struct BlockAddress {
  DeviceId device;
  std::uint32_t block = 0;
  friend bool operator==(const BlockAddress&, const BlockAddress&) = default;
};

/// @param out  exactly sizeof(DescriptorEntry)
void encode_descriptor(BlockAddress address, const BlockDescriptor& descriptor, std::span<std::byte> out);

/// @param block_bytes  bounds the lengths
/// @errors corrupt: wrong size, magic, checksum or address, or fields that contradict each other;
/// unsupported: version
Result<BlockDescriptor> decode_descriptor(BlockAddress address, std::uint64_t block_bytes,
                                          std::span<const std::byte> bytes);

}  // namespace reelfs::noded
