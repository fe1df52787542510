#pragma once

#include <chrono>
#include <cstdint>
#include <optional>

#include "common/base/ids.h"
#include "fuse/session/fuse_api.h"

namespace reelfs::fuse {

/// A calendar day of the local time zone.
using Day = std::chrono::sys_days;

/// A node of a view: what it is can be told from its number, in every process and at any time.
struct ViewNode {
  enum class Kind {
    by_time,    // CHANNEL/.by-time
    date,       // …/2026-11-21
    hour,       // …/10
    link,       // to a recording: the same one in each of its hours
    reel,       // CHANNEL/.reel
    generated,  // a file in it
  };
  Kind kind = Kind::by_time;
  InodeId inode;           // the channel; link: the recording
  Day day{};               // date, hour
  int hour = 0;            // hour: 0 to 23
  unsigned generated = 0;  // generated: GeneratedFile::id

  friend bool operator==(const ViewNode&, const ViewNode&) = default;
};

/// The last day that a number can say, in 2149.
inline constexpr Day kLastDay{std::chrono::days{65534}};
inline constexpr unsigned kMaxGenerated = (1U << 21) - 1;
/// Channels with higher numbers have no views: a trillion files were made before them.
inline constexpr std::uint64_t kMaxChannelWithViews = (std::uint64_t{1} << 40) - 1;

/// The index gives no inode such a number.
constexpr bool is_view(fuse_ino_t node) { return node >> 63 != 0; }

/// The kernel's number. @return none: it does not fit
std::optional<fuse_ino_t> to_number(const ViewNode& node);
/// @pre is_view(number)   @return none: no node has this number
std::optional<ViewNode> view_node(fuse_ino_t number);

}  // namespace reelfs::fuse
