#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "indexd/nodelog/piece.h"
#include "indexd/schema/rows.h"

namespace reelfs::indexd {

/// What an index is made again of: a checkpoint, then entries.
struct RebuildPlan {
  /// Entries of a group, the others of which do not count.
  struct Entries {
    std::vector<std::size_t> pieces;  // indices into what was given, in the order of their bytes
    std::uint64_t first_index = 0;
    std::uint64_t last_index = 0;
  };
  std::uint32_t salt = 0;
  JournalPosition checkpoint;          // entries behind it are to be applied
  std::vector<std::size_t> rows;       // pieces of the checkpoint, in order
  std::vector<Entries> entries;        // ascending, without a gap
  std::uint64_t last_index = 0;        // of the last of them; checkpoint.index where there is none
  std::uint64_t needed_index = 0;      // at least so many are needed for the checkpoint to be true
  std::uint64_t behind_gap_index = 0;  // of the newest entry that is there but has a gap before it; 0: none
};

/// Decides from what the pieces say of themselves, found on all nodes in any order and more than once: the
/// newest whole checkpoint whose entries are there as far as it needs them, and the entries behind it as far
/// as they are there without a gap. Where two reigns have entries of one index, those of the later one count.
/// @return none: there is no such checkpoint
std::optional<RebuildPlan> plan_rebuild(std::span<const PieceHeader> pieces);

}  // namespace reelfs::indexd
