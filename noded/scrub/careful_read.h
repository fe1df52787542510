#pragma once

#include <cstdint>
#include <memory>

#include "common/async/task.h"
#include "common/base/buffer.h"
#include "common/base/byte_ranges.h"
#include "noded/segment/device.h"

namespace reelfs::noded {

/// Fills `into` from `begin` on as far as the device can: pages that it cannot read are zeros, and told of,
/// as places in `into`. @errors io: the device does not serve
Task<ByteRanges> read_carefully(DevicePtr device, std::uint64_t offset, std::shared_ptr<Buffer> into,
                                std::size_t begin = 0);

}  // namespace reelfs::noded
