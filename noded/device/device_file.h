#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "common/async/task.h"
#include "common/io/disk_file.h"
#include "noded/device/descriptor.h"
#include "noded/device/superblock.h"

namespace reelfs::noded {

/// What a device shows before it is used.
struct DeviceProbe {
  enum class Kind {
    blank,    // its first MiB is zeros: it may be initialised
    foreign,  // it holds something that is not ours: never written to
    reelfs,   // has a good superblock
  };
  Kind kind = Kind::foreign;
  Superblock superblock;         // of Kind::reelfs
  bool primary_damaged = false;  // the superblock came from the copy
  bool copy_damaged = false;
  std::string reason;  // of Kind::foreign
};

/// Reads both superblocks. Writes nothing.
/// @errors io, invalid (too small to be a device)
Task<DeviceProbe> probe_device(io::DiskFile& file);

/// Writes a damaged superblock anew from the good one. @errors io
Task<void> repair_superblocks(io::DiskFile& file, DeviceProbe probe);

/// Writes the descriptor table with every block free, then the superblock's copy, then, once all that is on
/// stable storage, the superblock: a device that was interrupted half way is still blank or refused. @errors
/// io
/// @pre the probe said blank
Task<void> format_device(io::DiskFile& file, Superblock superblock);

/// Reads the descriptor table. An entry is empty where it is damaged. @errors io
Task<std::vector<std::optional<BlockDescriptor>>> load_table(io::DiskFile& file, DeviceId device,
                                                             Geometry geometry);

/// What the walk of a block found.
struct BlockEnd {
  std::uint64_t end = 0;  // page-aligned
  Generation generation;  // highest seen, 0 where no record was
  std::uint64_t channel = 0;
  std::uint64_t records = 0;
};

/// Walks the records of an open block from what its descriptor knows on. @errors io
Task<BlockEnd> find_block_end(io::DiskFile& file, Geometry geometry, std::uint32_t block,
                              BlockDescriptor descriptor);

/// Makes up a descriptor for a block whose own was lost, from the record at its start: open, ending where the
/// records end. Empty when the block does not begin with a record. @errors io
Task<std::optional<BlockDescriptor>> recover_descriptor(io::DiskFile& file, Geometry geometry,
                                                        std::uint32_t block);

}  // namespace reelfs::noded
