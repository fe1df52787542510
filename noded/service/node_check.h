#pragma once

#include <string>
#include <vector>

#include "common/async/task.h"
#include "noded/segment/device.h"
#include "noded/service/node_description.h"

namespace reelfs::noded {

/// What must hold of a node's shared memory at every moment, and does not, in words: each device's table adds
/// up, no segment has two blocks, and a block's owner has it on its list. Holds each device's lock for as
/// long as one look at all its blocks takes: not to be called on a loop, nor often.
std::vector<std::string> check_areas(const MappedAreas& areas);

/// Where the device's descriptor table is not what the shared memory says is on it. @errors io
Task<std::vector<std::string>> check_device(DevicePtr device);

}  // namespace reelfs::noded
