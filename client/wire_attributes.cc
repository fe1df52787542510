#include "client/wire_attributes.h"

#include <utility>

#include "common/wire/common.pb.h"
#include "common/wire/index.pb.h"

namespace reelfs::client {

Attributes from_wire(const wire::Attributes& message) {
  Attributes attributes;
  attributes.inode = InodeId(message.inode());
  attributes.generation = message.generation();
  attributes.mode = message.mode();
  attributes.uid = message.uid();
  attributes.gid = message.gid();
  attributes.nlink = message.nlink();
  attributes.rdev = message.rdev();
  attributes.size = message.size();
  attributes.stored_bytes = message.stored_bytes();
  attributes.atime_ns = message.atime_ns();
  attributes.mtime_ns = message.mtime_ns();
  attributes.ctime_ns = message.ctime_ns();
  attributes.btime_ns = message.btime_ns();
  attributes.channel = InodeId(message.channel());
  attributes.parent = InodeId(message.parent());
  attributes.version = message.version();
  attributes.flags = message.flags();
  return attributes;
}

Extent from_wire(const wire::Extent& message) {
  Extent extent;
  extent.file_offset = message.file_offset();
  extent.length = message.length();
  extent.segment = SegmentId(message.segment());
  extent.record_offset = message.record_offset();
  extent.payload_offset = message.payload_offset();
  extent.origin = InodeId(message.origin());
  extent.origin_offset = message.origin_offset();
  return extent;
}

Recording from_wire(wire::RecordingInfo message) {
  Recording recording;
  recording.attributes = from_wire(message.attributes());
  recording.path = std::move(*message.mutable_path());
  recording.path.erase(0, recording.path.find('/') + 1);  // the channel
  recording.first_ns = message.first_ns();
  recording.last_ns = message.last_ns();
  return recording;
}

Error from_wire(const wire::ErrorReply& message) {
  const auto code = static_cast<Errc>(message.code());
  const bool is_known = message.code() <= UINT16_MAX && to_string(code) != "unknown";
  return Error(is_known ? code : Errc::io, message.message());
}

void to_wire(const AttributeChanges& changes, wire::SetAttributesRequest& message) {
  if (changes.mode) message.set_mode(*changes.mode);
  if (changes.uid) message.set_uid(*changes.uid);
  if (changes.gid) message.set_gid(*changes.gid);
  if (changes.size) message.set_size(*changes.size);
  if (changes.atime_ns) message.set_atime_ns(*changes.atime_ns);
  if (changes.mtime_ns) message.set_mtime_ns(*changes.mtime_ns);
  if (changes.ctime_ns) message.set_ctime_ns(*changes.ctime_ns);
  message.set_atime_now(changes.atime_now);
  message.set_mtime_now(changes.mtime_now);
  message.set_clear_suid(changes.clear_suid);
}

}  // namespace reelfs::client
