#include "common/wire/method.h"

namespace reelfs::wire {

std::string_view to_string(Method method) noexcept {
  switch (method) {
    case Method::none: return "none";
    case Method::open_session: return "open_session";
    case Method::renew_session: return "renew_session";
    case Method::close_session: return "close_session";
    case Method::lookup: return "lookup";
    case Method::get_attributes: return "get_attributes";
    case Method::set_attributes: return "set_attributes";
    case Method::create: return "create";
    case Method::link: return "link";
    case Method::unlink: return "unlink";
    case Method::rename: return "rename";
    case Method::read_link: return "read_link";
    case Method::read_directory: return "read_directory";
    case Method::get_xattr: return "get_xattr";
    case Method::list_xattr: return "list_xattr";
    case Method::set_xattr: return "set_xattr";
    case Method::remove_xattr: return "remove_xattr";
    case Method::open: return "open";
    case Method::release: return "release";
    case Method::get_extents: return "get_extents";
    case Method::commit: return "commit";
    case Method::punch_hole: return "punch_hole";
    case Method::sync: return "sync";
    case Method::statfs: return "statfs";
    case Method::open_segment: return "open_segment";
    case Method::close_segment: return "close_segment";
    case Method::locate_segments: return "locate_segments";
    case Method::list_channels: return "list_channels";
    case Method::set_channel: return "set_channel";
    case Method::list_nodes: return "list_nodes";
    case Method::list_segments: return "list_segments";
    case Method::show_segment: return "show_segment";
    case Method::cluster_status: return "cluster_status";
    case Method::register_worker: return "register_worker";
    case Method::heartbeat: return "heartbeat";
    case Method::report_blocks: return "report_blocks";
    case Method::initialise_device: return "initialise_device";
    case Method::allocate_block: return "allocate_block";
    case Method::fence_segment: return "fence_segment";
    case Method::seal_segment: return "seal_segment";
    case Method::free_segment: return "free_segment";
    case Method::append: return "append";
    case Method::sync_segments: return "sync_segments";
    case Method::read_record: return "read_record";
    case Method::join_node: return "join_node";
  }
  return "unknown";
}

}  // namespace reelfs::wire
