#include "common/mounts/mounts.h"

#include <cerrno>
#include <cstdio>
#include <fstream>
#include <sstream>
#include <string_view>

#include <spawn.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

extern char** environ;

namespace reelfs {
namespace {

// proc(5): space, tab, newline and backslash stand as \ooo.
std::string unescape(const std::string& text) {
  std::string plain;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '\\' && i + 3 < text.size()) {
      plain += static_cast<char>((text[i + 1] - '0') * 64 + (text[i + 2] - '0') * 8 + (text[i + 3] - '0'));
      i += 3;
    } else {
      plain += text[i];
    }
  }
  return plain;
}

// The way for those who are not root.
Result<void> run_fusermount(const std::filesystem::path& point, Unmount how) {
  std::string program = "fusermount3";
  std::string flags = how == Unmount::lazy ? "-uz" : "-u";
  std::string target = point.string();
  char* argv[] = {program.data(), flags.data(), target.data(), nullptr};
  pid_t pid = 0;
  if (const int failed = posix_spawnp(&pid, argv[0], nullptr, nullptr, argv, environ); failed != 0) {
    return from_errno(failed, "fusermount3");
  }
  int status = 0;
  while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  if (status != 0) return Error(Errc::busy, "fusermount3 could not unmount " + target);
  return ok();
}

constexpr std::string_view kConnections = "/sys/fs/fuse/connections/";

std::string connection_file(const MountEntry& fuse, const char* name) {
  return std::string(kConnections) + std::to_string(fuse.device_minor) + "/" + name;
}

}  // namespace

std::vector<MountEntry> parse_mountinfo(const std::string& text) {
  std::vector<MountEntry> all;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    // id parent major:minor root POINT options [tags…] - TYPE SOURCE super-options
    std::istringstream fields(line);
    std::string skipped;
    std::string device;
    std::string point;
    MountEntry mount;
    fields >> skipped >> skipped >> device >> skipped >> point >> mount.options;
    while (fields >> skipped && skipped != "-") {
    }
    if (!(fields >> mount.type >> mount.source)) continue;
    fields >> mount.super_options;
    if (std::sscanf(device.c_str(), "%u:%u", &mount.device_major, &mount.device_minor) != 2) continue;
    mount.point = unescape(point);
    mount.source = unescape(mount.source);
    all.push_back(std::move(mount));
  }
  return all;
}

std::vector<MountEntry> mounts() {
  std::ifstream file("/proc/self/mountinfo");
  std::ostringstream text;
  text << file.rdbuf();
  return parse_mountinfo(text.str());
}

std::optional<MountEntry> mounted_at(const std::filesystem::path& point) {
  std::optional<MountEntry> topmost;
  for (auto& mount : mounts()) {
    if (mount.point == point) topmost = std::move(mount);
  }
  return topmost;
}

std::vector<MountEntry> mounted_below(const std::filesystem::path& directory) {
  std::vector<MountEntry> below;
  const auto prefix = directory.string() + "/";
  for (auto& mount : mounts()) {
    if (mount.point == directory || mount.point.string().starts_with(prefix))
      below.push_back(std::move(mount));
  }
  return below;
}

Result<void> unmount(const std::filesystem::path& point, Unmount how) {
  const int flags = UMOUNT_NOFOLLOW | (how == Unmount::lazy ? MNT_DETACH : 0);
  if (::umount2(point.c_str(), flags) == 0) return ok();
  if (errno == EPERM) return run_fusermount(point, how);
  return from_errno(errno, "unmounting " + point.string());
}

std::optional<std::uint64_t> calls_waiting(const MountEntry& fuse) {
  std::ifstream file(connection_file(fuse, "waiting"));
  std::uint64_t count = 0;
  if (!(file >> count)) return std::nullopt;
  return count;
}

Result<void> abort_connection(const MountEntry& fuse) {
  if (!fuse.type.starts_with("fuse"))
    return Error(Errc::invalid, fuse.point.string() + " is not a FUSE mount but " + fuse.type);
  if (std::ofstream file(connection_file(fuse, "abort")); file << 1 << std::flush) return ok();
  // Without fusectl: forcing aborts first, and unmounts where nobody has a file open or stands in it.
  if (::umount2(fuse.point.c_str(), UMOUNT_NOFOLLOW | MNT_FORCE) == 0 || errno == EBUSY) return ok();
  return from_errno(errno, "aborting " + fuse.point.string());
}

}  // namespace reelfs
