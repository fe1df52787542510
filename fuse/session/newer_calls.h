#pragma once

#include <atomic>
#include <cstdint>
#include <ctime>

#include <sys/stat.h>

#include "fuse/session/fuse_api.h"

struct fuse_init_out;

namespace reelfs::fuse {

/// What the kernel says since libfuse 3.14 was made, brought into a form that libfuse knows. One for each
/// connection; any thread.
class NewerCalls {
 public:
  static constexpr std::uint32_t kStatx = 52;  // FUSE_STATX, of kernels from 6.6 on

  /// What a call says beyond what libfuse hands on.
  struct Beyond {
    bool asks_birth = false;  // a getattr that is to be answered with birth_reply()
    bool clear_sgid = false;  // a setxattr of an access control list, by one who is not of the file's group
  };
  /// Of the call that this thread is handing to libfuse.
  static const Beyond& current();

  /// Rewrites a request that was read from the kernel, for the time in which this lives.
  class Scope {
   public:
    Scope(NewerCalls& calls, fuse_buf& request);
    ~Scope();
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;
  };

  /// The flags that libfuse does not set in its answer to INIT, where the kernel offers them.
  void complete(fuse_init_out& answer) const;

 private:
  std::atomic<std::uint32_t> offered_ = 0;  // by the kernel's INIT, which comes before all else
};

/// The kernel's struct fuse_statx_out (its protocol 7.39): attributes with the time of birth.
struct BirthReply {
  struct Time {
    std::int64_t seconds = 0;
    std::uint32_t nanoseconds = 0;
    std::int32_t reserved = 0;
  };
  std::uint64_t valid_seconds = 0;
  std::uint32_t valid_nanoseconds = 0;
  std::uint32_t flags = 0;
  std::uint64_t spare[2] = {};
  std::uint32_t mask = 0;
  std::uint32_t block_size = 0;
  std::uint64_t attributes = 0;
  std::uint32_t nlink = 0;
  std::uint32_t uid = 0;
  std::uint32_t gid = 0;
  std::uint16_t mode = 0;
  std::uint16_t spare0 = 0;
  std::uint64_t inode = 0;
  std::uint64_t size = 0;
  std::uint64_t blocks = 0;
  std::uint64_t attributes_mask = 0;
  Time accessed;
  Time born;
  Time changed;
  Time modified;
  std::uint32_t rdev_major = 0;
  std::uint32_t rdev_minor = 0;
  std::uint32_t dev_major = 0;
  std::uint32_t dev_minor = 0;
  std::uint64_t spare2[14] = {};
};
static_assert(sizeof(BirthReply) == 288);

BirthReply birth_reply(const struct stat& attributes, const timespec& born, double valid_seconds);

}  // namespace reelfs::fuse
