#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "common/async/task.h"
#include "common/base/ids.h"
#include "fuse/session/fuse_api.h"
#include "fuse/views/node.h"

namespace reelfs::fuse {

struct Mount;

/// How long the kernel may believe what it was told of views: new recordings are seen as soon.
inline constexpr double kViewSeconds = 1;

struct ViewEntry {
  std::string name;
  std::uint64_t cookie = 0;  // its place in every listing of the directory; at least 1
  fuse_entry_param entry{};
};
/// Ascending by cookie.
using ViewEntries = std::vector<ViewEntry>;

/// What a channel shows under kByTimeName and kReelName. @errors not_found: nothing, or it is no channel
Task<fuse_entry_param> find_view(Mount& mount, InodeId channel, std::string name);

/// @errors not_found
Task<fuse_entry_param> find_in_view(Mount& mount, ViewNode directory, std::string name);
/// Of the directory above it. @pre the directory is not at the top of the view
ViewNode parent_of(const ViewNode& directory);
bool is_top(const ViewNode& directory);
bool is_directory(const ViewNode& node);

/// Attributes, as an entry. @errors stale_handle: its channel or recording is gone
Task<fuse_entry_param> describe(Mount& mount, ViewNode node);
Task<ViewEntries> list_view(Mount& mount, ViewNode directory);
/// Where a link leads, from the directory that it is in. @errors not_found: the recording has no name any
/// more
Task<std::string> target_of(Mount& mount, ViewNode link);
/// Makes what a file has in it now.
Task<std::shared_ptr<const std::string>> generate(Mount& mount, ViewNode file);

}  // namespace reelfs::fuse
