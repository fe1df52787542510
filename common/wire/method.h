#pragma once

#include <cstdint>
#include <string_view>

namespace reelfs::wire {

/// What a request asks for. Travels in the frame header: values keep their meaning for ever.
/// The message types are those of the same name in index.proto and node.proto, "…Request" and "…Reply"
/// (a method without a Reply message answers with Empty).
enum class Method : std::uint16_t {
  none = 0,
  ping = 5,  // anybody -> any server, which answers by itself: is there a way, and how long is it?
  // client -> indexd
  open_session = 1,
  renew_session = 2,
  close_session = 3,
  watch_changes = 4,
  lookup = 10,          // -> AttributesReply
  get_attributes = 11,  // -> AttributesReply
  set_attributes = 12,  // -> AttributesReply
  create = 13,          // -> AttributesReply
  link = 14,            // -> AttributesReply
  unlink = 15,
  rename = 16,
  read_link = 17,
  read_directory = 18,
  get_xattr = 19,
  list_xattr = 20,
  set_xattr = 21,
  remove_xattr = 22,
  note_reads = 24,
  open = 30,  // -> AttributesReply
  release = 31,
  get_extents = 32,
  commit = 33,
  punch_hole = 34,  // -> AttributesReply
  sync = 35,
  statfs = 36,
  clone_range = 37,
  open_segment = 40,
  close_segment = 41,
  locate_segments = 42,
  report_damage = 43,  // nodes, too
  set_lock = 50,
  test_lock = 51,
  cancel_lock = 52,
  list_locks = 53,
  list_channels = 60,
  list_nodes = 62,
  list_segments = 63,
  show_segment = 64,
  cluster_status = 65,
  repair_status = 66,
  repair_now = 67,  // -> RepairStatusReply
  read_repair_log = 68,
  add_device = 70,
  remove_device = 71,
  drain_node = 72,
  remove_node = 73,
  start_scrub = 74,
  scrub_status = 75,
  index_status = 76,
  rebuild_index = 77,
  list_lost = 78,
  add_holds = 80,
  list_holds = 81,
  release_holds = 82,
  find_recordings = 90,
  find_times = 91,
  report_arrivals = 95,
  list_gaps = 96,
  // noded -> indexd
  register_worker = 100,
  heartbeat = 101,
  report_blocks = 102,
  // indexd -> noded
  initialise_device = 200,
  allocate_block = 201,
  fence_segment = 202,
  seal_segment = 203,
  free_segment = 204,
  release_segment = 205,
  copy_records = 206,
  copy_segment = 207,
  rewrite_ranges = 208,
  scrub_node = 209,
  attach_device = 210,
  detach_device = 211,
  list_records = 212,
  list_blocks = 213,
  // client -> noded
  append = 220,
  sync_segments = 221,
  read_record = 222,
  await_copies = 223,
  // noded -> noded
  read_segment = 225,
  send_on = 226,
  // reelctl -> noded
  describe_node = 230,
  // noded -> the leader of its node, on the internal port; initialise_, attach_ and detach_device are passed
  // on there too
  join_node = 300,
};

/// "open_segment", for logs and metrics; "unknown" for a value this build does not know.
std::string_view to_string(Method method) noexcept;

}  // namespace reelfs::wire
