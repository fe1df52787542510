#include "noded/device/own_descriptors.h"

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <charconv>
#include <climits>
#include <cstring>
#include <filesystem>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include <linux/close_range.h>
#include <unistd.h>

#include "common/base/result.h"
#include "common/observe/log.h"

namespace reelfs::noded {
namespace {

/// Descriptors of nothing outside this process: what wakes its loop when a call has ended, above all.
Result<std::vector<unsigned>> anonymous_descriptors() {
  std::vector<unsigned> found;
  std::error_code failed;
  std::filesystem::directory_iterator entries("/proc/self/fd", failed);
  for (; !failed && entries != std::filesystem::directory_iterator(); entries.increment(failed)) {
    std::error_code closed_meanwhile;
    const auto target = std::filesystem::read_symlink(entries->path(), closed_meanwhile).string();
    if (!target.starts_with("anon_inode:")) continue;
    const auto name = entries->path().filename().string();
    unsigned number = 0;
    std::from_chars(name.data(), name.data() + name.size(), number);
    found.push_back(number);
  }
  if (failed) return from_errno(failed.value(), "listing descriptors");
  return found;
}

Result<void> leave_the_common_table(std::initializer_list<int> keep) {
  REELFS_TRY(auto kept, anonymous_descriptors());
  kept.push_back(STDERR_FILENO);  // and what lies below it
  for (const int fd : keep) kept.push_back(static_cast<unsigned>(fd));
  std::sort(kept.begin(), kept.end(), std::greater<>());
  // What lies above the last is not even copied. Until the rest is closed others' sockets have one user more.
  if (close_range(kept.front() + 1, UINT_MAX, CLOSE_RANGE_UNSHARE) != 0) {
    return from_errno(errno, "close_range");
  }
  for (std::size_t i = 0; i + 1 < kept.size() && kept[i] > STDERR_FILENO; ++i) {
    if (kept[i + 1] + 1 < kept[i]) close_range(kept[i + 1] + 1, kept[i] - 1, 0);
  }
  return ok();
}

}  // namespace

void use_own_descriptors(std::initializer_list<int> keep) {
  thread_local bool asked = false;
  static std::atomic<bool> told{false};
  if (std::exchange(asked, true)) return;
  const auto left = leave_the_common_table(keep);
  if (left || told.exchange(true)) return;
  logger("noded.device")
      .warn("a disk that hangs would keep the ports of a killed worker why=\"{}\"", left.error().describe());
}

}  // namespace reelfs::noded
