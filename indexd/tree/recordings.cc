#include "indexd/tree/recordings.h"

#include <algorithm>
#include <utility>

#include "indexd/tree/names.h"

namespace reelfs::indexd::tree {
namespace {

RecordingKey key_of(const Inode& inode) {
  return {inode.row.channel, static_cast<std::uint64_t>(inode.row.last_ns), inode.id};
}

RecordingKey begin_of(InodeId channel) { return {channel, 0, InodeId{}}; }
RecordingKey end_of(InodeId channel) { return begin_of(InodeId{channel.value + 1}); }

}  // namespace

void note_bytes(Transaction& txn, Inode& inode, WallNs now, bool has_bytes) {
  auto& row = inode.row;
  if (!inode.is_regular() || row.nlink == 0) return;
  forget_recording(txn, inode);
  now = std::max<WallNs>(now, 1);
  if (has_bytes && row.first_ns == 0) row.first_ns = now;
  row.last_ns = std::max(row.last_ns, now);  // also where the clock was set back
  txn.put(key_of(inode), RecordingRow{});
}

void forget_recording(Transaction& txn, const Inode& inode) {
  if (inode.row.last_ns != 0) txn.erase(key_of(inode));
}

Result<void> for_each_recording(const Reader& reader, InodeId channel,
                                const std::function<bool(const Recording&)>& visit) {
  return reader.scan(begin_of(channel), end_of(channel), [&](const RecordingKey& key, const RecordingRow&) {
    return visit({key.inode, static_cast<WallNs>(key.last_ns)});
  });
}

Result<void> for_each_recording_back(const Reader& reader, InodeId channel,
                                     const std::function<bool(const Recording&)>& visit) {
  return reader.scan_back(begin_of(channel), end_of(channel),
                          [&](const RecordingKey& key, const RecordingRow&) {
                            return visit({key.inode, static_cast<WallNs>(key.last_ns)});
                          });
}

Result<std::optional<InodeId>> list_recordings(Transaction& txn, InodeId from, std::size_t limit) {
  std::vector<Inode> found;
  std::size_t seen = 0;
  std::optional<InodeId> next;
  REELFS_TRY(
      txn.scan(InodeKey{from}, InodeKey{InodeId{UINT64_MAX}}, [&](const InodeKey& key, const InodeRow& row) {
        if (seen++ == limit) {
          next = key.inode;
          return false;
        }
        if (S_ISREG(row.mode) && row.last_ns == 0) found.push_back({key.inode, row});
        return true;
      }));
  for (auto& inode : found) {
    const auto made = inode.row.btime_ns;
    if (inode.row.stored_bytes > 0) inode.row.first_ns = std::max<WallNs>(made, 1);
    note_bytes(txn, inode, std::max(made, inode.row.mtime_ns), false);
    txn.put(InodeKey{inode.id}, inode.row);  // nothing that mounts are told has changed
  }
  return next;
}

Result<Removed> remove_recording(Transaction& txn, InodeId id, WallNs now) {
  Removed removed;
  REELFS_TRY(txn.scan(NameKey{id, InodeId{}, {}}, NameKey{InodeId{id.value + 1}, InodeId{}, {}},
                      [&](const NameKey& key, const NameRow&) {
                        removed.names.emplace_back(key.parent, key.name);
                        return true;
                      }));
  for (const auto& [parent, name] : removed.names) {
    REELFS_TRY(const auto inode, unlink(txn, {.parent = parent, .name = name}, now));
    removed.orphan = inode.row.nlink == 0;
  }
  return removed;
}

}  // namespace reelfs::indexd::tree
