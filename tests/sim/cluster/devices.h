#pragma once

#include <filesystem>
#include <map>
#include <memory>

#include "common/sim/sim_disk.h"
#include "noded/device/device_access.h"
#include "tests/sim/cluster/world.h"

namespace reelfs::sim {

/// A disk of a machine, as long as there is the machine.
struct MachineDisk {
  MachineDisk(std::uint64_t bytes, std::uint64_t seed) : disk(bytes, seed) {}
  SimDisk disk;
  TimePoint hangs_until{};
  Process* user = nullptr;  // that has it open
  int files = 0;            // open there
};

/// A node's way to its disks: calls take their time, hang with the disk, and end, when the process is killed,
/// with what they wrote there or not.
class SimDevices final : public noded::DeviceAccess {
 public:
  explicit SimDevices(std::map<std::filesystem::path, MachineDisk*> disks) : disks_(std::move(disks)) {}
  Task<noded::DeviceSight> look(std::filesystem::path path) override;
  Task<std::unique_ptr<noded::DeviceFile>> open(std::filesystem::path path, Use use) override;

 private:
  const std::map<std::filesystem::path, MachineDisk*> disks_;
};

}  // namespace reelfs::sim
