#include "noded/shm/shm_area.h"

#include <cerrno>
#include <cstring>
#include <span>

#include <dirent.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/base/crc32c.h"
#include "common/base/descriptor.h"

namespace reelfs::noded {
namespace {

constexpr const char* kShmDirectory = "/dev/shm";  // shm_overview(7)

std::uint32_t checksum_of(const ShmHeader& header) {
  return crc32c({reinterpret_cast<const std::byte*>(&header), offsetof(ShmHeader, checksum)});
}

Result<std::byte*> map(int fd, std::uint64_t bytes, const std::string& name) {
  void* address = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (address == MAP_FAILED) return from_errno(errno, "mapping shared memory " + name);
  return static_cast<std::byte*>(address);
}

}  // namespace

Result<std::unique_ptr<ShmArea>> ShmArea::create(const std::string& name, const ShmShape& shape,
                                                 std::uint64_t entries, std::uint64_t total_bytes) {
  remove_shm(name);
  const Descriptor descriptor{shm_open(name.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600)};
  if (descriptor.get() < 0) return from_errno(errno, "creating shared memory " + name);
  // Memory that is not there when it is first touched would be a SIGBUS later.
  if (const int error = posix_fallocate(descriptor.get(), 0, static_cast<off_t>(total_bytes))) {
    remove_shm(name);
    return from_errno(error, "reserving shared memory " + name);
  }
  auto bytes = map(descriptor.get(), total_bytes, name);
  if (!bytes) {
    remove_shm(name);
    return std::move(bytes).error();
  }
  auto& header = *new (bytes.value()) ShmHeader;
  header.layout_version = kShmLayoutVersion;
  header.kind = static_cast<std::uint32_t>(shape.kind);
  header.total_bytes = total_bytes;
  header.entries = entries;
  header.head_bytes = shape.head_bytes;
  header.entry_bytes = shape.entry_bytes;
  header.cluster = shape.cluster.bytes;
  header.incarnation = shape.incarnation.bytes;
  header.checksum = checksum_of(header);
  return std::unique_ptr<ShmArea>(new ShmArea(name, bytes.value(), total_bytes));
}

Result<std::unique_ptr<ShmArea>> ShmArea::attach(const std::string& name, const ShmShape& shape) {
  const Descriptor descriptor{shm_open(name.c_str(), O_RDWR | O_CLOEXEC, 0600)};
  if (descriptor.get() < 0) return from_errno(errno, "opening shared memory " + name);
  struct stat status {};
  if (fstat(descriptor.get(), &status) != 0) return from_errno(errno, "fstat of shared memory " + name);
  const auto size = static_cast<std::uint64_t>(status.st_size);
  if (size < sizeof(ShmHeader)) return Error(Errc::busy, "shared memory " + name + " is being made");
  REELFS_TRY(auto* bytes, map(descriptor.get(), size, name));
  auto area = std::unique_ptr<ShmArea>(new ShmArea(name, bytes, size));
  const auto& header = area->header();
  if (header.ready.load(std::memory_order_acquire) != 1) {
    return Error(Errc::busy, "shared memory " + name + " is being made");
  }
  if (header.magic != ShmHeader{}.magic || header.checksum != checksum_of(header)) {
    return Error(Errc::corrupt, "shared memory " + name + " has a damaged header");
  }
  if (header.layout_version != kShmLayoutVersion) {
    return Error(Errc::unsupported,
                 "shared memory " + name + " has layout version " + std::to_string(header.layout_version) +
                     " and this version of noded knows " + std::to_string(kShmLayoutVersion) +
                     ": stop all processes of the node, then start them in one version");
  }
  if (size < shape.head_bytes) return Error(Errc::corrupt, "shared memory " + name + " is too short");
  const bool fits = header.kind == static_cast<std::uint32_t>(shape.kind) && header.total_bytes == size &&
                    header.head_bytes == shape.head_bytes && header.entry_bytes == shape.entry_bytes &&
                    header.cluster == shape.cluster.bytes && header.entries <= size / shape.entry_bytes &&
                    (shape.incarnation.is_nil() || header.incarnation == shape.incarnation.bytes);
  if (!fits) return Error(Errc::corrupt, "shared memory " + name + " is another node's or another life's");
  return area;
}

ShmArea::~ShmArea() { munmap(bytes_, size_); }

void remove_shm(const std::string& name) { shm_unlink(name.c_str()); }

Result<void> read_shm(const std::string& name, std::span<std::byte> out) {
  const Descriptor descriptor{shm_open(name.c_str(), O_RDONLY | O_CLOEXEC, 0)};
  if (descriptor.get() < 0) return from_errno(errno, "opening shared memory " + name);
  const auto bytes = pread(descriptor.get(), out.data(), out.size(), 0);
  if (bytes < 0) return from_errno(errno, "reading shared memory " + name);
  if (static_cast<std::size_t>(bytes) != out.size()) {
    return Error(Errc::busy, "shared memory " + name + " is being made");
  }
  return ok();
}

std::vector<std::string> list_shm(const std::string& prefix) {
  std::vector<std::string> names;
  DIR* directory = opendir(kShmDirectory);
  if (directory == nullptr) return names;
  while (const dirent* entry = readdir(directory)) {
    const auto name = "/" + std::string(entry->d_name);
    if (name.starts_with(prefix)) names.push_back(name);
  }
  closedir(directory);
  return names;
}

ShmNames::ShmNames(const Uuid& cluster, std::string_view node_name)
    : prefix_("/reelfs-" + cluster.to_string().substr(0, 8) + "-" + std::string(node_name) + "-") {}

}  // namespace reelfs::noded
