#include "noded/shm/shm_lock.h"

#include <cerrno>

#include "common/base/assert.h"

namespace reelfs::noded {

void ShmMutex::init() {
  pthread_mutexattr_t attributes;
  pthread_mutexattr_init(&attributes);
  pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
  pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
  REELFS_ASSERT(pthread_mutex_init(&native, &attributes) == 0);
  pthread_mutexattr_destroy(&attributes);
}

bool ShmMutex::lock() {
  const int error = pthread_mutex_lock(&native);
  REELFS_ASSERT(error == 0 || error == EOWNERDEAD);
  return error == EOWNERDEAD;
}

void ShmMutex::mark_consistent() { REELFS_ASSERT(pthread_mutex_consistent(&native) == 0); }

void ShmMutex::unlock() { REELFS_ASSERT(pthread_mutex_unlock(&native) == 0); }

}  // namespace reelfs::noded
