#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "common/base/result.h"
#include "common/base/units.h"
#include "common/observe/log.h"

namespace reelfs::fuse {

/// The command line: `reelfs [CLUSTER] MNT -o cluster=FILE[,…] [-f] [-d]`. man/reelfs.8 describes each.
struct Options {
  enum class Action { mount, help, version };

  Action action = Action::mount;
  std::filesystem::path mountpoint;  // absolute
  std::filesystem::path cluster;     // absolute
  std::string channel;               // empty: all channels
  std::chrono::milliseconds timeout{30'000};
  std::uint64_t max_dirty_bytes = 256 * kMiB;
  LogConfig log;
  bool foreground = false;
  bool debug = false;
  bool background_start = false;          // mount although the cluster cannot be reached yet
  bool allow_other = false;               // by default for root, see parse()
  std::vector<std::string> kernel_flags;  // ro, nosuid, noatime, …: what mount(2) does, as libfuse spells it

  /// @param superuser  root's mounts are for all users unless told otherwise
  /// @errors bad_config: a sentence for whoever typed it
  static Result<Options> parse(std::vector<std::string> arguments, bool superuser);
};

/// What `reelfs --help` prints.
std::string usage();

}  // namespace reelfs::fuse
