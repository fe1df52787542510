#pragma once

#include <memory>
#include <string>
#include <vector>

#include "common/base/clock.h"
#include "common/base/result.h"
#include "fuse/session/fuse_api.h"
#include "fuse/session/unanswered.h"

namespace reelfs::fuse {

/// The mount and the threads that take the kernel's calls from it.
///
///     REELFS_TRY(auto channel, KernelChannel::mount(options, operations(), &mount));
///     channel->serve();
///     … until channel->ended() is readable, or a signal says so …
///     channel->stop_serving();      // afterwards nothing new arrives
///     … answer what is under way …
///     channel.reset();              // what is left gets ENOTCONN; the mount is gone
///
/// Or another process takes over (fuse/takeover):
///
///     REELFS_TRY(auto standing, channel->pause(deadline));
///     … it makes a channel by adopt() of this and device() …
///     channel->leave();             // or resume(), where it could not
class KernelChannel {
 public:
  /// What the operations' user data has to be derived from.
  struct User {
    explicit User(const Clock& clock) : unanswered(clock) {}
    User(const User&) = delete;
    User& operator=(const User&) = delete;
    /// The user data of the call `raw`.
    static User* of(fuse_req_t raw) { return static_cast<User*>(fuse_req_userdata(raw)); }

    Unanswered unanswered;
  };

  /// What was agreed with the kernel, and its calls that wait for an answer, as it wrote them.
  struct Standing {
    std::string init_request;
    std::string init_answer;
    std::vector<std::string> unanswered;
  };

  struct Options {
    std::string mountpoint;          // absolute
    std::string source;              // what df and mount show
    std::vector<std::string> flags;  // mount options, as libfuse spells them
    bool debug = false;              // print every call
  };

  /// @errors io, not_found, not_directory, busy (a reelfs is mounted there already)
  static Result<std::unique_ptr<KernelChannel>> mount(Options options, const fuse_lowlevel_ops& operations,
                                                      User& user);
  /// Goes on with a mount in another process's place. @param device  its descriptor, which is taken
  /// @errors protocol, unsupported: this program cannot do what the other agreed with the kernel
  static Result<std::unique_ptr<KernelChannel>> adopt(Options options, const fuse_lowlevel_ops& operations,
                                                      User& user, Standing standing, int device);
  ~KernelChannel();
  KernelChannel(const KernelChannel&) = delete;
  KernelChannel& operator=(const KernelChannel&) = delete;

  void serve();
  /// A descriptor that becomes readable when the mount has been taken away from outside (umount, or an
  /// abort).
  int ended() const;
  /// /dev/fuse, as this mount has it open.
  int device() const;

  /// Takes no more calls, and waits for those under way, or keeps back the answers to those that can be
  /// carried out a second time. @errors timed_out: calls are taken again
  Result<Standing> pause(Deadline deadline);
  /// Another process has not taken over.
  void resume();
  /// Another process has: the mount stays when this is destroyed, and what was kept back is not answered.
  void leave();

  // What the kernel must ask for again before it is used. Any thread while serving, but never one that
  // answers calls: the kernel may wait for calls under way in the directory.
  void forget_name(fuse_ino_t directory, const std::string& name);
  void forget_attributes(fuse_ino_t node);
  /// Attributes, and the file's pages; dirty mapped ones are written first.
  void forget_pages(fuse_ino_t node);
  /// Whether the kernel holds the inode. It asks for its attributes anew, where it does.
  bool knows(fuse_ino_t node);
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
