#include "indexd/tree/uncommitted.h"

#include <algorithm>
#include <map>

namespace reelfs::indexd::tree {
namespace {

// Files whose last commit did not settle everything: those that are being written. A commit looks at so many.
constexpr std::size_t kTrimmedAtOnce = 64;

SessionId after(SessionId session) { return SessionId{session.value + 1}; }

Result<std::uint64_t> settled_of(const Reader& reader, SessionId session) {
  REELFS_TRY(const auto row, reader.find(ProgressKey{session, InodeId{}}));
  return row ? row->sequence : 0;
}

/// Whether the record's place in the segment is still what it was when it was listed.
Result<bool> is_there(const Reader& reader, const PlacedRecord& record) {
  REELFS_TRY(const auto segment, reader.find(SegmentKey{record.segment}));
  return segment && segment->state != SegmentState::freeing && segment->state != SegmentState::allocating;
}

Extent extent_of(const PlacedRecord& record) {
  Extent extent;
  extent.file_offset = record.file_offset;
  extent.row.length = record.length;
  extent.row.segment = record.segment;
  extent.row.record_offset = record.record_offset;
  return extent;
}

}  // namespace

Result<bool> note_grant(Transaction& txn, const Grant& grant) {
  REELFS_TRY(const auto is_mount, txn.has(SessionKey{grant.session}));
  if (is_mount) txn.put(GrantKey{grant.session, grant.segment, grant.generation}, GrantRow{});
  return is_mount;
}

Result<bool> note_grant_closed(Transaction& txn, const Grant& grant) {
  const GrantKey key{grant.session, grant.segment, grant.generation};
  REELFS_TRY(const auto noted, txn.has(key));
  if (!noted) return true;
  REELFS_TRY(const auto settled, settled_of(txn, grant.session));
  if (grant.last_sequence <= settled) {
    txn.erase(key);
    return true;
  }
  txn.put(key, GrantRow{grant.last_sequence});
  return false;
}

void forget_grants(Transaction& txn, std::span<const Grant> grants) {
  for (const auto& grant : grants) txn.erase(GrantKey{grant.session, grant.segment, grant.generation});
}

Result<std::vector<Grant>> grants_of(const Reader& reader, SessionId session) {
  std::vector<Grant> grants;
  REELFS_TRY(reader.scan(GrantKey{session, {}, {}}, GrantKey{after(session), {}, {}},
                         [&](const GrantKey& key, const GrantRow& row) {
                           grants.push_back({key.session, key.segment, key.generation, row.last_sequence});
                           return true;
                         }));
  return grants;
}

Result<std::vector<Grant>> all_grants(const Reader& reader) {
  std::vector<Grant> grants;
  REELFS_TRY(reader.scan_table<GrantKey>([&](const GrantKey& key, const GrantRow& row) {
    grants.push_back({key.session, key.segment, key.generation, row.last_sequence});
    return true;
  }));
  return grants;
}

Result<void> note_progress(Transaction& txn, SessionId session, std::uint64_t settled,
                           std::span<const FileProgress> files) {
  for (const auto& file : files) {
    const ProgressKey key{session, file.inode};
    REELFS_TRY(const auto known, txn.find(key));
    const auto sequence = std::max(file.sequence, known ? known->sequence : 0);
    if (file.more || sequence > settled) {
      txn.put(key, ProgressRow{sequence, file.mtime_ns, file.more ? 1u : 0u});
    } else if (known) {
      txn.erase(key);
    }
  }
  const ProgressKey all{session, InodeId{}};
  REELFS_TRY(const auto before, txn.find(all));
  if (settled <= (before ? before->sequence : 0)) return ok();
  txn.put(all, ProgressRow{settled, 0, 0});
  std::vector<ProgressKey> settled_files;
  std::size_t looked_at = 0;
  REELFS_TRY(txn.scan(ProgressKey{session, InodeId{1}}, ProgressKey{after(session), InodeId{}},
                      [&](const ProgressKey& key, const ProgressRow& row) {
                        if (row.more == 0 && row.sequence <= settled) settled_files.push_back(key);
                        return ++looked_at < kTrimmedAtOnce;
                      }));
  for (const auto& key : settled_files) txn.erase(key);
  return ok();
}

Result<void> note_changed(Transaction& txn, SessionId session, const Inode& inode) {
  const ProgressKey key{session, inode.id};
  REELFS_TRY(const auto known, txn.find(key));
  if (known) txn.put(key, ProgressRow{known->sequence, inode.row.mtime_ns, known->more});
  return ok();
}

Result<RolledForward> roll_forward(Transaction& txn, SessionId session, std::span<const PlacedRecord> records,
                                   const ChannelLimits& limits, WallNs now) {
  RolledForward done;
  REELFS_TRY(const auto settled, settled_of(txn, session));
  std::map<InodeId, std::vector<PlacedRecord>> files;
  for (const auto& record : records) {
    if (record.sequence > settled) files[record.inode].push_back(record);
  }
  for (auto& [id, candidates] : files) {
    const ProgressKey key{session, id};
    REELFS_TRY(const auto row, txn.find(InodeKey{id}));
    REELFS_TRY(const auto progress, txn.find(key));
    if (!row || !S_ISREG(row->mode) || row->nlink == 0) {
      done.left_out += candidates.size();
      continue;
    }
    // Nobody else has changed it since the session last did, or put anything into it ever: the records are
    // the newest there is. Otherwise time has to tell.
    const bool is_unchanged = row->first_ns == 0 || (progress && progress->mtime_ns == row->mtime_ns);
    FileCommit file;
    file.inode = id;
    file.mtime_ns = row->mtime_ns;
    auto last = progress ? progress->sequence : 0;
    std::uint64_t bytes = 0;
    for (const auto& record : candidates) {
      if (record.sequence <= last) continue;  // committed, or standing in two segments
      REELFS_TRY(const auto there, is_there(txn, record));
      if (!there || (!is_unchanged && record.written_at_ns < row->mtime_ns)) {
        ++done.left_out;
        continue;
      }
      last = record.sequence;
      file.extents.push_back(extent_of(record));
      file.mtime_ns = std::max(*file.mtime_ns, record.written_at_ns);
      bytes += record.length;
    }
    if (file.extents.empty()) continue;
    REELFS_TRY(auto committed, commit(txn, {&file, 1}, limits, now));
    txn.put(key, ProgressRow{last, committed.inodes.front().row.mtime_ns, 1});
    if (!committed.refused.empty()) {
      done.left_out += file.extents.size();
      continue;
    }
    done.records += file.extents.size();
    done.bytes += bytes;
    done.inodes.push_back(id);
    done.emptied.insert(done.emptied.end(), committed.emptied.begin(), committed.emptied.end());
  }
  return done;
}

Result<bool> forget_progress(Transaction& txn, SessionId session, std::size_t most) {
  std::vector<ProgressKey> keys;
  REELFS_TRY(txn.scan(ProgressKey{session, InodeId{}}, ProgressKey{after(session), InodeId{}},
                      [&](const ProgressKey& key, const ProgressRow&) {
                        keys.push_back(key);
                        return keys.size() < most;
                      }));
  for (const auto& key : keys) txn.erase(key);
  return keys.size() < most;
}

}  // namespace reelfs::indexd::tree
