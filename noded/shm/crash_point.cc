#include "noded/shm/crash_point.h"

#include <atomic>
#include <cstdlib>
#include <cstring>

#include <signal.h>
#include <unistd.h>

namespace reelfs::noded {
namespace {

char armed_name[64];
std::atomic<int> arrivals_left{0};
int armed_signal = SIGKILL;

}  // namespace

void arm_crash_point() {
  const char* text = std::getenv("REELFS_CRASH_POINT");
  if (text == nullptr) return;
  const char* colon = std::strchr(text, ':');
  const auto length = colon != nullptr ? static_cast<std::size_t>(colon - text) : std::strlen(text);
  if (length >= sizeof armed_name) return;
  std::memcpy(armed_name, text, length);
  armed_name[length] = 0;
  if (colon != nullptr && std::strstr(colon, ":stop") != nullptr) armed_signal = SIGSTOP;
  arrivals_left = colon != nullptr ? std::atoi(colon + 1) : 1;
}

void crash_point(const char* name) noexcept {
  if (arrivals_left.load(std::memory_order_relaxed) <= 0 || std::strcmp(armed_name, name) != 0) return;
  if (arrivals_left.fetch_sub(1) == 1) {
    kill(getpid(), armed_signal);
    while (armed_signal == SIGKILL) pause();
  }
}

}  // namespace reelfs::noded
