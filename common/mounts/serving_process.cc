#include "common/mounts/serving_process.h"

#include <cerrno>
#include <cstdlib>
#include <cstring>

#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

namespace reelfs {
namespace {

constexpr mode_t kOwnerOnly = 0700;
constexpr mode_t kPermissionBits = 07777;

Result<std::string> runtime_directory() {
  if (::geteuid() == 0) return std::string("/run/reelfs");
  const char* users = std::getenv("XDG_RUNTIME_DIR");
  if (users == nullptr || *users != '/') return Error(Errc::not_found, "XDG_RUNTIME_DIR is not set");
  return std::string(users) + "/reelfs";
}

}  // namespace

Result<std::string> serving_socket(const MountEntry& mount) {
  REELFS_TRY(const auto directory, runtime_directory());
  if (::mkdir(directory.c_str(), kOwnerOnly) != 0 && errno != EEXIST) return from_errno(errno, directory);
  struct stat found {};
  if (::lstat(directory.c_str(), &found) != 0) return from_errno(errno, directory);
  if (!S_ISDIR(found.st_mode) || found.st_uid != ::geteuid() ||
      (found.st_mode & kPermissionBits) != kOwnerOnly) {
    return Error(Errc::not_permitted, directory + " is not a directory that its owner alone may enter");
  }
  return directory + "/mount-" + std::to_string(mount.device_major) + "-" +
         std::to_string(mount.device_minor) + ".sock";
}

std::optional<pid_t> serving_process(const MountEntry& mount) {
  const auto path = serving_socket(mount);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (!path || path.value().size() >= sizeof address.sun_path) return std::nullopt;
  std::memcpy(address.sun_path, path.value().c_str(), path.value().size() + 1);
  const int socket = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (socket < 0) return std::nullopt;
  // The kernel answers for whoever listens.
  ucred listening{};
  socklen_t size = sizeof listening;
  const bool found = ::connect(socket, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0 &&
                     ::getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &listening, &size) == 0;
  ::close(socket);
  return found ? std::optional(listening.pid) : std::nullopt;
}

}  // namespace reelfs
