#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <vector>

#include "indexd/schema/reader.h"
#include "indexd/schema/transaction.h"

/// The ledger of gaps: when channels that are recorded to were not. docs/design/gaps.md
namespace reelfs::indexd::tree {

/// Of one channel; the oldest go.
inline constexpr std::uint64_t kMaxGaps = 10'000;

struct GapChange {
  WallNs start_ns = 0;        // of the gap, by which it is known
  std::optional<GapRow> row;  // none: there was no such gap
};
/// What is known of a channel that is recorded to. A channel that is gone is passed over.
/// @return whether it is there
Result<bool> note_gaps(Transaction& txn, InodeId channel, const WatchRow& watch,
                       std::span<const GapChange> changes);
/// The channel goes.
Result<void> forget_gaps(Transaction& txn, InodeId channel);

struct Gap {
  WallNs start_ns = 0;
  GapRow row;
};
struct LedgerRange {
  std::optional<WallNs> from_ns;  // none: the oldest recording
  std::optional<WallNs> to_ns;    // none: now
};
/// Gaps that overlap the range, by start, at most `limit` of those that start after `after_ns`.
Result<std::vector<Gap>> list_gaps(const Reader& reader, InodeId channel, const LedgerRange& range,
                                   WallNs after_ns, std::size_t limit, WallNs now);

struct Coverage {
  WatchRow watch;
  WallNs from_ns = 0;  // what was looked at
  WallNs to_ns = 0;
  WallNs covered_ns = 0;  // of it
  std::uint64_t gaps = 0;
};
/// How much of the range was recorded. Only what comes after the oldest recording counts: what was
/// overwritten or removed is no gap. @return none: the channel is not recorded to
Result<std::optional<Coverage>> coverage(const Reader& reader, InodeId channel, const LedgerRange& range,
                                         WallNs now);

}  // namespace reelfs::indexd::tree
