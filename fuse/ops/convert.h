#pragma once

#include "client/attributes.h"
#include "fuse/inodes/node_ids.h"
#include "fuse/session/fuse_api.h"

namespace reelfs::fuse {

/// How long the kernel may believe names without asking. Other mounts change them and nothing tells this
/// kernel of it yet, so: not at all. (Invalidation pushed by the index is what will let it grow.)
inline constexpr double kNamesValidSeconds = 0;

/// The same for attributes. Those of a directory may be believed until the kernel's clock has ticked twice (8
/// ms at 250 Hz): a path's walk looks each directory up and then, to check permissions, asks for the
/// attributes that it was just told, which is half of all calls.
inline double attributes_valid_seconds(const client::Attributes& attributes) {
  return S_ISDIR(attributes.mode) ? 1e-6 : 0;  // the kernel rounds up
}

struct stat to_stat(const client::Attributes& attributes);
fuse_entry_param to_entry(const NodeIds& nodes, const client::Attributes& attributes);

/// @param to_set  FUSE_SET_ATTR_… as setattr gets them
client::AttributeChanges to_changes(const struct stat& wanted, int to_set);

}  // namespace reelfs::fuse
