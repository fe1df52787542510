#pragma once

#include <cstdint>
#include <vector>

#include "indexd/schema/reader.h"

namespace reelfs::indexd::tree {

/// Bytes of a file.
struct LostPiece {
  InodeId inode;
  std::uint64_t offset = 0;
  std::uint64_t length = 0;
  friend bool operator==(const LostPiece&, const LostPiece&) = default;
};

/// What files have of a segment of which only the bytes before `reach` can be had: the parts that need a byte
/// at or behind it. By inode and offset; parts that touch are one. docs/design/async.md
Result<std::vector<LostPiece>> lost_behind(const Reader& reader, SegmentId segment, std::uint64_t reach);

/// Whether a copy that ends at `reach` lacks a part of what the extent points at.
bool is_behind(const ExtentRow& extent, std::uint64_t reach);

}  // namespace reelfs::indexd::tree
