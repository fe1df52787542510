#pragma once

#include <filesystem>
#include <memory>
#include <string>

#include "common/async/task.h"
#include "noded/device/superblock.h"
#include "noded/leader/node_identity.h"
#include "noded/shm/device_table.h"
#include "noded/shm/shm_area.h"

namespace reelfs::noded {

/// A configured device as its node sees it.
struct DeviceStatus {
  enum class State {
    online,
    blank,    // waits for the index's command to be initialised
    foreign,  // holds what is not ours: refused
    failed,   // cannot be read
  };
  std::filesystem::path path;
  State state = State::failed;
  DeviceId device;  // of one that is online
  Uuid uuid;
  std::string reason;  // why it is not online
};

/// A device made ready, or why not: then file and table are empty.
struct BroughtUp {
  DeviceStatus status;
  std::unique_ptr<io::DiskFile> file;
  std::unique_ptr<DeviceTable> table;
};

/// Opens a device, checks whose it is, repairs a damaged superblock, reads its table, finds the end of every
/// open block and makes its shared memory. Never fails as a whole: a device that cannot be used is one that
/// says why.
asio::awaitable<BroughtUp> bring_up_device(NodeIdentity identity, Uuid incarnation,
                                           std::filesystem::path path, OpenDevice open);

/// What the index tells of a device to be initialised.
struct NewDevice {
  std::filesystem::path path;
  Uuid uuid;
  DeviceId device;
  std::uint64_t block_bytes = 0;
};
/// Writes superblocks and an empty table on a blank device.
/// @errors not_permitted (not blank), no_space, invalid (block size), io, not_found
Task<void> initialise_blank_device(NodeIdentity identity, NewDevice device, std::int64_t now_ns,
                                   OpenDevice open);

}  // namespace reelfs::noded
