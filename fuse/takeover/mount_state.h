#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "client/filesystem.h"
#include "common/base/ids.h"
#include "common/base/result.h"
#include "fuse/session/kernel_channel.h"

namespace reelfs::fuse {

/// What a process needs besides the device's descriptor to go on in another's place.
struct MountState {
  struct File {
    std::uint64_t number = 0;  // by which the kernel knows the handle
    client::FileHandle::Carried carried;
  };
  /// A file of a view, as it was made when it was opened.
  struct Made {
    std::uint64_t node = 0;
    std::uint64_t number = 0;
    std::string content;
  };
  KernelChannel::Standing kernel;
  client::Standing client;
  InodeId root;
  std::vector<File> files;
  std::vector<Made> made;
};

nlohmann::json to_json(const MountState& state);
/// What a later version has added is left out. @errors protocol
Result<MountState> mount_state_from_json(const nlohmann::json& json);

}  // namespace reelfs::fuse
