#pragma once

#include <optional>
#include <string>

#include <sys/types.h>

#include "common/base/result.h"
#include "common/mounts/mounts.h"

namespace reelfs {

/// Where the process that serves a mount listens for its successor. The directory is made where it is
/// missing, and only its owner may enter it.
/// @errors not_permitted: the directory is not ours alone; others: it cannot be made
Result<std::string> serving_socket(const MountEntry& mount);

/// Which process that is; it need not answer.
std::optional<pid_t> serving_process(const MountEntry& mount);

}  // namespace reelfs
