#pragma once

#include <span>
#include <string>
#include <string_view>

#include "common/async/task.h"
#include "common/base/ids.h"

namespace reelfs::fuse {

struct Mount;

/// A read-only file `.reel/NAME` of each channel. Its content is made when it is opened, and stays the same
/// for that open. Also stat(2) has it made, for the size.
struct GeneratedFile {
  unsigned id = 0;  // 1 to kMaxGenerated: never another file's, since kernels know it from earlier processes
  std::string_view name;
  /// Runs on the client's loop, within a call of the kernel's: it ends by the mount's timeout.
  Task<std::string> (*make)(Mount& mount, InodeId channel) = nullptr;
};

/// All that there are; where there is none, `.reel` is not there either.
std::span<const GeneratedFile> generated_files();

}  // namespace reelfs::fuse
