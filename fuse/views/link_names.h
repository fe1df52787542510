#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "common/base/ids.h"

namespace reelfs::fuse {

/// What the link to a recording is called: its path within the channel, in which "%2F" stands for '/' and
/// "%25" for '%', so that no two are called the same. Where that is longer than a name may be, its beginning,
/// "%~" with the inode's number, and what follows its last dot.
std::string link_name(std::string_view path, InodeId recording);

/// What a name says of the recording.
struct LinkTarget {
  std::string path;   // within the channel; empty: see inode
  InodeId recording;  // none: see path
};
/// @return none: no link is called so
std::optional<LinkTarget> parse_link_name(std::string_view name);

}  // namespace reelfs::fuse
