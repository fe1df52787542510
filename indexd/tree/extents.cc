#include "indexd/tree/extents.h"

#include <algorithm>
#include <iterator>

#include <fmt/format.h>

#include "common/wire/record.h"
#include "indexd/tree/holds.h"
#include "indexd/tree/recordings.h"

namespace reelfs::indexd::tree {
namespace {

constexpr auto kAll = std::numeric_limits<std::size_t>::max();

/// The part [from, upto) of an extent.
Extent cut(const Extent& extent, std::uint64_t from, std::uint64_t upto) {
  auto part = extent;
  part.file_offset = from;
  part.row.length = upto - from;
  part.row.payload_offset += static_cast<std::uint32_t>(from - extent.file_offset);
  return part;
}

/// Makes an extent of one file one of another, or of the same, elsewhere. What its record says of itself
/// stays, and is written down where it no longer follows from the extent's own place.
void move_to(Extent& extent, InodeId owner, InodeId new_owner, std::uint64_t file_offset) {
  auto& row = extent.row;
  const auto named = row.origin ? row.origin : owner;
  const auto named_offset = row.origin ? row.origin_offset : extent.file_offset - row.payload_offset;
  extent.file_offset = file_offset;
  const bool is_at_home = named == new_owner && named_offset + row.payload_offset == file_offset;
  row.origin = is_at_home ? InodeId{} : named;
  row.origin_offset = is_at_home ? 0 : named_offset;
}

/// Where the part of a segment ends that an extent needs; the record may be longer.
std::uint64_t end_in_segment(const ExtentRow& row) {
  return std::uint64_t{row.record_offset} + sizeof(wire::RecordHeader) + row.payload_offset + row.length;
}

Result<void> check_extent(const Extent& extent) {
  const auto& row = extent.row;
  if (row.length == 0 || !row.segment || row.payload_offset > wire::kMaxRecordPayload ||
      row.length > wire::kMaxRecordPayload - row.payload_offset) {
    return Error(Errc::invalid, "an extent is a part of one record");
  }
  if (extent.file_offset > kMaxFileSize || row.length > kMaxFileSize - extent.file_offset) {
    return Error(Errc::file_too_big);
  }
  return ok();
}

/// @errors invalid, stale_generation
Result<void> note_commit(SegmentId id, SegmentRow& segment, std::uint64_t end) {
  switch (segment.state) {
    case SegmentState::open:
      if (end > segment.block_bytes) {
        return Error(Errc::invalid, fmt::format("segment {} has {} bytes, and the commit needs {}", id.value,
                                                segment.block_bytes, end));
      }
      segment.length = std::max(segment.length, end);
      return ok();
    case SegmentState::unfilled:
    case SegmentState::sealed:
      if (end <= segment.length) return ok();
      return Error(Errc::stale_generation,
                   fmt::format("segment {} was closed at {} bytes, and the commit needs {}", id.value,
                               segment.length, end));
    case SegmentState::allocating:
    case SegmentState::freeing:
      break;
  }
  return Error(Errc::stale_generation, fmt::format("segment {} holds no records", id.value));
}

bool is_too_big(const FileCommit& file) {
  return file.size.value_or(0) > kMaxFileSize ||
         std::any_of(file.extents.begin(), file.extents.end(), [](const Extent& extent) {
           return extent.file_offset > kMaxFileSize || extent.row.length > kMaxFileSize - extent.file_offset;
         });
}

/// What the commit's extents are in the end: a later one has shadowed earlier ones. @pre none is too big
std::map<std::uint64_t, Extent> in_the_end(const FileCommit& file) {
  std::map<std::uint64_t, Extent> seen;
  for (const auto& extent : file.extents) {
    if (extent.row.length == 0) continue;
    auto at = seen.lower_bound(extent.file_offset);
    if (at != seen.begin() && std::prev(at)->second.end() > extent.file_offset) --at;
    while (at != seen.end() && at->first < extent.end()) {
      const auto below = at->second;
      at = seen.erase(at);
      if (below.file_offset < extent.file_offset)
        seen.emplace(below.file_offset, cut(below, below.file_offset, extent.file_offset));
      if (below.end() > extent.end())
        at = seen.emplace(extent.end(), cut(below, extent.end(), below.end())).first;
    }
    seen.emplace(extent.file_offset, extent);
  }
  return seen;
}

/// Where they overlap, both are the same bytes of the same record.
bool are_same_bytes(const Extent& one, const Extent& other) {
  const auto start = [](const Extent& extent) { return extent.file_offset - extent.row.payload_offset; };
  return one.row.segment == other.row.segment && one.row.record_offset == other.row.record_offset &&
         !one.row.origin && !other.row.origin && start(one) == start(other);
}

/// Whether other bytes would take the place of those the file has. A commit that is carried out once more
/// changes nothing.
Result<bool> overwrites(const Reader& reader, const Inode& inode, const FileCommit& file) {
  const auto is_below_end = [&](const Extent& extent) { return extent.file_offset < inode.row.size; };
  if (std::none_of(file.extents.begin(), file.extents.end(), is_below_end)) return false;
  for (const auto& [offset, extent] : in_the_end(file)) {
    REELFS_TRY(const auto there, find_extents(reader, inode.id, offset, extent.end(), kAll));
    const auto stays = [&extent = extent](const Extent& other) { return are_same_bytes(extent, other); };
    if (!std::all_of(there.begin(), there.end(), stays)) return true;
  }
  return false;
}

std::uint64_t bytes_of(const FileCommit& file) {
  std::uint64_t bytes = 0;
  for (const auto& extent : file.extents) bytes += extent.row.length;
  return bytes;
}

/// What is wrong with one file of a commit, and not with the others.
struct Verdict {
  std::optional<Error> refused;
};
Result<Verdict> judge(const Reader& reader, const Inode& inode, const FileCommit& file,
                      const ChannelLimits& limits) {
  if (is_too_big(file)) return Verdict{Error(Errc::file_too_big)};
  const auto limit = limits.find(inode.row.channel);
  if (limit != limits.end() && !file.extents.empty()) {
    REELFS_TRY(const auto channel, reader.find(ChannelKey{inode.row.channel}));
    if (channel && channel->live_bytes + bytes_of(file) > limit->second)
      return Verdict{Error(Errc::quota_exceeded, fmt::format("channel {} has its quota", channel->name))};
  }
  REELFS_TRY(const auto holds, count_holds(reader));
  if (holds == 0) return Verdict{};
  REELFS_TRY(const auto takes_away, overwrites(reader, inode, file));
  if (!takes_away) return Verdict{};
  const auto checked = check_not_held(reader, inode.id);
  if (checked) return Verdict{};
  if (checked.error().code() != Errc::not_permitted) return checked.error();
  return Verdict{checked.error()};
}

Result<void> commit_file(Transaction& txn, Inode& inode, const FileCommit& file, WallNs now,
                         std::vector<SegmentId>& emptied) {
  ExtentEditor editor(txn, inode);
  for (const auto& extent : file.extents) {
    REELFS_TRY(editor.put(extent));
  }
  REELFS_TRY(const auto now_empty, editor.finish());
  emptied.insert(emptied.end(), now_empty.begin(), now_empty.end());
  auto& row = inode.row;
  row.size = std::max(row.size, file.size.value_or(0));
  row.mtime_ns = file.mtime_ns.value_or(now);
  // When it was written, as its mount has told everyone since: a commit later on changes nothing of that.
  row.ctime_ns = std::max(row.ctime_ns, row.mtime_ns);
  if (!file.extents.empty()) note_bytes(txn, inode, now, true);
  if (file.clear_suid) {
    row.mode &= ~static_cast<std::uint32_t>(S_ISUID);
    if ((row.mode & S_IXGRP) != 0) row.mode &= ~static_cast<std::uint32_t>(S_ISGID);
  }
  put_inode(txn, inode);
  return ok();
}

}  // namespace

Result<std::vector<Extent>> find_extents(const Reader& reader, InodeId inode, std::uint64_t from,
                                         std::uint64_t upto, std::size_t limit) {
  std::vector<Extent> found;
  if (limit == 0 || from >= upto) return found;
  REELFS_TRY(reader.scan_back(ExtentKey{inode, 0}, ExtentKey{inode, from},
                              [&](const ExtentKey& key, const ExtentRow& row) {
                                const Extent extent{.file_offset = key.file_offset, .row = row};
                                if (extent.end() > from) found.push_back(extent);
                                return false;
                              }));
  if (found.size() == limit) return found;
  REELFS_TRY(reader.scan(ExtentKey{inode, from}, ExtentKey{inode, upto},
                         [&](const ExtentKey& key, const ExtentRow& row) {
                           found.push_back({.file_offset = key.file_offset, .row = row});
                           return found.size() < limit;
                         }));
  return found;
}

void ExtentEditor::add(const Extent& extent) {
  txn_.put(ExtentKey{inode_.id, extent.file_offset}, extent.row);
  inode_.row.stored_bytes += extent.row.length;
  live_bytes_[extent.row.segment] += static_cast<std::int64_t>(extent.row.length);
}

void ExtentEditor::remove(const Extent& extent) {
  txn_.erase(ExtentKey{inode_.id, extent.file_offset});
  inode_.row.stored_bytes -= extent.row.length;
  live_bytes_[extent.row.segment] -= static_cast<std::int64_t>(extent.row.length);
}

Result<bool> ExtentEditor::clear(std::uint64_t from, std::uint64_t upto, std::size_t max_extents) {
  REELFS_TRY(const auto found, find_extents(txn_, inode_.id, from, upto, max_extents));
  for (const auto& extent : found) {
    remove(extent);
    if (extent.file_offset < from) add(cut(extent, extent.file_offset, from));
    if (extent.end() > upto) add(cut(extent, upto, extent.end()));
  }
  return found.size() < max_extents;
}

Result<void> ExtentEditor::put(const Extent& extent) {
  REELFS_TRY(check_extent(extent));
  // Beyond the size there is nothing to shadow: the usual case, a recording that grows.
  if (extent.file_offset < inode_.row.size) {
    REELFS_TRY(clear(extent.file_offset, extent.end()));
  }
  inode_.row.size = std::max(inode_.row.size, extent.end());
  add(extent);
  auto& end = committed_[extent.row.segment];
  end = std::max(end, end_in_segment(extent.row));
  return ok();
}

Result<std::vector<SegmentId>> ExtentEditor::finish() {
  std::vector<SegmentId> emptied;
  std::int64_t total = 0;
  for (const auto& [id, change] : live_bytes_) {
    const SegmentKey key{id};
    REELFS_TRY(auto segment, txn_.find(key));
    const auto committed = committed_.find(id);
    if (!segment) return Error(Errc::invalid, fmt::format("there is no segment {}", id.value));
    if (committed != committed_.end()) {
      if (segment->channel != inode_.row.channel)
        return Error(Errc::invalid, fmt::format("segment {} is of another channel", id.value));
      REELFS_TRY(note_commit(id, *segment, committed->second));
    }
    const SegmentFileKey file_key{id, inode_.id};
    REELFS_TRY(auto file, txn_.find(file_key));
    auto of_file = file.value_or(SegmentFileRow{});
    if (change < 0 &&
        std::min(of_file.live_bytes, segment->live_bytes) < static_cast<std::uint64_t>(-change)) {
      return Error(Errc::corrupt, fmt::format("the live bytes of segment {} do not add up", id.value));
    }
    of_file.live_bytes += static_cast<std::uint64_t>(change);
    segment->live_bytes += static_cast<std::uint64_t>(change);
    txn_.put(key, *segment);
    if (of_file.live_bytes > 0) {
      txn_.put(file_key, of_file);
    } else if (file) {
      txn_.erase(file_key);
    }
    total += change;
    if (segment->live_bytes == 0 && change < 0 && segment->state == SegmentState::sealed)
      emptied.push_back(id);
  }
  REELFS_TRY(count(txn_, inode_.row.channel, {.live_bytes = total}));
  return emptied;
}

Result<Committed> commit(Transaction& txn, std::span<const FileCommit> files, const ChannelLimits& limits,
                         WallNs now) {
  Committed done;
  for (const auto& file : files) {
    REELFS_TRY(auto row, txn.find(InodeKey{file.inode}));
    Inode inode;
    if (row) {
      inode = {.id = file.inode, .row = *row};
      if (!inode.is_regular()) return Error(Errc::invalid, "only files hold data");
      REELFS_TRY(auto verdict, judge(txn, inode, file, limits));
      if (verdict.refused) {
        done.refused.push_back({done.inodes.size(), std::move(*verdict.refused)});
        put_inode(txn, inode);
      } else {
        REELFS_TRY(commit_file(txn, inode, file, now, done.emptied));
      }
    }
    done.inodes.push_back(std::move(inode));
  }
  // What one file of the commit emptied, the next may have filled.
  std::sort(done.emptied.begin(), done.emptied.end());
  done.emptied.erase(std::unique(done.emptied.begin(), done.emptied.end()), done.emptied.end());
  std::vector<SegmentId> still_empty;
  for (const auto id : done.emptied) {
    REELFS_TRY(const auto segment, txn.get(SegmentKey{id}));
    if (segment.live_bytes == 0) still_empty.push_back(id);
  }
  done.emptied = std::move(still_empty);
  return done;
}

Result<Changed> punch_hole(Transaction& txn, const HoleParams& params, WallNs now) {
  REELFS_TRY(auto inode, get_inode(txn, params.inode));
  if (inode.is_directory()) return Error(Errc::is_directory);
  if (!inode.is_regular() || params.length == 0 || params.offset > kMaxFileSize) return Error(Errc::invalid);
  const auto length = std::min(params.length, kMaxFileSize - params.offset);
  if (params.offset < inode.row.size) {
    REELFS_TRY(check_not_held(txn, inode.id));
  }
  ExtentEditor editor(txn, inode);
  REELFS_TRY(editor.clear(params.offset, params.offset + length, params.max_extents));
  REELFS_TRY(auto emptied, editor.finish());
  inode.row.mtime_ns = inode.row.ctime_ns = now;
  put_inode(txn, inode);
  return Changed{.inode = std::move(inode), .emptied = std::move(emptied)};
}

Result<Cloned> clone_range(Transaction& txn, const CloneParams& params, WallNs now) {
  REELFS_TRY(auto source, get_inode(txn, params.source));
  REELFS_TRY(auto target, get_inode(txn, params.target));
  if (source.is_directory() || target.is_directory()) return Error(Errc::is_directory);
  if (!source.is_regular() || !target.is_regular()) return Error(Errc::invalid, "only files hold data");
  // A segment, its copies and its policy are one channel's.
  if (source.row.channel != target.row.channel) return Error(Errc::cross_channel);
  if (params.target_offset > kMaxFileSize) return Error(Errc::file_too_big);
  const auto from = std::min(params.source_offset, source.row.size);
  auto length = std::min(params.length, source.row.size - from);
  if (length > kMaxFileSize - params.target_offset) return Error(Errc::file_too_big);
  const auto distance = std::max(from, params.target_offset) - std::min(from, params.target_offset);
  if (source.id == target.id && distance < length) return Error(Errc::invalid, "the ranges overlap");
  if (length == 0) return Cloned{.target = std::move(target), .length = 0, .emptied = {}};

  const auto limit = std::min(params.max_extents, std::numeric_limits<std::size_t>::max() - 1);
  REELFS_TRY(const auto given, find_extents(txn, source.id, from, from + length, limit + 1));
  if (given.size() > limit) length = given[limit].file_offset - from;
  const auto into = params.target_offset;
  REELFS_TRY(const auto taken, find_extents(txn, target.id, into, into + length, limit + 1));
  if (taken.size() > limit) length = taken[limit].file_offset - into;
  if (!taken.empty()) {
    REELFS_TRY(check_not_held(txn, target.id));
  }

  ExtentEditor editor(txn, target);
  REELFS_TRY(editor.clear(into, into + length));
  for (const auto& extent : given) {
    if (extent.file_offset >= from + length) break;
    auto shared = cut(extent, std::max(extent.file_offset, from), std::min(extent.end(), from + length));
    move_to(shared, source.id, target.id, shared.file_offset - from + into);
    REELFS_TRY(editor.put(shared));
  }
  REELFS_TRY(auto emptied, editor.finish());
  target.row.size = std::max(target.row.size, into + length);
  target.row.mtime_ns = target.row.ctime_ns = now;
  note_bytes(txn, target, now, true);
  put_inode(txn, target);
  return Cloned{.target = std::move(target), .length = length, .emptied = std::move(emptied)};
}

Result<Extents> get_extents(const Reader& reader, const ExtentRange& range) {
  REELFS_TRY(auto inode, get_inode(reader, range.inode));
  if (inode.is_directory()) return Error(Errc::is_directory);
  if (!inode.is_regular()) return Error(Errc::invalid);
  const auto from = std::min(range.offset, kMaxFileSize);
  const auto upto = from + std::min(range.length, kMaxFileSize - from);
  REELFS_TRY(auto found, find_extents(reader, range.inode, from, upto, range.limit + 1));
  const bool more = found.size() > range.limit;
  if (more) found.pop_back();
  return Extents{.inode = std::move(inode), .extents = std::move(found), .more = more};
}

void make_orphan(Transaction& txn, InodeId inode, WallNs now) {
  txn.put(OrphanKey{inode}, OrphanRow{.since_ns = now});
}

Result<Reaped> reap_orphan(Transaction& txn, InodeId id, std::size_t max_extents) {
  REELFS_TRY(const auto is_orphan, txn.has(OrphanKey{id}));
  Reaped reaped;
  if (!is_orphan) {
    reaped.done = true;
    return reaped;
  }
  REELFS_TRY(auto inode, get_inode(txn, id));
  ExtentEditor editor(txn, inode);
  REELFS_TRY(const auto cleared, editor.clear(0, kMaxFileSize, max_extents));
  REELFS_TRY(auto emptied, editor.finish());
  reaped.done = cleared;
  reaped.emptied = std::move(emptied);
  if (!cleared) {
    put_inode(txn, inode);
    return reaped;
  }
  REELFS_TRY(const auto names, list_xattr(txn, id));
  for (const auto& name : names) txn.erase(XattrKey{id, name});
  if (S_ISLNK(inode.row.mode)) txn.erase(SymlinkKey{id});
  txn.erase(OrphanKey{id});
  txn.erase(InodeKey{id});
  return reaped;
}

}  // namespace reelfs::indexd::tree
