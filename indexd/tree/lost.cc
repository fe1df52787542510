#include "indexd/tree/lost.h"

#include "common/wire/record.h"

namespace reelfs::indexd::tree {

bool is_behind(const ExtentRow& extent, std::uint64_t reach) {
  const auto end = std::uint64_t{extent.record_offset} + sizeof(wire::RecordHeader) + extent.payload_offset +
                   extent.length;
  return end > reach;
}

Result<std::vector<LostPiece>> lost_behind(const Reader& reader, SegmentId segment, std::uint64_t reach) {
  std::vector<InodeId> files;
  const SegmentFileKey upto{SegmentId{segment.value + 1}, InodeId{}};
  REELFS_TRY(
      reader.scan(SegmentFileKey{segment, InodeId{}}, upto, [&](SegmentFileKey key, const SegmentFileRow&) {
        files.push_back(key.inode);
        return true;
      }));
  std::vector<LostPiece> lost;
  for (const auto file : files) {
    const ExtentKey end{InodeId{file.value + 1}, 0};
    REELFS_TRY(reader.scan(ExtentKey{file, 0}, end, [&](ExtentKey key, const ExtentRow& extent) {
      if (extent.segment != segment || !is_behind(extent, reach)) return true;
      if (!lost.empty() && lost.back().inode == file &&
          lost.back().offset + lost.back().length == key.file_offset) {
        lost.back().length += extent.length;
      } else {
        lost.push_back({file, key.file_offset, extent.length});
      }
      return true;
    }));
  }
  return lost;
}

}  // namespace reelfs::indexd::tree
