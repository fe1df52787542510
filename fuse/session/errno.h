#pragma once

#include "common/base/error.h"

namespace reelfs::fuse {

/// The errno with which the mount answers. The one place where our codes become the system's.
int to_errno(Errc code) noexcept;

}  // namespace reelfs::fuse
