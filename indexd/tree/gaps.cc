#include "indexd/tree/gaps.h"

#include <algorithm>
#include <limits>

#include "indexd/tree/recordings.h"

namespace reelfs::indexd::tree {
namespace {

constexpr std::size_t kOldestLookedAt = 16;  // recordings, for one that has bytes

GapKey key_of(InodeId channel, WallNs start_ns) {
  return {channel, static_cast<std::uint64_t>(std::max<WallNs>(start_ns, 1))};
}
GapKey begin_of(InodeId channel) { return {channel, 0}; }
GapKey end_of(InodeId channel) { return begin_of(InodeId{channel.value + 1}); }

Result<std::vector<GapKey>> oldest(const Reader& reader, InodeId channel, std::uint64_t count) {
  std::vector<GapKey> keys;
  if (count == 0) return keys;
  REELFS_TRY(reader.scan(begin_of(channel), end_of(channel), [&](const GapKey& key, const GapRow&) {
    keys.push_back(key);
    return keys.size() < count;
  }));
  return keys;
}

/// When the recording began that is the oldest of those there are.
Result<std::optional<WallNs>> oldest_byte(const Reader& reader, InodeId channel) {
  std::vector<InodeId> candidates;
  REELFS_TRY(for_each_recording(reader, channel, [&](const Recording& recording) {
    candidates.push_back(recording.inode);
    return candidates.size() < kOldestLookedAt;
  }));
  for (const auto inode : candidates) {
    REELFS_TRY(const auto row, reader.find(InodeKey{inode}));
    if (row && row->first_ns != 0) return std::optional(row->first_ns);
  }
  return std::optional<WallNs>();
}

struct Span {
  WallNs from_ns = 0;
  WallNs to_ns = 0;
};

/// Gaps of the channel that overlap the span, one after the other, as long as visit(Gap, WallNs end) returns
/// true.
template <class Visit>
Result<void> for_each_gap(const Reader& reader, InodeId channel, Span span, WallNs after_ns, WallNs now,
                          Visit visit) {
  const auto from = after_ns > 0 ? key_of(channel, after_ns + 1) : begin_of(channel);
  return reader.scan(from, end_of(channel), [&](const GapKey& key, const GapRow& row) {
    const auto start = static_cast<WallNs>(key.start_ns);
    const auto end = row.end_ns != 0 ? row.end_ns : std::max(start, now);
    if (start > span.to_ns) return false;
    return end < span.from_ns || visit(Gap{start, row}, end);
  });
}

}  // namespace

Result<bool> note_gaps(Transaction& txn, InodeId channel, const WatchRow& watch,
                       std::span<const GapChange> changes) {
  REELFS_TRY(const bool is_there, txn.has(ChannelKey{channel}));
  if (!is_there) return false;
  REELFS_TRY(const auto before, txn.find(WatchKey{channel}));
  auto row = watch;
  row.gaps = before ? before->gaps : 0;
  row.open_ns = before ? before->open_ns : 0;
  for (const auto& change : changes) {
    const auto key = key_of(channel, change.start_ns);
    REELFS_TRY(const bool was_there, txn.has(key));
    const auto start = static_cast<WallNs>(key.start_ns);
    if (row.open_ns == start) row.open_ns = 0;
    if (change.row) {
      txn.put(key, *change.row);
      if (change.row->end_ns == 0) row.open_ns = start;
      row.gaps += was_there ? 0 : 1;
    } else if (was_there) {
      txn.erase(key);
      --row.gaps;
    }
  }
  REELFS_TRY(const auto too_old, oldest(txn, channel, row.gaps - std::min(row.gaps, kMaxGaps)));
  for (const auto& key : too_old) {
    if (row.open_ns == static_cast<WallNs>(key.start_ns)) continue;  // the clock was set back
    txn.erase(key);
    --row.gaps;
  }
  txn.put(WatchKey{channel}, row);
  return true;
}

Result<void> forget_gaps(Transaction& txn, InodeId channel) {
  REELFS_TRY(const auto keys, oldest(txn, channel, std::numeric_limits<std::uint64_t>::max()));
  for (const auto& key : keys) txn.erase(key);
  txn.erase(WatchKey{channel});
  return ok();
}

Result<std::vector<Gap>> list_gaps(const Reader& reader, InodeId channel, const LedgerRange& range,
                                   WallNs after_ns, std::size_t limit, WallNs now) {
  Span span{range.from_ns.value_or(0), range.to_ns.value_or(std::numeric_limits<WallNs>::max())};
  if (!range.from_ns) {
    REELFS_TRY(const auto oldest_ns, oldest_byte(reader, channel));
    span.from_ns = oldest_ns.value_or(0);
  }
  std::vector<Gap> gaps;
  REELFS_TRY(for_each_gap(reader, channel, span, after_ns, now, [&](const Gap& gap, WallNs) {
    gaps.push_back(gap);
    return gaps.size() < limit;
  }));
  return gaps;
}

Result<std::optional<Coverage>> coverage(const Reader& reader, InodeId channel, const LedgerRange& range,
                                         WallNs now) {
  REELFS_TRY(const auto watch, reader.find(WatchKey{channel}));
  if (!watch) return std::optional<Coverage>();
  REELFS_TRY(const auto oldest_ns, oldest_byte(reader, channel));
  const auto begun = std::max(watch->since_ns, oldest_ns.value_or(now));
  Coverage found;
  found.watch = *watch;
  found.to_ns = std::min(range.to_ns.value_or(now), now);
  found.from_ns = std::min(std::max(range.from_ns.value_or(begun), begun), found.to_ns);
  // Where the clock was set back, gaps may overlap.
  auto upto = found.from_ns;
  WallNs missing = 0;
  REELFS_TRY(
      for_each_gap(reader, channel, {found.from_ns, found.to_ns}, 0, now, [&](const Gap& gap, WallNs end) {
        ++found.gaps;
        const auto from = std::max(gap.start_ns, upto);
        upto = std::max(upto, std::min(end, found.to_ns));
        if (upto > from) missing += upto - from;
        return true;
      }));
  found.covered_ns = found.to_ns - found.from_ns - missing;
  return std::optional(found);
}

}  // namespace reelfs::indexd::tree
