#include "fuse/session/remount.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <sstream>
#include <string_view>

#include <sys/mount.h>

#include "common/mounts/mounts.h"

namespace reelfs::fuse {
namespace {

struct Flag {
  std::string_view set;
  std::string_view clear;
  unsigned long bit;
};
constexpr std::array kFlags{Flag{"ro", "rw", MS_RDONLY},
                            Flag{"nosuid", "suid", MS_NOSUID},
                            Flag{"nodev", "dev", MS_NODEV},
                            Flag{"noexec", "exec", MS_NOEXEC},
                            Flag{"sync", "async", MS_SYNCHRONOUS},
                            Flag{"dirsync", "", MS_DIRSYNC},
                            Flag{"noatime", "atime", MS_NOATIME},
                            Flag{"nodiratime", "diratime", MS_NODIRATIME},
                            Flag{"relatime", "norelatime", MS_RELATIME}};

void set_flag(std::string_view name, unsigned long& flags) {
  for (const auto& flag : kFlags) {
    if (name == flag.set) flags |= flag.bit;
    if (name == flag.clear) flags &= ~flag.bit;
  }
}

void apply_list(const std::string& list, unsigned long& flags) {
  std::istringstream names(list);
  for (std::string name; std::getline(names, name, ',');) set_flag(name, flags);
}

}  // namespace

Result<void> remount(const std::filesystem::path& mountpoint, const std::vector<std::string>& flags) {
  const auto mounted = mounted_at(mountpoint);
  if (!mounted || mounted->type != "fuse.reelfs")
    return Error(Errc::not_found, "no reelfs is mounted at " + mountpoint.string());
  unsigned long all = MS_REMOUNT;
  apply_list(mounted->super_options, all);
  apply_list(mounted->options, all);
  for (const auto& flag : flags) set_flag(flag, all);
  if (::mount(mounted->source.c_str(), mountpoint.c_str(), mounted->type.c_str(), all, nullptr) == 0)
    return ok();
  if (errno == EBUSY)
    return Error(Errc::busy, mountpoint.string() + " has files that are open for writing: it stays writable");
  return from_errno(errno, "remounting " + mountpoint.string());
}

}  // namespace reelfs::fuse
