#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "common/base/descriptor.h"
#include "common/base/result.h"
#include "indexd/nodelog/piece.h"

namespace reelfs::indexd {

/// Pieces of the node log in a file, one behind the other: more than fit into memory.
class PieceFile {
 public:
  /// Makes an empty one. @errors io, no_space
  static Result<PieceFile> create(const std::filesystem::path& path);
  /// One that was synced at this size. @errors io, corrupt
  static Result<PieceFile> open(const std::filesystem::path& path, std::uint64_t bytes);

  /// @param encoded  a sound piece. @errors io, no_space
  Result<void> add(std::string_view encoded);
  Result<void> sync();

  /// In the order of the file.
  const std::vector<PieceHeader>& headers() const { return headers_; }
  std::uint64_t bytes() const { return end_; }
  /// The bytes behind the header of one of them. @errors io, corrupt
  Result<std::string> read(std::size_t piece) const;

 private:
  explicit PieceFile(Descriptor file) : file_(std::move(file)) {}
  Result<std::string> read_at(std::uint64_t offset, std::size_t size) const;

  Descriptor file_;
  std::vector<PieceHeader> headers_;
  std::vector<std::uint64_t> offsets_;
  std::uint64_t end_ = 0;
};

}  // namespace reelfs::indexd
