#pragma once

#include <functional>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "indexd/tree/inode.h"

namespace reelfs::indexd::tree {

/// Both ends included.
struct TimeRange {
  WallNs from = std::numeric_limits<WallNs>::min();
  WallNs to = std::numeric_limits<WallNs>::max();
};

/// A file that is being written may have bytes this young that the index has not been told of: mounts tell
/// twice a second what has come.
inline constexpr WallNs kUntoldNs = 2'000'000'000;

/// Extended attributes of recordings that say when their first and newest bytes came, as RFC 3339 has it.
/// They are read by name, and not listed: copies have times of their own.
inline constexpr std::string_view kFirstByteXattr = "user.reel.first_byte";
inline constexpr std::string_view kLastByteXattr = "user.reel.last_byte";
inline bool is_time_xattr(std::string_view name) { return name == kFirstByteXattr || name == kLastByteXattr; }
/// @errors no_attribute: it is no file, or has had no byte yet
Result<std::string> show_time(const Inode& inode, std::string_view name);

/// Which recordings have bytes that came in a time, by the index server's clock.
class TimeSearch {
 public:
  /// @param is_being_written  whether somebody has it open and puts bytes into it; such a one goes on until
  /// `now`
  TimeSearch(TimeRange time, WallNs now, std::function<bool(InodeId)> is_being_written)
      : time_(time), now_(now), is_being_written_(std::move(is_being_written)) {}

  bool matches(const Inode& inode) const;

  /// Files of the channel that match, from a place on in the order of their newest bytes, until
  /// visit(inode) is false or `rows` have been looked at, from which those that were are taken.
  /// @pre rows > 0
  /// @param after  the last one seen before; none: from the start
  /// @return the last one looked at, where others may follow
  Result<std::optional<RecordingKey>> run(const Reader& reader, InodeId channel,
                                          const std::optional<RecordingKey>& after, std::size_t& rows,
                                          const std::function<bool(const Inode&)>& visit) const;

 private:
  TimeRange time_;
  WallNs now_;
  std::function<bool(InodeId)> is_being_written_;
};

}  // namespace reelfs::indexd::tree
