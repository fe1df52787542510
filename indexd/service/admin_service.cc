#include "indexd/service/admin_service.h"

#include <algorithm>
#include <map>
#include <set>

#include <fmt/format.h>
#include <unistd.h>

#include "indexd/service/compactor.h"
#include "indexd/service/convert.h"
#include "indexd/service/gap_keeper.h"
#include "indexd/service/node_log.h"
#include "indexd/service/node_registry.h"
#include "indexd/service/overwriter.h"
#include "indexd/service/repair_log.h"
#include "indexd/service/repairer.h"
#include "indexd/service/scrub_keeper.h"
#include "indexd/service/segment_keeper.h"
#include "indexd/tree/names.h"

namespace reelfs::indexd {

namespace {

constexpr std::uint32_t kMaxSegments = 4096;    // in one answer
constexpr std::size_t kMaxSegmentFiles = 8192;  // named by one answer, whose size is limited

/// @param names  of channels, filled as they are met
Result<wire::SegmentInfo> describe(const View& view, SegmentId id, const SegmentRow& row,
                                   std::map<InodeId, std::string>& names) {
  wire::SegmentInfo info;
  to_wire(id, row, info);
  auto name = names.find(row.channel);
  if (name == names.end()) {
    REELFS_TRY(const auto channel, view.find(ChannelKey{row.channel}));
    const std::string none = row.channel == kNodeLogChannel ? "(journal)" : "";
    name = names.emplace(row.channel, channel ? channel->name : none).first;
  }
  info.set_channel_name(name->second);
  return info;
}

Result<std::set<SegmentId>> segments_of(const View& view, InodeId inode) {
  std::set<SegmentId> segments;
  REELFS_TRY(view.scan(ExtentKey{inode, 0}, ExtentKey{InodeId{inode.value + 1}, 0},
                       [&](const ExtentKey&, const ExtentRow& extent) {
                         segments.insert(extent.segment);
                         return true;
                       }));
  return segments;
}

}  // namespace

void AdminService::register_with(Dispatcher& dispatcher) {
  dispatcher.add(wire::Method::list_channels, *this, &AdminService::list_channels);
  dispatcher.add(wire::Method::list_nodes, *this, &AdminService::list_nodes);
  dispatcher.add(wire::Method::list_segments, *this, &AdminService::list_segments);
  dispatcher.add(wire::Method::show_segment, *this, &AdminService::show_segment);
  dispatcher.add(wire::Method::add_device, *this, &AdminService::add_device);
  dispatcher.add(wire::Method::remove_device, *this, &AdminService::remove_device);
  dispatcher.add(wire::Method::repair_status, *this, &AdminService::repair_status);
  dispatcher.add(wire::Method::repair_now, *this, &AdminService::repair_now);
  dispatcher.add(wire::Method::drain_node, *this, &AdminService::drain_node);
  dispatcher.add(wire::Method::remove_node, *this, &AdminService::remove_node);
  dispatcher.add(wire::Method::cluster_status, *this, &AdminService::cluster_status);
}

Task<wire::ListChannelsReply> AdminService::list_channels(wire::ListChannelsRequest) {
  auto read = [](const View& view) -> Result<wire::ListChannelsReply> {
    std::map<InodeId, wire::ChannelInfo> channels;
    REELFS_TRY(view.scan_table<ChannelKey>([&](ChannelKey key, const ChannelRow& row) {
      auto& info = channels[key.inode];
      info.set_inode(key.inode.value);
      info.set_name(row.name);
      info.set_copies(row.copies);
      info.set_files(row.files);
      info.set_live_bytes(row.live_bytes);
      return true;
    }));
    REELFS_TRY(view.scan_table<SegmentKey>([&](const SegmentKey&, const SegmentRow& row) {
      const auto channel = channels.find(row.channel);
      if (channel == channels.end()) return true;
      channel->second.set_segments(channel->second.segments() + 1);
      channel->second.set_stored_bytes(channel->second.stored_bytes() + row.length);
      return true;
    }));
    wire::ListChannelsReply reply;
    for (auto& [inode, info] : channels) *reply.add_channels() = std::move(info);
    return reply;
  };
  co_return co_await index_.read(std::move(read));
}

Task<wire::ListNodesReply> AdminService::list_nodes(wire::ListNodesRequest) {
  wire::ListNodesReply reply;
  for (auto& node : nodes_.list()) *reply.add_nodes() = std::move(node);
  co_return reply;
}

void AdminService::note_availability(wire::SegmentInfo& segment) const {
  for (auto& copy : *segment.mutable_copies())
    copy.set_available(nodes_.reachable(NodeId{copy.node()}, DeviceId{copy.device()}));
}

Task<std::map<DeviceId, AdminService::Degraded>> AdminService::degraded_by(std::set<DeviceId> devices) const {
  using Copies = std::vector<std::vector<SegmentCopy>>;
  auto read = [devices](const View& view) -> Result<Copies> {
    Copies found;
    REELFS_TRY(view.scan_table<SegmentKey>([&](const SegmentKey&, const SegmentRow& row) {
      if (row.channel == kNodeLogChannel) return true;  // stored anew by itself where nodes go
      const bool holds = row.live_bytes > 0 || row.state == SegmentState::open;
      const bool there = std::any_of(row.copies.begin(), row.copies.end(),
                                     [&](const auto& copy) { return devices.contains(copy.device); });
      if (holds && there) found.push_back(row.copies);
      return true;
    }));
    return found;
  };
  REELFS_CO_TRY(const auto segments, co_await index_.read(std::move(read)));
  std::map<DeviceId, Degraded> degraded;
  for (const auto& copies : segments) {
    const bool elsewhere = std::any_of(copies.begin(), copies.end(), [&](const auto& copy) {
      return !devices.contains(copy.device) && nodes_.reachable(copy.node, copy.device);
    });
    for (const auto& copy : copies) {
      if (!devices.contains(copy.device)) continue;
      auto& of_device = degraded[copy.device];
      ++of_device.segments;
      if (!elsewhere) ++of_device.lost;
    }
  }
  co_return std::move(degraded);
}

Task<wire::AddDeviceReply> AdminService::add_device(wire::AddDeviceRequest request) {
  REELFS_CO_TRY(const auto node, nodes_.find(request.node()));
  if (!nodes_.online(node)) {
    co_return Error(Errc::unavailable,
                    fmt::format("node {} is offline: start its noded processes first", nodes_.name(node)));
  }
  wire::AddDeviceReply reply;
  REELFS_CO_TRY(auto device, co_await nodes_.add_device(node, request.path()));
  *reply.mutable_device() = std::move(device);
  co_return reply;
}

Task<wire::RemoveDeviceReply> AdminService::remove_device(wire::RemoveDeviceRequest request) {
  REELFS_CO_TRY(const auto node, nodes_.find(request.node()));
  REELFS_CO_TRY(const auto device, nodes_.find_device(node, request.device()));
  if (!nodes_.online(node)) {
    co_return Error(Errc::unavailable,
                    fmt::format("node {} is offline: start its noded processes first", nodes_.name(node)));
  }
  wire::RemoveDeviceReply reply;
  const DeviceId id{device.device()};
  if (id && device.state() != wire::STATE_REMOVED) {
    std::set<DeviceId> devices{id};
    REELFS_CO_TRY(const auto degraded, co_await degraded_by(std::move(devices)));
    if (const auto found = degraded.find(id); found != degraded.end()) {
      reply.set_segments(found->second.segments);
      reply.set_lost(found->second.lost);
    }
    if (reply.lost() > 0 && !request.force()) {
      co_return Error(
          Errc::not_permitted,
          fmt::format("{} segments on {} have no other copy within reach: bring their other nodes and "
                      "devices back first, or give --force and do without them",
                      reply.lost(), device.path()));
    }
  }
  REELFS_CO_TRY(auto removed, co_await nodes_.remove_device(node, device.path()));
  removed.set_node(node.value);
  *reply.mutable_device() = std::move(removed);
  co_return reply;
}

Task<wire::RepairStatusReply> AdminService::repair_status(wire::RepairStatusRequest) {
  wire::RepairStatusReply reply;
  *reply.mutable_status() = repairer_.status();
  co_return reply;
}

Task<wire::RepairStatusReply> AdminService::repair_now(wire::RepairNowRequest) {
  repairer_.hurry();
  note(RepairEvent::not_waited_for, NodeId());
  wire::RepairStatusReply reply;
  *reply.mutable_status() = repairer_.status();
  co_return reply;
}

Task<AdminService::OnNode> AdminService::held_by(NodeId node) const {
  auto read = [node](const View& view) -> Result<std::vector<std::vector<SegmentCopy>>> {
    std::vector<std::vector<SegmentCopy>> held;
    REELFS_TRY(view.scan_table<SegmentKey>([&](const SegmentKey&, const SegmentRow& row) {
      const bool there = std::any_of(row.copies.begin(), row.copies.end(),
                                     [&](const auto& copy) { return copy.node == node; });
      if (there && row.state != SegmentState::freeing) held.push_back(row.copies);
      return true;
    }));
    return held;
  };
  REELFS_CO_TRY(const auto held, co_await index_.read(std::move(read)));
  OnNode found;
  found.segments = held.size();
  for (const auto& copies : held) {
    found.lost += std::none_of(copies.begin(), copies.end(), [&](const auto& copy) {
      return copy.node != node && nodes_.reachable(copy.node, copy.device);
    });
  }
  co_return found;
}

void AdminService::note(RepairEvent event, NodeId node) {
  RepairLogRow row;
  row.event = event;
  row.node = node;
  repair_log_.note(std::move(row));
}

Task<wire::DrainNodeReply> AdminService::drain_node(wire::DrainNodeRequest request) {
  REELFS_CO_TRY(const auto node, nodes_.find(request.node()));
  const auto service = request.undo() ? NodeService::in_service : NodeService::leaving;
  REELFS_CO_TRY(co_await nodes_.set_service(node, service));
  note(request.undo() ? RepairEvent::node_staying : RepairEvent::node_leaving, node);
  wire::DrainNodeReply reply;
  for (auto& each : nodes_.list()) {
    if (each.node() == node.value) *reply.mutable_node() = std::move(each);
  }
  co_return reply;
}

Task<wire::RemoveNodeReply> AdminService::remove_node(wire::RemoveNodeRequest request) {
  REELFS_CO_TRY(const auto node, nodes_.find(request.node()));
  REELFS_CO_TRY(const auto held, co_await held_by(node));
  if (held.segments > 0 && !request.lost()) {
    co_return Error(
        Errc::not_permitted,
        fmt::format("{} segments have a copy on {}, {} of them no other within reach: drain it first, "
                    "or give --lost where it never comes back",
                    held.segments, nodes_.name(node), held.lost));
  }
  if (held.segments > 0 && nodes_.online(node)) {
    co_return Error(
        Errc::not_permitted,
        fmt::format("{} is online: it is not lost. Drain it, or stop it first", nodes_.name(node)));
  }
  REELFS_CO_TRY(co_await nodes_.set_service(node, NodeService::removed));
  note(RepairEvent::node_removed, node);
  wire::RemoveNodeReply reply;
  reply.set_segments(held.segments);
  co_return reply;
}

Task<void> AdminService::note_degraded(wire::ClusterStatusReply& reply) const {
  const auto devices = nodes_.out_of_service();
  if (devices.empty()) co_return ok();
  std::set<DeviceId> ids;
  for (const auto& device : devices) ids.insert(DeviceId{device.device()});
  REELFS_CO_TRY(const auto degraded, co_await degraded_by(std::move(ids)));
  for (const auto& device : devices) {
    const auto found = degraded.find(DeviceId{device.device()});
    if (found == degraded.end()) continue;
    const auto& [segments, lost] = found->second;
    auto& problem = *reply.add_problems();
    problem.set_what(fmt::format(
        "{} segments are degraded, {} of them without any copy within reach: device {} ({}) of node {} is "
        "out of "
        "service: {}",
        segments, lost, device.device(), device.path(), nodes_.name(NodeId{device.node()}), device.reason()));
    problem.set_advice(
        "reelctl segment list --degraded names them; bring the device back to have all their copies");
    problem.set_since_ns(device.since_ns());
  }
  co_return ok();
}

Task<wire::ListSegmentsReply> AdminService::list_segments(wire::ListSegmentsRequest request) {
  auto read = [&request](const View& view) -> Result<wire::ListSegmentsReply> {
    const auto limit = request.limit() == 0 ? kMaxSegments : std::min(request.limit(), kMaxSegments);
    wire::ListSegmentsReply reply;
    std::map<InodeId, std::string> names;
    Result<void> outcome = ok();
    /// @return whether to go on
    const auto take = [&](SegmentId id, const SegmentRow& row) {
      if (request.channel() != 0 && row.channel.value != request.channel()) return true;
      if (reply.segments_size() == static_cast<int>(limit)) return false;
      auto info = describe(view, id, row, names);
      if (!info) {
        outcome = std::move(info).error();
        return false;
      }
      *reply.add_segments() = std::move(info).value();
      return true;
    };
    bool whole = true;
    if (request.inode() != 0) {
      REELFS_TRY(const auto segments, segments_of(view, InodeId{request.inode()}));
      for (auto id = segments.upper_bound(SegmentId{request.after()}); id != segments.end() && whole; ++id) {
        REELFS_TRY(const auto row, view.find(SegmentKey{*id}));
        if (row) whole = take(*id, *row);
      }
    } else {
      const SegmentKey from{SegmentId{request.after() + 1}};
      REELFS_TRY(
          view.scan(from, SegmentKey{SegmentId{UINT64_MAX}},
                    [&](SegmentKey key, const SegmentRow& row) { return whole = take(key.segment, row); }));
    }
    REELFS_TRY(std::move(outcome));
    reply.set_end(whole);
    return reply;
  };
  REELFS_CO_TRY(auto reply, co_await index_.read(std::move(read)));
  for (auto& segment : *reply.mutable_segments()) note_availability(segment);
  co_return std::move(reply);
}

Task<wire::ShowSegmentReply> AdminService::show_segment(wire::ShowSegmentRequest request) {
  auto read = [id = SegmentId{request.segment()}](const View& view) -> Result<wire::ShowSegmentReply> {
    REELFS_TRY(const auto row, view.find(SegmentKey{id}));
    if (!row) return Error(Errc::not_found, fmt::format("there is no segment {}", id.value));
    std::map<InodeId, std::string> names;
    REELFS_TRY(auto info, describe(view, id, *row, names));
    std::vector<std::pair<InodeId, std::uint64_t>> files;
    const SegmentFileKey from{id, InodeId{}};
    const SegmentFileKey upto{SegmentId{id.value + 1}, InodeId{}};
    REELFS_TRY(view.scan(from, upto, [&](SegmentFileKey key, const SegmentFileRow& file) {
      files.emplace_back(key.inode, file.live_bytes);
      return files.size() < kMaxSegmentFiles;
    }));
    for (const auto& [inode, bytes] : files) {
      auto& file = *info.add_files();
      file.set_inode(inode.value);
      file.set_bytes(bytes);
      const auto path = tree::path_of(view, inode);
      if (path) file.set_path(path.value());
    }
    wire::ShowSegmentReply reply;
    *reply.mutable_segment() = std::move(info);
    return reply;
  };
  REELFS_CO_TRY(auto reply, co_await index_.read(std::move(read)));
  note_availability(*reply.mutable_segment());
  co_return std::move(reply);
}

Task<wire::ClusterStatusReply> AdminService::cluster_status(wire::ClusterStatusRequest) {
  struct Counted {
    std::uint64_t files = 0;
    std::uint64_t most_copies = 0;
  };
  auto read = [](const View& view) -> Result<Counted> {
    Counted counted;
    REELFS_TRY(view.scan_table<ChannelKey>([&](const ChannelKey&, const ChannelRow& channel) {
      counted.files += channel.files;
      counted.most_copies = std::max<std::uint64_t>(counted.most_copies, channel.copies);
      return true;
    }));
    return counted;
  };
  REELFS_CO_TRY(const auto counted, co_await index_.read(std::move(read)));
  wire::ClusterStatusReply reply;
  reply.set_cluster(options_.cluster.raw());
  reply.set_epoch(options_.epoch.value);
  reply.set_journal_index(index_.journal_index());
  reply.set_journal_synced_index(index_.synced_index());
  reply.set_pid(static_cast<std::uint32_t>(getpid()));
  const auto space = nodes_.net_space(0);
  reply.set_total_bytes(space.total_bytes);
  reply.set_free_bytes(space.free_bytes);
  reply.set_files(counted.files);
  reply.set_segments(segments_.segments());
  *reply.mutable_compaction() = compactor_.status();
  *reply.mutable_repair() = repairer_.status();
  for (auto& session : sessions_.list()) *reply.add_sessions() = std::move(session);
  for (auto& problem : nodes_.problems()) *reply.add_problems() = std::move(problem);
  for (auto& problem : node_log_.problems()) *reply.add_problems() = std::move(problem);
  REELFS_CO_TRY(co_await note_degraded(reply));
  const auto copies = std::max<std::uint64_t>(counted.most_copies, options_.copies);
  const auto add_problem = [&reply](std::string what, std::string advice, WallTime since) {
    auto& problem = *reply.add_problems();
    problem.set_what(std::move(what));
    problem.set_advice(std::move(advice));
    problem.set_since_ns(since.time_since_epoch().count());
  };
  if (nodes_.online_nodes() < copies) {
    add_problem(
        fmt::format("{} copies are wanted and {} storage nodes are online", copies, nodes_.online_nodes()),
        "start a node, or lower the copies: reelctl channel set", nodes_.fewer_online_since(copies));
  }
  for (auto& problem : overwriter_.problems()) *reply.add_problems() = std::move(problem);
  for (auto& problem : gaps_.problems()) *reply.add_problems() = std::move(problem);
  for (auto& problem : scrubs_.problems()) *reply.add_problems() = std::move(problem);
  co_return reply;
}

}  // namespace reelfs::indexd
