#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "common/base/result.h"

namespace reelfs {

struct MountEntry {
  std::filesystem::path point;
  std::string type;  // "fuse.reelfs"
  std::string source;
  std::string options;        // of this mount point: "rw,nosuid,relatime"
  std::string super_options;  // of the file system
  unsigned device_major = 0;  // as st_dev has them; for FUSE the minor is the connection's number
  unsigned device_minor = 0;
};

/// Everything mounted, in the order in which it was mounted.
std::vector<MountEntry> mounts();
/// The contents of /proc/self/mountinfo, read. Malformed lines are left out.
std::vector<MountEntry> parse_mountinfo(const std::string& text);

/// What is mounted exactly there, the topmost. The path need not answer: a mount whose process died is found
/// too.
std::optional<MountEntry> mounted_at(const std::filesystem::path& point);
/// What is mounted at or below.
std::vector<MountEntry> mounted_below(const std::filesystem::path& directory);

enum class Unmount {
  clean,  // fails where files are open on it
  lazy,   // takes it away from the tree at once; it ends when the last user lets go
};
/// @errors busy, not_permitted, invalid (nothing is mounted there)
Result<void> unmount(const std::filesystem::path& point, Unmount how);

/// Calls of the kernel's that nobody has answered yet, where the kernel tells (a mount of type fusectl).
std::optional<std::uint64_t> calls_waiting(const MountEntry& fuse);
/// Ends every call to a FUSE mount with an error, now and for ever, whatever its process does; what is
/// mounted stays until it is unmounted. @errors not_permitted, invalid (not a FUSE mount)
Result<void> abort_connection(const MountEntry& fuse);

}  // namespace reelfs
