#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>

namespace reelfs {

/// Page-aligned bytes (fit for O_DIRECT) with one owner. Not initialised. Moves, does not copy. The memory of
/// large ones is kept for the next, up to 64 MiB in a process.
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(std::size_t size);
  static Buffer copy_of(std::span<const std::byte> bytes);

  std::byte* data() noexcept { return bytes_.get(); }
  const std::byte* data() const noexcept { return bytes_.get(); }
  std::size_t size() const noexcept { return size_; }
  bool empty() const noexcept { return size_ == 0; }
  std::size_t capacity() const noexcept { return capacity_; }
  /// Sets the size. @pre size <= capacity()
  void resize(std::size_t size);
  std::span<std::byte> span() noexcept { return {data(), size_}; }
  std::span<const std::byte> span() const noexcept { return {data(), size_}; }
  std::string_view view() const noexcept { return {reinterpret_cast<const char*>(data()), size_}; }

 private:
  struct Free {
    std::size_t reserved;
    void operator()(std::byte* p) const noexcept;
  };
  using Memory = std::unique_ptr<std::byte[], Free>;
  Memory bytes_{nullptr, Free{0}};
  std::size_t size_ = 0;
  std::size_t capacity_ = 0;
};

/// Bytes that several owners send at once (one append to all its copies).
using SharedBuffer = std::shared_ptr<const Buffer>;

}  // namespace reelfs
