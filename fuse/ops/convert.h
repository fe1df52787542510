#pragma once

#include <chrono>

#include "client/attributes.h"
#include "fuse/inodes/node_ids.h"
#include "fuse/session/fuse_api.h"

namespace reelfs::fuse {

/// How long the kernel may believe names and attributes without asking: see forget() for what ends it
/// early.
inline double to_seconds(std::chrono::milliseconds lease) {
  return std::chrono::duration<double>(lease).count();
}

struct stat to_stat(const client::Attributes& attributes);
/// @param lease  on the name
fuse_entry_param to_entry(const NodeIds& nodes, const client::Attributes& attributes,
                          std::chrono::milliseconds lease = {});
timespec birth(const client::Attributes& attributes);

/// @param to_set  FUSE_SET_ATTR_… as setattr gets them
client::AttributeChanges to_changes(const struct stat& wanted, int to_set);

}  // namespace reelfs::fuse
