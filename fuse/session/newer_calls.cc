#include "fuse/session/newer_calls.h"

#include <cstddef>
#include <cstring>

#include <linux/fuse.h>
#include <linux/stat.h>
#include <sys/sysmacros.h>

namespace reelfs::fuse {
namespace {

/// struct fuse_statx_in begins as struct fuse_getattr_in does.
constexpr std::size_t kStatxInBytes = 24;
static_assert(sizeof(fuse_getattr_in) == 16);

thread_local NewerCalls::Beyond beyond;

template <class T>
T read_at(const fuse_buf& buffer, std::size_t offset) {
  T value;
  std::memcpy(&value, static_cast<const char*>(buffer.mem) + offset, sizeof value);
  return value;
}

void write_header(fuse_buf& buffer, const fuse_in_header& header) {
  std::memcpy(buffer.mem, &header, sizeof header);
}

/// Takes the fields out that libfuse does not expect between the old ones and the name.
void shorten_setxattr(fuse_buf& buffer, fuse_in_header header) {
  constexpr std::size_t kAdded = sizeof(fuse_setxattr_in) - FUSE_COMPAT_SETXATTR_IN_SIZE;
  const auto in = read_at<fuse_setxattr_in>(buffer, sizeof header);
  beyond.clear_sgid = (in.setxattr_flags & FUSE_SETXATTR_ACL_KILL_SGID) != 0;
  auto* name = static_cast<char*>(buffer.mem) + sizeof header + FUSE_COMPAT_SETXATTR_IN_SIZE;
  std::memmove(name, name + kAdded, buffer.size - sizeof header - sizeof in);
  buffer.size -= kAdded;
  header.len -= kAdded;
  write_header(buffer, header);
}

BirthReply::Time to_time(const timespec& time) {
  return {.seconds = time.tv_sec, .nanoseconds = static_cast<std::uint32_t>(time.tv_nsec), .reserved = 0};
}

}  // namespace

const NewerCalls::Beyond& NewerCalls::current() { return beyond; }

NewerCalls::Scope::Scope(NewerCalls& calls, fuse_buf& request) {
  if (request.size < sizeof(fuse_in_header)) return;
  auto header = read_at<fuse_in_header>(request, 0);
  const auto body_bytes = request.size - sizeof header;
  if (header.opcode == FUSE_INIT && body_bytes >= sizeof(fuse_init_in)) {
    calls.offered_ = read_at<fuse_init_in>(request, sizeof header).flags;
  } else if (header.opcode == NewerCalls::kStatx && body_bytes >= kStatxInBytes) {
    beyond.asks_birth = true;
    header.opcode = FUSE_GETATTR;
    write_header(request, header);
  } else if (header.opcode == FUSE_SETXATTR && (calls.offered_ & FUSE_SETXATTR_EXT) != 0 &&
             body_bytes >= sizeof(fuse_setxattr_in)) {
    shorten_setxattr(request, header);
  }
}

NewerCalls::Scope::~Scope() { beyond = {}; }

void NewerCalls::complete(fuse_init_out& answer) const {
  // Without FUSE_PARALLEL_DIROPS, which libfuse knows but leaves out, the kernel looks up one name of a
  // directory at a time.
  answer.flags |= FUSE_PARALLEL_DIROPS | (offered_ & FUSE_SETXATTR_EXT);
}

BirthReply birth_reply(const struct stat& attributes, const timespec& born, double valid_seconds) {
  BirthReply reply;
  reply.valid_seconds = static_cast<std::uint64_t>(valid_seconds);
  reply.valid_nanoseconds =
      static_cast<std::uint32_t>((valid_seconds - static_cast<double>(reply.valid_seconds)) * 1e9);
  reply.mask = STATX_BASIC_STATS | STATX_BTIME;
  reply.block_size = static_cast<std::uint32_t>(attributes.st_blksize);
  reply.nlink = static_cast<std::uint32_t>(attributes.st_nlink);
  reply.uid = attributes.st_uid;
  reply.gid = attributes.st_gid;
  reply.mode = static_cast<std::uint16_t>(attributes.st_mode);
  reply.inode = attributes.st_ino;
  reply.size = static_cast<std::uint64_t>(attributes.st_size);
  reply.blocks = static_cast<std::uint64_t>(attributes.st_blocks);
  reply.accessed = to_time(attributes.st_atim);
  reply.born = to_time(born);
  reply.changed = to_time(attributes.st_ctim);
  reply.modified = to_time(attributes.st_mtim);
  reply.rdev_major = major(attributes.st_rdev);
  reply.rdev_minor = minor(attributes.st_rdev);
  return reply;
}

}  // namespace reelfs::fuse
