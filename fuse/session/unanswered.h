#pragma once

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include <sys/types.h>
#include <sys/uio.h>

#include "common/base/clock.h"
#include "common/base/result.h"

namespace reelfs::fuse {

/// The kernel's requests that have been read from the device and not answered: what a take-over must wait
/// for, or hand to the other process. All answers go through here. Any thread.
class Unanswered {
 public:
  explicit Unanswered(const Clock& clock) : clock_(clock) {}

  /// A request as read from the device.
  void add(std::span<const std::byte> request);
  /// An answer, or a notification. As writev(2) on the device.
  ssize_t answer(int device, const iovec* parts, int count);

  /// @pre nothing is added meanwhile
  /// Waits until everything is answered, or what is left has already lasted and can be carried out a second
  /// time. Answers to that are kept back from then on.
  /// @return those requests   @errors timed_out: answers go out as ever
  Result<std::vector<std::string>> keep_back(Deadline deadline);
  /// Sends what was kept back.
  void send_kept_back(int device);

 private:
  struct Request {
    std::string bytes;  // empty: cannot be carried out a second time
    bool interrupted = false;
  };
  bool may_be_repeated() const;

  const Clock& clock_;
  std::mutex mutex_;
  std::condition_variable answered_;
  bool keeping_back_ = false;                           // guarded by mutex_
  std::unordered_map<std::uint64_t, Request> waiting_;  // guarded by mutex_; by the kernel's number
  std::vector<std::string> kept_back_;                  // guarded by mutex_
};

}  // namespace reelfs::fuse
