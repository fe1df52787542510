#include "indexd/tree/relocation.h"

#include <algorithm>
#include <utility>

namespace reelfs::indexd::tree {
namespace {

RecordPart part_of(InodeId owner, const Extent& extent) {
  const auto& row = extent.row;
  RecordPart part;
  part.record_offset = row.record_offset;
  part.payload_offset = row.payload_offset;
  part.length = static_cast<std::uint32_t>(row.length);
  part.inode = row.origin ? row.origin : owner;
  part.file_offset = row.origin ? row.origin_offset : extent.file_offset - row.payload_offset;
  return part;
}

/// The extent as it is to be; none where not all of it was moved.
std::optional<Extent> moved_extent(const Moved& moved, const Extent& extent) {
  if (extent.row.segment != moved.source) return std::nullopt;
  const auto [begin, end] = moved.parts.equal_range(extent.row.record_offset);
  const auto holds = [&](const auto& entry) {
    const auto& part = entry.second;
    return part.payload_offset <= extent.row.payload_offset &&
           extent.row.payload_offset + extent.row.length <= std::uint64_t{part.payload_offset} + part.length;
  };
  const auto found = std::find_if(begin, end, holds);
  if (found == end) return std::nullopt;
  const auto& part = found->second;
  auto relocated = extent;
  relocated.row.segment = moved.target;
  relocated.row.record_offset = part.new_record_offset;
  relocated.row.payload_offset -= part.payload_offset;
  if (extent.row.origin) relocated.row.origin_offset += part.payload_offset;
  return relocated;
}

}  // namespace

Result<LiveExtents> live_extents(const Reader& reader, SegmentId segment, const LiveCursor& from,
                                 std::size_t most_looked_at) {
  struct File {
    InodeId inode;
    std::uint64_t live_bytes = 0;
  };
  LiveExtents live;
  std::size_t looked_at = 0;
  auto cursor = from;
  for (;;) {
    std::optional<File> file;
    REELFS_TRY(reader.scan(SegmentFileKey{segment, cursor.inode},
                           SegmentFileKey{SegmentId{segment.value + 1}, InodeId{}},
                           [&](const SegmentFileKey& key, const SegmentFileRow& row) {
                             file = File{key.inode, row.live_bytes};
                             return false;
                           }));
    if (!file) return live;
    if (file->inode != cursor.inode) cursor = {file->inode, 0, 0};
    bool stopped = false;
    REELFS_TRY(
        reader.scan(ExtentKey{file->inode, cursor.file_offset}, ExtentKey{InodeId{file->inode.value + 1}, 0},
                    [&](const ExtentKey& key, const ExtentRow& row) {
                      if (cursor.found_bytes >= file->live_bytes) return false;
                      stopped = looked_at++ >= most_looked_at;
                      cursor.file_offset = key.file_offset;
                      if (stopped) return false;
                      if (row.segment != segment) return true;
                      live.extents.push_back({file->inode, {.file_offset = key.file_offset, .row = row}});
                      cursor.found_bytes += row.length;
                      return true;
                    }));
    if (stopped) {
      live.next = cursor;
      return live;
    }
    cursor = {InodeId{file->inode.value + 1}, 0, 0};
  }
}

std::vector<RecordPart> parts_of(std::span<const LiveExtents::Of> extents) {
  std::vector<RecordPart> all;
  all.reserve(extents.size());
  for (const auto& [inode, extent] : extents) all.push_back(part_of(inode, extent));
  std::sort(all.begin(), all.end(), [](const RecordPart& a, const RecordPart& b) {
    return std::pair(a.record_offset, a.payload_offset) < std::pair(b.record_offset, b.payload_offset);
  });
  std::vector<RecordPart> parts;
  for (const auto& part : all) {
    const bool joins = !parts.empty() && parts.back().record_offset == part.record_offset &&
                       parts.back().end() >= part.payload_offset;
    if (joins) {
      parts.back().length = std::max(parts.back().end(), part.end()) - parts.back().payload_offset;
    } else {
      parts.push_back(part);
    }
  }
  return parts;
}

Result<Relocated> relocate(Transaction& txn, const Moved& moved, std::span<const LiveExtents::Of> extents) {
  Relocated done;
  for (auto at = extents.begin(); at != extents.end();) {
    const auto of_file = std::find_if(
        at, extents.end(), [inode = at->inode](const LiveExtents::Of& each) { return each.inode != inode; });
    REELFS_TRY(auto row, txn.find(InodeKey{at->inode}));
    if (!row) {  // removed since
      at = of_file;
      continue;
    }
    Inode inode{.id = at->inode, .row = *row};
    ExtentEditor editor(txn, inode);
    for (; at != of_file; ++at) {
      REELFS_TRY(const auto there, find_extents(txn, inode.id, at->extent.file_offset, at->extent.end(),
                                                std::numeric_limits<std::size_t>::max()));
      for (const auto& extent : there) {
        const auto relocated = moved_extent(moved, extent);
        if (!relocated) continue;
        REELFS_TRY(editor.clear(extent.file_offset, extent.end()));
        REELFS_TRY(editor.put(*relocated));
        done.bytes += extent.row.length;
      }
    }
    // The inode's row stays: its sums do not change by this.
    REELFS_TRY(const auto emptied, editor.finish());
    done.emptied.insert(done.emptied.end(), emptied.begin(), emptied.end());
  }
  return done;
}

}  // namespace reelfs::indexd::tree
