#include "common/base/buffer.h"

#include <cstdlib>
#include <cstring>
#include <new>

#include "common/base/assert.h"
#include "common/base/units.h"

namespace reelfs {

Buffer::Buffer(std::size_t size) : size_(size), capacity_(round_up(size, kPageBytes)) {
  if (capacity_ == 0) return;
  auto* memory = static_cast<std::byte*>(std::aligned_alloc(kPageBytes, capacity_));
  if (memory == nullptr) throw std::bad_alloc();
  bytes_.reset(memory);
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

void Buffer::Free::operator()(std::byte* p) const noexcept { std::free(p); }

}  // namespace reelfs
