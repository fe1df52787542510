#include "admin/box/mounts.h"

#include <cerrno>
#include <fstream>
#include <sstream>

#include <spawn.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

extern char** environ;

namespace reelfs::admin {
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

}  // namespace

std::vector<Mount> parse_mountinfo(const std::string& text) {
  std::vector<Mount> all;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    // id parent major:minor root POINT options [tags…] - TYPE SOURCE super-options
    std::istringstream fields(line);
    std::string skipped;
    std::string point;
    fields >> skipped >> skipped >> skipped >> skipped >> point;
    while (fields >> skipped && skipped != "-") {
    }
    Mount mount;
    if (!(fields >> mount.type >> mount.source)) continue;
    mount.point = unescape(point);
    mount.source = unescape(mount.source);
    all.push_back(std::move(mount));
  }
  return all;
}

std::vector<Mount> mounts() {
  std::ifstream file("/proc/self/mountinfo");
  std::ostringstream text;
  text << file.rdbuf();
  return parse_mountinfo(text.str());
}

std::optional<Mount> mounted_at(const std::filesystem::path& point) {
  std::optional<Mount> topmost;
  for (auto& mount : mounts()) {
    if (mount.point == point) topmost = std::move(mount);
  }
  return topmost;
}

std::vector<Mount> mounted_below(const std::filesystem::path& directory) {
  std::vector<Mount> below;
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

}  // namespace reelfs::admin
