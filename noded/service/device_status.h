#pragma once

#include "common/wire/index.pb.h"
#include "noded/leader/device_bring_up.h"
#include "noded/shm/device_table.h"

namespace reelfs::noded {

/// As the index and the leader's followers are told of a device; its blocks are not among it.
void to_wire(const DeviceStatus& status, wire::DeviceInfo& info);
wire::State to_wire(DeviceHealth health);

}  // namespace reelfs::noded
