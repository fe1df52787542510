#pragma once

#include <string_view>

#include "common/wire/index.pb.h"

namespace reelfs::wire {

/// "source_silent", as users read it; "unknown" for what a newer index server says.
std::string_view name_of(GapCause cause);

}  // namespace reelfs::wire
