#pragma once

#include "client/attributes.h"
#include "fuse/inodes/node_ids.h"
#include "fuse/session/fuse_api.h"

namespace reelfs::fuse {

struct stat to_stat(const client::Attributes& attributes);
fuse_entry_param to_entry(const NodeIds& nodes, const client::Attributes& attributes);

/// @param to_set  FUSE_SET_ATTR_… as setattr gets them
client::AttributeChanges to_changes(const struct stat& wanted, int to_set);

}  // namespace reelfs::fuse
