#pragma once

#include "common/base/result.h"
#include "common/wire/index.pb.h"
#include "indexd/tree/extents.h"
#include "indexd/tree/inode.h"

namespace reelfs::indexd {

// Between what travels and what the index works with. Nothing of protobuf is known below indexd/service.

void to_wire(const tree::Inode& inode, wire::Attributes& out);
void to_wire(const tree::Extent& extent, wire::Extent& out);
void to_wire(const tree::RefusedFile& refused, wire::RefusedFile& out);
wire::AttributesReply attributes_reply(const tree::Inode& inode);

tree::Extent from_wire(const wire::Extent& extent);
tree::FileCommit from_wire(const wire::FileCommit& commit);

/// What the index stores of a segment; copies' availability is not among it.
void to_wire(SegmentId id, const SegmentRow& row, wire::SegmentInfo& out);

}  // namespace reelfs::indexd
