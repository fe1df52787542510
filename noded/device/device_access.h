#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "common/async/task.h"
#include "common/base/ids.h"
#include "common/io/disk_file.h"

namespace reelfs::noded {

/// What stands at a device's path at one moment.
struct DeviceSight {
  bool present = false;
  std::string reason;  // why it is not
  std::uint64_t file_system = 0;
  std::uint64_t inode = 0;
  std::uint64_t number = 0;  // of a block device

  friend bool operator==(const DeviceSight&, const DeviceSight&) = default;
};

/// An open device.
class DeviceFile : public io::DiskFile {
 public:
  using BlockingSync = std::function<Result<void>()>;
  /// Calls `work` where it may block, with what does as sync() does.
  virtual Task<void> sync_by(std::function<Result<void>(const BlockingSync& sync)> work) = 0;
  /// Whether another process of this node that is or was that worker has the device open: one that was killed
  /// has, until its last call of this device has ended. Empty where that cannot be told.
  virtual std::optional<bool> in_use_by(WorkerId worker) const = 0;
};

/// How a node reaches its devices. Whatever one device does, calls about others go on.
class DeviceAccess {
 public:
  virtual ~DeviceAccess() = default;
  /// Looks whether there is a device. @errors io
  virtual Task<DeviceSight> look(std::filesystem::path path) = 0;

  enum class Use {
    shared,  // beside other workers of this node
    first,   // nobody has it open: what an earlier life of the device began has ended
  };
  /// Opens a device for reading and writing, and keeps other nodes from it until the file is closed.
  /// @errors busy (a process of this node still has it open), not_permitted (in use by others, saying by whom
  /// as far as that is known), not_found, access_denied, invalid, io
  virtual Task<std::unique_ptr<DeviceFile>> open(std::filesystem::path path, Use use) = 0;
};

}  // namespace reelfs::noded
