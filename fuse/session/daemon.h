#pragma once

#include "common/base/result.h"

namespace reelfs::fuse {

/// The way into the background, as mount(8) wants it: the command returns when the mount works, with status
/// 0, or has said on standard error why it does not. To be made before any thread.
class Daemon {
 public:
  /// Returns in the child alone; the parent waits for ready() or the child's end, and exits.
  /// @param failure_status  with which it exits in the latter case
  static Result<Daemon> enter(int failure_status);

  /// The parent may exit with status 0; from now on there is no terminal.
  void ready();

 private:
  explicit Daemon(int report) : report_(report) {}
  int report_;  // pipe to the parent; closed unwritten when this process ends
};

}  // namespace reelfs::fuse
