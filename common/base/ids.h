#pragma once

#include <array>
#include <compare>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

#include "common/base/result.h"

namespace reelfs {

/// An integer that is not interchangeable with another kind of integer. 0 means "none".
template <class Tag, class Rep = std::uint64_t>
struct Id {
  Rep value = 0;
  constexpr Id() = default;
  constexpr explicit Id(Rep v) : value(v) {}
  constexpr explicit operator bool() const { return value != 0; }
  friend constexpr auto operator<=>(Id, Id) = default;
};

using InodeId = Id<struct InodeTag>;  // 1 is the root directory
using SegmentId = Id<struct SegmentTag>;
using Epoch = Id<struct EpochTag>;            // of the active index server's reign
using Generation = Id<struct GenerationTag>;  // of a grant on one segment; grows with each grant and fence
using SessionId = Id<struct SessionTag>;      // a mount, known to the index while its lease lasts
using RequestId = Id<struct RequestTag>;      // unique within a session; makes a retry harmless
using NodeId = Id<struct NodeTag, std::uint32_t>;
using WorkerId = Id<struct WorkerTag, std::uint32_t>;  // 1 .. number of workers, within a node
using DeviceId = Id<struct DeviceTag, std::uint32_t>;  // unique within a cluster, given by the index

inline constexpr InodeId kRootInode{1};

/// 16 random bytes: clusters, devices, process incarnations.
struct Uuid {
  std::array<std::uint8_t, 16> bytes{};
  static Uuid random();
  /// "6ba7b810-9dad-11d1-80b4-00c04fd430c8". @errors invalid
  static Result<Uuid> parse(std::string_view text);
  /// From exactly 16 raw bytes. @errors invalid
  static Result<Uuid> from_bytes(std::string_view raw);
  std::string to_string() const;
  std::string raw() const { return {reinterpret_cast<const char*>(bytes.data()), bytes.size()}; }
  bool is_nil() const { return *this == Uuid{}; }
  friend auto operator<=>(const Uuid&, const Uuid&) = default;
};

}  // namespace reelfs

template <class Tag, class Rep>
struct std::hash<reelfs::Id<Tag, Rep>> {
  std::size_t operator()(reelfs::Id<Tag, Rep> id) const noexcept { return std::hash<Rep>{}(id.value); }
};
template <>
struct std::hash<reelfs::Uuid> {
  std::size_t operator()(const reelfs::Uuid& id) const noexcept {
    return std::hash<std::string_view>{}({reinterpret_cast<const char*>(id.bytes.data()), id.bytes.size()});
  }
};
