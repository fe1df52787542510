#include "indexd/service/convert.h"

namespace reelfs::indexd {

void to_wire(const tree::Inode& inode, wire::Attributes& out) {
  const auto& row = inode.row;
  out.set_inode(inode.id.value);
  out.set_generation(row.generation);
  out.set_mode(row.mode);
  out.set_uid(row.uid);
  out.set_gid(row.gid);
  out.set_nlink(row.nlink);
  out.set_rdev(row.rdev);
  out.set_size(row.size);
  out.set_stored_bytes(row.stored_bytes);
  out.set_atime_ns(row.atime_ns);
  out.set_mtime_ns(row.mtime_ns);
  out.set_ctime_ns(row.ctime_ns);
  out.set_btime_ns(row.btime_ns);
  out.set_channel(row.channel.value);
  if (inode.is_directory()) out.set_parent(row.parent.value);
  out.set_version(row.version);
  out.set_flags(row.flags);
}

void to_wire(const tree::Extent& extent, wire::Extent& out) {
  out.set_file_offset(extent.file_offset);
  out.set_length(extent.row.length);
  out.set_segment(extent.row.segment.value);
  out.set_record_offset(extent.row.record_offset);
  out.set_payload_offset(extent.row.payload_offset);
  if (extent.row.origin) {
    out.set_origin(extent.row.origin.value);
    out.set_origin_offset(extent.row.origin_offset);
  }
}

void to_wire(const tree::RefusedFile& refused, wire::RefusedFile& out) {
  out.set_file(static_cast<std::uint32_t>(refused.file));
  out.mutable_error()->set_code(static_cast<std::uint32_t>(refused.error.code()));
  out.mutable_error()->set_message(refused.error.message());
}

wire::AttributesReply attributes_reply(const tree::Inode& inode) {
  wire::AttributesReply reply;
  to_wire(inode, *reply.mutable_attributes());
  return reply;
}

tree::Extent from_wire(const wire::Extent& extent) {
  tree::Extent converted;  // what is committed was written for its file: it has no origin
  converted.file_offset = extent.file_offset();
  converted.row.length = extent.length();
  converted.row.segment = SegmentId{extent.segment()};
  converted.row.record_offset = extent.record_offset();
  converted.row.payload_offset = extent.payload_offset();
  return converted;
}

tree::FileCommit from_wire(const wire::FileCommit& commit) {
  tree::FileCommit converted;
  converted.inode = InodeId{commit.inode()};
  converted.extents.reserve(static_cast<std::size_t>(commit.extents_size()));
  for (const auto& extent : commit.extents()) converted.extents.push_back(from_wire(extent));
  if (commit.has_size()) converted.size = commit.size();
  if (commit.has_mtime_ns()) converted.mtime_ns = commit.mtime_ns();
  converted.clear_suid = commit.clear_suid();
  return converted;
}

void to_wire(SegmentId id, const SegmentRow& row, wire::SegmentInfo& out) {
  out.set_segment(id.value);
  out.set_channel(row.channel.value);
  out.set_state(static_cast<wire::SegmentState>(row.state));
  out.set_generation(row.generation.value);
  out.set_length(row.length);
  out.set_live_bytes(row.live_bytes);
  out.set_session(row.session.value);
  for (const auto& copy : row.copies) {
    auto& info = *out.add_copies();
    info.set_node(copy.node.value);
    info.set_worker(copy.worker.value);
    info.set_device(copy.device.value);
    info.set_block(copy.block);
  }
}

}  // namespace reelfs::indexd
