#pragma once

#include <pthread.h>

namespace reelfs::noded {

/// A process-shared robust mutex, standing in shared memory.
struct ShmMutex {
  pthread_mutex_t native;

  /// Once, by who creates the area, before anyone else sees it.
  void init();
  /// @return true where the last owner died holding it: what it guards must be repaired, then
  /// `mark_consistent`
  [[nodiscard]] bool lock();
  void mark_consistent();
  void unlock();
};

/// Holds a ShmMutex for a scope. Where the last owner died under the lock, calls `guarded.repair()` first,
/// which rebuilds what is derived. Under the lock: no allocation, system call, logging or co_await.
template <class Guarded>
class ShmLock {
 public:
  ShmLock(ShmMutex& mutex, Guarded& guarded) : mutex_(mutex) {
    if (mutex_.lock()) {
      guarded.repair();
      mutex_.mark_consistent();
    }
  }
  ~ShmLock() { mutex_.unlock(); }
  ShmLock(const ShmLock&) = delete;
  ShmLock& operator=(const ShmLock&) = delete;

 private:
  ShmMutex& mutex_;
};

}  // namespace reelfs::noded
