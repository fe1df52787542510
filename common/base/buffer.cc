#include "common/base/buffer.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <map>
#include <mutex>
#include <new>

#include <sys/mman.h>

#include "common/base/assert.h"
#include "common/base/units.h"

namespace reelfs {
namespace {

#ifdef __SANITIZE_ADDRESS__
constexpr std::size_t kArenaBytes = 0;  // so that a use after free is seen
#else
constexpr std::size_t kArenaBytes = 64 * kMiB;  // about as much as one process has under way
#endif
constexpr std::size_t kLargeBytes = 64 * kKiB;  // malloc keeps smaller pieces itself
constexpr std::size_t kHugePageBytes = 2 * kMiB;

/// Memory for large buffers, which the process keeps, of huge pages where there are any. malloc gives such
/// pieces back to the kernel when they are freed, which clears them page by page when they are touched again:
/// a quarter of a storage node's time with appends of a MiB (docs/design/node.md, "What several workers
/// cost").
class Arena {
 public:
  Arena() {
    if constexpr (kArenaBytes > 0) {
      void* memory = mmap(nullptr, kArenaBytes + kHugePageBytes, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
      if (memory == MAP_FAILED) return;  // then all comes from malloc
      const auto begin = round_up(reinterpret_cast<std::uintptr_t>(memory), kHugePageBytes);
      begin_ = reinterpret_cast<std::byte*>(begin);
      (void)madvise(begin_, kArenaBytes, MADV_HUGEPAGE);
      free_.emplace(0, kArenaBytes);
    }
  }

  /// Null where there is not so much left in one piece.
  std::byte* take(std::size_t bytes) {
    const std::lock_guard lock(mutex_);
    // The first that fits: as few pages as will do are in use, and stay in the processor's caches.
    const auto found = std::find_if(free_.begin(), free_.end(),
                                    [bytes](const auto& piece) { return piece.second >= bytes; });
    if (found == free_.end()) return nullptr;
    const auto [offset, length] = *found;
    free_.erase(found);
    if (length > bytes) free_.emplace(offset + bytes, length - bytes);
    return begin_ + offset;
  }

  bool has(const std::byte* memory) const {
    return begin_ != nullptr && memory >= begin_ && memory < begin_ + kArenaBytes;
  }

  void give_back(const std::byte* memory, std::size_t bytes) {
    const std::lock_guard lock(mutex_);
    const auto offset = static_cast<std::size_t>(memory - begin_);
    auto next = free_.lower_bound(offset);
    if (next != free_.end() && next->first == offset + bytes) {
      bytes += next->second;
      next = free_.erase(next);
    }
    if (next != free_.begin()) {
      const auto before = std::prev(next);
      if (before->first + before->second == offset) {
        before->second += bytes;
        return;
      }
    }
    free_.emplace_hint(next, offset, bytes);
  }

 private:
  std::byte* begin_ = nullptr;
  std::mutex mutex_;
  std::map<std::size_t, std::size_t> free_;  // bytes by offset, joined where they touch; guarded by mutex_
};

/// As part of the allocator it outlives every static that may own a buffer.
Arena& arena() {
  static auto& instance = *new Arena;
  return instance;
}

std::byte* allocate(std::size_t bytes) {
  if (bytes >= kLargeBytes) {
    if (auto* memory = arena().take(bytes)) return memory;
  }
  auto* memory = static_cast<std::byte*>(std::aligned_alloc(kPageBytes, bytes));
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}

}  // namespace

Buffer::Buffer(std::size_t size) : size_(size), capacity_(round_up(size, kPageBytes)) {
  if (capacity_ == 0) return;
  bytes_ = Memory(allocate(capacity_), Free{capacity_});
}

Buffer Buffer::copy_of(std::span<const std::byte> bytes) {
  Buffer buffer(bytes.size());
  if (!bytes.empty()) std::memcpy(buffer.data(), bytes.data(), bytes.size());
  return buffer;
}

void Buffer::resize(std::size_t size) {
  REELFS_ASSERT(size <= capacity_);
  size_ = size;
}

void Buffer::Free::operator()(std::byte* p) const noexcept {
  if (reserved >= kLargeBytes && arena().has(p)) {
    arena().give_back(p, reserved);
  } else {
    std::free(p);
  }
}

}  // namespace reelfs
