#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "common/base/result.h"

namespace reelfs::fuse {

/// Changes what the kernel itself looks after: ro, nosuid, noatime and the like; what is not named stays. The
/// process that serves the mount is not asked.
/// @errors not_found (no reelfs is mounted there), busy (ro, while files are open for writing), not_permitted
Result<void> remount(const std::filesystem::path& mountpoint, const std::vector<std::string>& flags);

}  // namespace reelfs::fuse
