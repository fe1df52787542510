#pragma once

#include "fuse/session/fuse_api.h"

namespace reelfs::fuse {

/// The table of fuse/ops, with views in every channel. Its user data is a Mount.
const fuse_lowlevel_ops& operations_with_views();

}  // namespace reelfs::fuse
