#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <type_traits>

#include "common/base/buffer.h"
#include "common/base/ids.h"
#include "common/base/result.h"
#include "common/base/units.h"

namespace reelfs::noded {

/// The first page of a device, and a copy of it in the last. docs/formats/device.md
struct SuperblockPage {
  std::array<char, 8> magic{'R', 'E', 'E', 'L', 'F', 'S', 'D', 'V'};
  std::uint32_t version = 1;
  std::uint32_t device = 0;  // DeviceId
  std::array<std::uint8_t, 16> cluster{};
  std::array<std::uint8_t, 16> uuid{};
  std::uint64_t block_bytes = 0;
  std::uint32_t block_count = 0;
  std::uint32_t descriptor_bytes = 0;
  std::uint64_t table_offset = 0;
  std::uint64_t data_offset = 0;
  std::uint64_t copy_offset = 0;  // of the second superblock
  std::int64_t created_at_ns = 0;
  std::array<char, 64> node_name{};  // padded with zeros
  std::array<std::uint8_t, 3932> reserved{};
  std::uint32_t crc32c = 0;  // over the 4092 bytes before it
};
static_assert(sizeof(SuperblockPage) == kPageBytes &&
              std::has_unique_object_representations_v<SuperblockPage>);
static_assert(std::endian::native == std::endian::little,
              "formats are little-endian and copied as they stand");

inline constexpr std::uint64_t kMinBlockBytes = 4 * kMiB;
inline constexpr std::uint64_t kMaxBlockBytes = kGiB;
inline constexpr std::size_t kMaxNodeNameBytes = 63;

/// Where things lie on a device.
struct Geometry {
  std::uint64_t block_bytes = 0;
  std::uint32_t block_count = 0;
  std::uint64_t table_offset = 0;
  std::uint64_t data_offset = 0;  // of block 0
  std::uint64_t copy_offset = 0;  // of the second superblock

  std::uint64_t block_offset(std::uint32_t block) const { return data_offset + block * block_bytes; }
  friend bool operator==(const Geometry&, const Geometry&) = default;
};

/// What a superblock says.
struct Superblock {
  Uuid cluster;
  Uuid uuid;
  DeviceId device;
  std::string node_name;
  Geometry geometry;
  std::int64_t created_at_ns = 0;

  friend bool operator==(const Superblock&, const Superblock&) = default;
};

/// Lays a device out: as many blocks as fit. @errors invalid (block size), no_space (not even one block fits)
Result<Geometry> plan_geometry(std::uint64_t device_bytes, std::uint64_t block_bytes);

/// The page as written. @pre node_name.size() <= kMaxNodeNameBytes
Buffer encode_superblock(const Superblock& superblock);

/// @param page  exactly kPageBytes
/// @errors corrupt: wrong magic, checksum, or fields that contradict each other; unsupported: another version
Result<Superblock> decode_superblock(std::span<const std::byte> page);

}  // namespace reelfs::noded
