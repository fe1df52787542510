#pragma once

#include <cstdint>
#include <memory>
#include <string_view>

#include "common/async/blocking_pool.h"
#include "common/base/ids.h"
#include "noded/device/device_access.h"

namespace reelfs::noded {

/// Block devices and files of this machine. Each that is opened has threads of its own, which go when it is
/// closed.
class LocalDevices final : public DeviceAccess {
 public:
  LocalDevices(const Uuid& cluster, std::string_view node_name);
  Task<DeviceSight> look(std::filesystem::path path) override;
  Task<std::unique_ptr<DeviceFile>> open(std::filesystem::path path, Use use) override;

 private:
  const std::int64_t node_mark_;  // the byte that processes of this node lock
};

}  // namespace reelfs::noded
