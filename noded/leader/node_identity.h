#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <string>

#include "common/base/ids.h"
#include "common/base/result.h"
#include "common/io/disk_file.h"
#include "noded/shm/process_identity.h"

namespace reelfs::noded {

/// Who a worker process is.
struct NodeIdentity {
  Uuid cluster;
  std::string node_name;
  WorkerId worker;
  ProcessIdentity process;
};

/// Opens a device for reading and writing.
using OpenDevice = std::function<Result<std::unique_ptr<io::DiskFile>>(const std::filesystem::path& path)>;

}  // namespace reelfs::noded
