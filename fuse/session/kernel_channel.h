#pragma once

#include <memory>
#include <string>
#include <vector>

#include "common/base/result.h"
#include "fuse/session/fuse_api.h"

namespace reelfs::fuse {

/// The mount and the threads that take the kernel's calls from it.
///
///     REELFS_TRY(auto channel, KernelChannel::mount(options, operations(), &mount));
///     channel->serve();
///     … until channel->ended() is readable, or a signal says so …
///     channel->stop_serving();      // afterwards nothing new arrives
///     … answer what is under way …
///     channel.reset();              // what is left gets ENOTCONN; the mount is gone
class KernelChannel {
 public:
  struct Options {
    std::string mountpoint;          // absolute
    std::string source;              // what df and mount show
    std::vector<std::string> flags;  // mount options, as libfuse spells them
    bool debug = false;              // print every call
  };

  /// @param user_data  what fuse_req_userdata() gives to the operations
  /// @errors io, not_found, not_directory
  static Result<std::unique_ptr<KernelChannel>> mount(Options options, const fuse_lowlevel_ops& operations,
                                                      void* user_data);
  ~KernelChannel();
  KernelChannel(const KernelChannel&) = delete;
  KernelChannel& operator=(const KernelChannel&) = delete;

  void serve();
  /// A descriptor that becomes readable when the mount has been taken away from outside (umount, or an
  /// abort).
  int ended() const;
  // What the kernel must ask for again before it is used. Any thread while serving, but never one that
  // answers calls: the kernel may wait for calls under way in the directory.
  void forget_name(fuse_ino_t directory, const std::string& name);
  void forget_attributes(fuse_ino_t node);
  /// All names of the mount, where the kernel can (6.16 and later); else each is believed for the rest of its
  /// lease.
  void forget_all_names();
  /// Unmounts if nobody uses the mount, so that dirty mapped pages are written; else stops serving all the
  /// same. Joins the threads.
  void stop_serving();

 private:
  struct State;
  explicit KernelChannel(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace reelfs::fuse
