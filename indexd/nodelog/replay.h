#pragma once

#include <cstdint>
#include <functional>
#include <string_view>

#include "common/base/result.h"
#include "indexd/nodelog/assembly.h"
#include "indexd/nodelog/piece_file.h"
#include "indexd/schema/rows.h"

namespace reelfs::indexd {

struct Replayed {
  JournalPosition last;  // of the last entry; the checkpoint's where there is none
  std::uint64_t entries = 0;
};

/// Calls visit(changes) with the rows of the plan's checkpoint, then with what each entry changed, in order:
/// indexd/schema/change.h has the form. Ends at an entry that is not sound or does not follow upon the one
/// before, where the checkpoint does not need it.
/// @errors corrupt (it does), io, those of visit
Result<Replayed> replay(const RebuildPlan& plan, const PieceFile& pieces,
                        const std::function<Result<void>(std::string_view changes)>& visit);

}  // namespace reelfs::indexd
