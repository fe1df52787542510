#pragma once

#include <cstdint>
#include <span>

#include "common/base/buffer.h"
#include "common/wire/record.h"

namespace reelfs::wire {

/// A record to be: what it says of itself, and its payload.
struct UnitRecord {
  RecordInfo info;  // segment_offset says where in the unit it begins
  std::span<const std::byte> payload;
};

/// The bytes of an append unit as they go over the wire and to the disks. Copies each payload once.
/// @param bytes    of the unit, a multiple of the page size
/// @param offset   of the unit in its segment
/// @param records  ascending, not overlapping, each aligned to kRecordAlign and wholly within the unit
Buffer form_unit(std::uint32_t bytes, std::uint64_t offset, std::span<const UnitRecord> records);

}  // namespace reelfs::wire
