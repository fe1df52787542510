#pragma once

#include <cstdint>
#include <memory>
#include <string_view>

#include "common/async/blocking_pool.h"
#include "common/base/ids.h"
#include "noded/device/device_access.h"

namespace reelfs::noded {

/// Block devices and files of this machine, for one worker of a node. Each that is opened has threads of its
/// own, which go when it is closed, and which have no descriptors but the device's.
class LocalDevices final : public DeviceAccess {
 public:
  LocalDevices(const Uuid& cluster, std::string_view node_name, WorkerId worker);
  Task<DeviceSight> look(std::filesystem::path path) override;
  Task<std::unique_ptr<DeviceFile>> open(std::filesystem::path path, Use use) override;

 private:
  const std::int64_t node_mark_;  // the byte that processes of this node lock
  const WorkerId worker_;
};

}  // namespace reelfs::noded
