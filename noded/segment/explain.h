#pragma once

#include "common/base/error.h"
#include "common/base/ids.h"

namespace reelfs::noded {

/// Puts a sentence to what a device table refused with a bare code; leaves an error that has one.
Error explain(Error refused, SegmentId segment);

}  // namespace reelfs::noded
