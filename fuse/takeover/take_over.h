#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "common/base/clock.h"
#include "common/base/result.h"
#include "fuse/takeover/conversation.h"
#include "fuse/takeover/mount_state.h"

namespace reelfs::fuse {

/// The side of the process that goes on in another's place.
///
///     REELFS_TRY(auto predecessor, TakeOver::begin(clock, mountpoint));
///     … read what predecessor.arguments() name; calls are still served …
///     REELFS_TRY(auto received, predecessor.receive());      // calls wait from here on
///     … make everything of it …
///     REELFS_TRY(predecessor.finish());                      // ours now
class TakeOver {
 public:
  /// @errors not_found (no reelfs is mounted there), unavailable (it does not answer), busy (it refuses)
  static Result<TakeOver> begin(const Clock& clock, const std::filesystem::path& mountpoint);

  const std::vector<std::string>& arguments() const { return arguments_; }
  pid_t predecessor() const { return conversation_.peer(); }

  struct Received {
    MountState state;
    Descriptor device;
  };
  Result<Received> receive();
  /// We can go on. @errors busy, unavailable: but the predecessor does
  Result<void> finish();
  /// We cannot.
  void give_up(const Error& why);

  /// How long all may take from receive() on; the predecessor then goes on by itself.
  static constexpr std::chrono::milliseconds kPatience{2000};

 private:
  TakeOver(const Clock& clock, Conversation conversation)
      : clock_(&clock), conversation_(std::move(conversation)) {}

  const Clock* clock_;
  Conversation conversation_;
  std::vector<std::string> arguments_;
};

}  // namespace reelfs::fuse
