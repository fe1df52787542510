#pragma once

#include <memory>
#include <string>
#include <vector>

#include "common/base/clock.h"
#include "common/base/result.h"
#include "common/mounts/mounts.h"
#include "fuse/ops/mount.h"
#include "fuse/session/kernel_channel.h"
#include "fuse/takeover/conversation.h"
#include "fuse/takeover/mount_state.h"

namespace reelfs::fuse {

/// The side of the process that serves a mount and may be asked to leave it to another.
class HandOver {
 public:
  struct Parts {
    const Clock& clock;
    Mount& mount;
    KernelChannel& channel;
    std::vector<std::string>
        arguments;  // what this process was told about the mount, see Options::to_arguments
  };
  static Result<std::unique_ptr<HandOver>> listen(const MountEntry& mount, Parts parts);
  ~HandOver();
  HandOver(const HandOver&) = delete;
  HandOver& operator=(const HandOver&) = delete;

  /// Readable when a successor asks.
  int descriptor() const { return listening_.number(); }

  enum class Outcome {
    stays,  // nobody has taken over, and calls are served as before
    left,   // the channel is the successor's, and so is the session
  };
  /// Answers whoever asks. Calls that come meanwhile wait, for kMaxStall at most.
  Outcome answer();

  static constexpr std::chrono::milliseconds kMaxStall{900};

 private:
  HandOver(Parts parts, std::string path, Descriptor listening);
  Result<void> hand_over(Conversation& successor);
  Result<void> hand_over_paused(Conversation& successor, KernelChannel::Standing kernel, Deadline deadline);
  Result<void> pause_client(Deadline deadline, MountState& into);

  Parts parts_;
  const std::string path_;
  Descriptor listening_;
  bool left_ = false;
};

}  // namespace reelfs::fuse
