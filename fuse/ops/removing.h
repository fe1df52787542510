#pragma once

#include <vector>

#include "common/base/ids.h"
#include "fuse/session/operations.h"

namespace reelfs::fuse {

struct Mount;

/// The kernel may have forgotten these, which lost their last names through this mount: those that it does
/// not know are kept no longer. A forget request alone does not say so: it may have been overtaken by a
/// look-up that found the inode once more. Any thread.
void let_go_of_forgotten(Mount& mount, const std::vector<InodeId>& inodes);

/// Looks after those that the kernel never knew, so that it will not say that it has forgotten them: it took
/// away a name which led to another inode by then.
Operation look_after_removed(Mount& mount);

}  // namespace reelfs::fuse
