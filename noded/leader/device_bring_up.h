#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <string>

#include "common/async/task.h"
#include "noded/device/device_access.h"
#include "noded/device/superblock.h"
#include "noded/leader/node_identity.h"
#include "noded/shm/device_table.h"
#include "noded/shm/shm_area.h"

namespace reelfs::noded {

/// A device of the node as its leader sees it.
struct DeviceStatus {
  enum class State {
    online,
    blank,    // waits for the index's command to be initialised
    foreign,  // holds what is not ours, or is used by others: refused
    failed,   // an I/O error, or a call that did not end
    offline,  // it is not there, or not ready yet
    removed,  // taken out of service by an administrator
  };
  std::filesystem::path path;
  State state = State::offline;
  DeviceId device;  // where that is known
  Uuid uuid;
  std::string reason;         // why it is not online
  std::int64_t since_ns = 0;  // wall time
  std::uint64_t bytes = 0;    // of one that could be looked at
  bool in_use = false;        // foreign: by others, or by us at another path
};

/// A device made ready, or why not: then file and table are empty.
struct BroughtUp {
  DeviceStatus status;
  std::unique_ptr<DeviceFile> file;
  std::unique_ptr<DeviceTable> table;
};

/// The leader's say in whether a device that is ours is made ready: asked before its table is read, and again
/// before its shared memory is made. @errors any: the device is refused
using AdmitDevice = std::function<Result<void>(const Superblock& superblock)>;

/// Whether a device served before in this life of the node, and was away since: what it had not flushed then
/// may be lost.
using WasAway = std::function<bool(DeviceId device)>;

/// Opens a device, checks whose it is, repairs a damaged superblock, reads its table, finds the end of every
/// open block and makes its shared memory. Never fails as a whole: a device that cannot be used is one that
/// says why.
asio::awaitable<BroughtUp> bring_up_device(NodeIdentity identity, Uuid incarnation,
                                           std::filesystem::path path, DeviceAccess& access,
                                           AdmitDevice admit, WasAway was_away);

/// What the index tells of a device to be initialised.
struct NewDevice {
  std::filesystem::path path;
  Uuid uuid;
  DeviceId device;
  std::uint64_t block_bytes = 0;
};
/// Writes superblocks and an empty table on a blank device.
/// @errors not_permitted (not blank), no_space, invalid (block size), busy (in use), io, not_found
Task<void> initialise_blank_device(NodeIdentity identity, NewDevice device, std::int64_t now_ns,
                                   DeviceAccess& access);

}  // namespace reelfs::noded
