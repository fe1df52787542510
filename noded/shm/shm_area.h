#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "common/base/ids.h"
#include "common/base/result.h"

namespace reelfs::noded {

enum class ShmKind : std::uint32_t { device = 1, process = 2, unfilled = 3 };

/// Begins every shared area, in all versions of the layout. docs/formats/shm.md
struct ShmHeader {
  std::array<char, 8> magic{'R', 'E', 'E', 'L', 'F', 'S', 'H', 'M'};
  std::uint32_t layout_version = 0;
  std::uint32_t kind = 0;  // ShmKind
  std::uint64_t total_bytes = 0;
  std::uint64_t entries = 0;
  std::uint32_t head_bytes = 0;  // of the fixed part, this header included
  std::uint32_t entry_bytes = 0;
  std::array<std::uint8_t, 16> cluster{};
  std::array<std::uint8_t, 16>
      incarnation{};                    // of the node: who attaches compares it with what the leader said
  std::uint32_t checksum = 0;           // CRC-32C of the bytes before it
  std::atomic<std::uint32_t> ready{0};  // 1 once all else is filled in
  std::atomic<std::uint64_t> repair_count{0};  // locks whose owner died
};
static_assert(sizeof(ShmHeader) == 88 && std::atomic<std::uint64_t>::is_always_lock_free);

inline constexpr std::uint32_t kShmLayoutVersion = 5;

/// What creator and attacher agree about.
struct ShmShape {
  ShmKind kind = ShmKind::device;
  std::uint32_t head_bytes = 0;
  std::uint32_t entry_bytes = 0;
  Uuid cluster;
  Uuid incarnation;
};

/// Of an area that begins with a Head, in which the ShmHeader comes first, and goes on with entries.
template <class Head, class Entry>
ShmShape shape_of(ShmKind kind, const Uuid& cluster, const Uuid& incarnation) {
  return {kind, sizeof(Head), sizeof(Entry), cluster, incarnation};
}

/// A named POSIX shared memory object, mapped. The name outlives the process until someone removes it.
class ShmArea {
 public:
  /// Makes a new object, zeroed and with memory behind every page, and fills its header; `publish()` makes it
  /// attachable. An object that has this name is removed first: whoever mapped it keeps its own.
  /// @errors no_space, io
  static Result<std::unique_ptr<ShmArea>> create(const std::string& name, const ShmShape& shape,
                                                 std::uint64_t entries, std::uint64_t total_bytes);
  /// @param shape  a nil incarnation accepts any
  /// @errors not_found, unsupported (another layout version), corrupt (does not fit the shape), busy (not
  /// published yet)
  static Result<std::unique_ptr<ShmArea>> attach(const std::string& name, const ShmShape& shape);
  ~ShmArea();
  ShmArea(const ShmArea&) = delete;
  ShmArea& operator=(const ShmArea&) = delete;

  std::byte* data() { return bytes_; }
  std::uint64_t size() const { return size_; }
  const std::string& name() const { return name_; }
  ShmHeader& header() { return *reinterpret_cast<ShmHeader*>(bytes_); }
  /// Of the node.
  Uuid incarnation() { return Uuid{header().incarnation}; }
  void publish() { header().ready.store(1, std::memory_order_release); }

 private:
  ShmArea(std::string name, std::byte* bytes, std::uint64_t size)
      : name_(std::move(name)), bytes_(bytes), size_(size) {}
  const std::string name_;
  std::byte* const bytes_;
  const std::uint64_t size_;
};

/// Removes the name; not an error where there is none.
void remove_shm(const std::string& name);
/// The first bytes of an object, whatever it holds. @errors not_found, busy (it has not as many), io
Result<void> read_shm(const std::string& name, std::span<std::byte> out);
/// Names, with their leading '/', that begin with `prefix` (which begins with '/').
std::vector<std::string> list_shm(const std::string& prefix);

/// Names of a node's areas: "/reelfs-6ba7b810-node1-dev-7".
class ShmNames {
 public:
  ShmNames(const Uuid& cluster, std::string_view node_name);
  const std::string& prefix() const { return prefix_; }
  std::string device(DeviceId device) const { return prefix_ + "dev-" + std::to_string(device.value); }
  std::string process_prefix() const { return prefix_ + "proc-"; }
  std::string process(WorkerId worker) const { return process_prefix() + std::to_string(worker.value); }
  std::string unfilled() const { return prefix_ + "unfilled"; }

 private:
  std::string prefix_;
};

}  // namespace reelfs::noded
