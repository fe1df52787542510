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

/// The command line: `reelfs [CLUSTER] MNT -o cluster=FILE[,…] [-f] [-d]`, or as mount(8) calls its helpers,
/// `mount.reelfs CLUSTER MNT [-sfnv] [-o …]`. man/reelfs.8 and man/mount.reelfs.8 describe each.
struct Options {
  enum class Action {
    mount,
    remount,    // change what the kernel knows of the mount that is there
    take_over,  // go on in the place of the process that serves the mount
    nothing,    // mount -f
    help,
    version
  };

  Action action = Action::mount;
  bool helper = false;               // called as mount.reelfs
  std::filesystem::path mountpoint;  // absolute, without links except in the last part
  std::filesystem::path cluster;     // absolute
  std::string channel;               // empty: all channels
  std::chrono::milliseconds timeout{30'000};
  std::uint64_t max_dirty_bytes = 256 * kMiB;
  LogConfig log;
  bool foreground = false;
  bool debug = false;
  bool background_start = false;          // mount although the cluster cannot be reached yet
  bool protect = false;                   // the directory beneath, see BareDirectory
  bool allow_other = false;               // by default for root, see parse()
  bool directory_atime = true;            // nodiratime: not
  std::vector<std::string> kernel_flags;  // ro, nosuid, noatime, …: what mount(2) does, as libfuse spells it

  /// @param superuser  root's mounts are for all users unless told otherwise
  /// @errors bad_config: a sentence for whoever typed it; invalid: called with the wrong arguments
  static Result<Options> parse(std::vector<std::string> arguments, bool superuser);

  /// Arguments that parse() makes the same of, but for the mount point and where the process runs.
  std::vector<std::string> to_arguments() const;
  /// These options as parse() of `arguments` would have them if `before` had stood there first.
  /// @errors bad_config: what is given cannot be changed while mounted
  Result<Options> after(std::vector<std::string> before) const;

 private:
  std::vector<std::string> given_;  // for after()
  bool superuser_ = false;
};

/// Whether the program was called by mount(8).
bool is_mount_helper(const std::string& program);

/// What `reelfs --help` prints.
std::string usage();

}  // namespace reelfs::fuse
