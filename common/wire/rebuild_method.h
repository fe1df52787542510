#pragma once

#include "common/wire/method.h"

namespace reelfs::wire::rebuild {
inline constexpr Method index_status{240};
inline constexpr Method rebuild_index{241};
inline constexpr Method list_blocks{242};
}  // namespace reelfs::wire::rebuild
