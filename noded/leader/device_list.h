#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "common/base/ids.h"
#include "common/base/result.h"

namespace reelfs::noded {

/// Which paths are a node's devices: those of its configuration, those added since, without those removed
/// since. What was added and removed is kept in a file, so that it outlives the node's processes.
/// docs/design/node.md, "Devices that come and go".
class DeviceList {
 public:
  struct Removed {
    std::filesystem::path path;
    DeviceId device;
    std::int64_t since_ns = 0;  // wall time
  };

  DeviceList() = default;
  /// @param file  may be absent; empty: nothing is kept
  /// @errors bad_config (it does not parse: what to do is said), io
  static Result<DeviceList> load(std::vector<std::filesystem::path> configured, std::filesystem::path file);

  /// Configured and added ones, without the removed.
  std::vector<std::filesystem::path> paths() const;
  const std::vector<Removed>& removed() const { return removed_; }
  bool contains(const std::filesystem::path& path) const;

  void add(const std::filesystem::path& path);
  void remove(Removed removed);
  /// Writes the file anew, or not at all. Blocks. @errors io, no_space
  Result<void> save() const;

 private:
  std::vector<std::filesystem::path> configured_;
  std::filesystem::path file_;
  std::vector<std::filesystem::path> added_;
  std::vector<Removed> removed_;
};

}  // namespace reelfs::noded
