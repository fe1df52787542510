#pragma once

#include <cstdint>
#include <string>

#include "common/base/ids.h"
#include "noded/shm/process_identity.h"

namespace reelfs::noded {

/// Who a worker process is.
struct NodeIdentity {
  Uuid cluster;
  std::string node_name;
  WorkerId worker;
  ProcessIdentity process;
  std::uint64_t boot = 0;  // of the machine, see machine_boot(); BlockDescriptor::boot
};

}  // namespace reelfs::noded
