#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>

#include "common/base/descriptor.h"
#include "common/base/result.h"

namespace reelfs::io {

/// An open raw block device or preallocated file whose calls block: what a DiskFile does on its threads. Any
/// number of threads may call at once. Offsets, sizes, addresses and errors are those of DiskFile.
class BlockingDisk {
 public:
  /// Opens with O_DIRECT, or without where the file system refuses it, as some do.
  /// @errors not_found, access_denied, invalid (neither file nor block device), io
  static Result<BlockingDisk> open(const std::filesystem::path& path);

  Result<void> read(std::uint64_t offset, std::span<std::byte> into) const;
  Result<void> write(std::uint64_t offset, std::span<const std::byte> from) const;
  Result<void> sync() const;
  /// A file that had all its space when it was opened keeps it: given back, it could be another's when it is
  /// needed again, and a file system that frees and allocates makes those wait who write and sync meanwhile.
  Result<void> discard(std::uint64_t offset, std::uint64_t bytes) const;
  std::uint64_t size() const { return bytes_; }
  bool direct() const { return direct_; }
  int descriptor() const { return fd_.get(); }

 private:
  BlockingDisk(Descriptor fd, std::string name) : fd_(std::move(fd)), name_(std::move(name)) {}
  Error failed(const char* call) const;
  Result<void> check_range(const void* address, std::uint64_t offset, std::uint64_t bytes) const;

  Descriptor fd_;
  std::string name_;
  bool direct_ = true;
  bool block_device_ = false;
  bool preallocated_ = false;
  std::uint64_t bytes_ = 0;
};

}  // namespace reelfs::io
