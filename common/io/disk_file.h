#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "common/async/task.h"

namespace reelfs::io {

/// Bytes at offsets, on a raw block device or a preallocated file. One interface, so that a simulation can
/// stand in. Offsets, sizes and addresses are multiples of kPageBytes (O_DIRECT). Calls may overlap; nothing
/// orders them but waiting. The memory stays valid until the call has returned.
class DiskFile {
 public:
  virtual ~DiskFile() = default;
  /// Whole range or an error. @errors io, out_of_range (beyond the end)
  virtual Task<void> read(std::uint64_t offset, std::span<std::byte> into) = 0;
  virtual Task<void> write(std::uint64_t offset, std::span<const std::byte> from) = 0;
  /// Everything written before is on stable storage when this returns.
  virtual Task<void> sync() = 0;
  /// Tells the device that the range is not needed: TRIMmed, or a hole punched in a sparse file. Content
  /// afterwards is undefined.
  /// Errors: unsupported.
  virtual Task<void> discard(std::uint64_t offset, std::uint64_t bytes) = 0;
  virtual std::uint64_t size() const = 0;
};

}  // namespace reelfs::io
