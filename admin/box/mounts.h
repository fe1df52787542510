#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "common/base/result.h"

namespace reelfs::admin {

struct Mount {
  std::filesystem::path point;
  std::string type;  // "fuse.reelfs"
  std::string source;
};

/// Everything mounted, in the order in which it was mounted.
std::vector<Mount> mounts();
/// The contents of /proc/self/mountinfo, read. Malformed lines are left out.
std::vector<Mount> parse_mountinfo(const std::string& text);

/// What is mounted exactly there, the topmost. The path need not answer: a mount whose process died is found
/// too.
std::optional<Mount> mounted_at(const std::filesystem::path& point);
/// What is mounted at or below.
std::vector<Mount> mounted_below(const std::filesystem::path& directory);

enum class Unmount {
  clean,  // fails where files are open on it
  lazy,   // takes it away from the tree at once; it ends when the last user lets go
};
/// @errors busy, not_permitted, invalid (nothing is mounted there)
Result<void> unmount(const std::filesystem::path& point, Unmount how);

}  // namespace reelfs::admin
