#include "admin/render.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "admin/output.h"
#include "common/base/ids.h"

namespace reelfs::admin {

using nlohmann::json;

std::string state_name(wire::State state) {
  switch (state) {
    case wire::STATE_ONLINE:
      return "online";
    case wire::STATE_OFFLINE:
      return "offline";
    case wire::STATE_BLANK:
      return "blank";
    case wire::STATE_FOREIGN:
      return "foreign";
    case wire::STATE_FAILED:
      return "failed";
    case wire::STATE_SUSPECT:
      return "suspect";
    case wire::STATE_REMOVED:
      return "removed";
    default:
      return "unknown";
  }
}

std::string state_name(wire::SegmentState state) {
  switch (state) {
    case wire::SEGMENT_ALLOCATING:
      return "allocating";
    case wire::SEGMENT_OPEN:
      return "open";
    case wire::SEGMENT_UNFILLED:
      return "unfilled";
    case wire::SEGMENT_SEALED:
      return "sealed";
    case wire::SEGMENT_FREEING:
      return "freeing";
    default:
      return "unknown";
  }
}

std::string endpoint_text(const wire::Endpoint& endpoint) {
  return fmt::format("{}:{}", endpoint.host(), endpoint.port());
}

json describe_device(const wire::DeviceInfo& device) {
  const auto uuid = Uuid::from_bytes(device.uuid());
  return {{"device", device.device()},
          {"uuid", uuid.has_value() ? uuid.value().to_string() : ""},
          {"node", device.node()},
          {"path", device.path()},
          {"state", state_name(device.state())},
          {"block_bytes", device.block_bytes()},
          {"blocks", device.blocks()},
          {"free_blocks", device.free_blocks()},
          {"open_blocks", device.open_blocks()},
          {"sealed_blocks", device.sealed_blocks()},
          {"reason", device.reason()},
          {"since_ns", device.since_ns()}};
}

json describe_node(const wire::NodeInfo& node) {
  json workers = json::array();
  for (const auto& worker : node.workers()) {
    json others = json::array();
    for (const auto& other : worker.endpoint().others()) others.push_back(endpoint_text(other));
    workers.push_back({{"worker", worker.worker()},
                       {"endpoint", endpoint_text(worker.endpoint())},
                       {"other_endpoints", std::move(others)},
                       {"pid", worker.pid()},
                       {"leader", worker.leader()},
                       {"state", state_name(worker.state())},
                       {"silent_ms", worker.silent_ms()},
                       {"appends_in_flight", worker.appends_in_flight()}});
  }
  json devices = json::array();
  for (const auto& device : node.devices()) devices.push_back(describe_device(device));
  return {{"node", node.node()},      {"name", node.name()},
          {"rack", node.rack()},      {"state", state_name(node.state())},
          {"workers", workers},       {"devices", devices},
          {"leaving", node.leaving()}};
}

json describe_repair(const wire::RepairStatus& status) {
  json at_risk = json::array();
  std::uint64_t bytes = 0;
  for (const auto& entry : status.at_risk()) {
    at_risk.push_back({{"copies", entry.copies()}, {"segments", entry.segments()}, {"bytes", entry.bytes()}});
    bytes += entry.bytes();
  }
  json under_way = json::array();
  for (const auto& copy : status.under_way()) {
    under_way.push_back({{"segment", copy.segment()},
                         {"node", copy.node()},
                         {"node_name", copy.node_name()},
                         {"valid_bytes", copy.valid_bytes()},
                         {"length", copy.length()}});
  }
  json leaving = json::array();
  for (const auto& node : status.leaving()) {
    leaving.push_back({{"node", node.node()},
                       {"node_name", node.node_name()},
                       {"segments", node.segments()},
                       {"bytes", node.bytes()}});
  }
  return {{"at_risk", at_risk},
          {"at_risk_bytes", bytes},
          {"under_way", under_way},
          {"leaving", leaving},
          {"queued_segments", status.queued_segments()},
          {"left_bytes", status.left_bytes()},
          {"rate", status.rate()},
          {"bytes_per_second", status.bytes_per_second()},
          {"expected_ms", status.expected_ms()},
          {"waits_for", status.waits_for()},
          {"copies_made", status.copies_made()},
          {"copied_bytes", status.copied_bytes()},
          {"failures", status.failures()}};
}

std::string repair_line(const wire::RepairStatus& status) {
  std::uint64_t bytes = 0, segments = 0;
  for (const auto& entry : status.at_risk()) {
    bytes += entry.bytes();
    segments += entry.segments();
  }
  const bool works = status.queued_segments() > 0 || !status.under_way().empty();
  if (segments == 0 && !works && status.leaving().empty()) return {};
  auto line = fmt::format("repair    {} of {} segments at risk", human_bytes(bytes), segments);
  if (works) {
    line += fmt::format("; {} left to copy, {}/s", human_bytes(status.left_bytes()),
                        human_bytes(status.bytes_per_second()));
    if (status.expected_ms() > 0) line += ", done in about " + human_time(status.expected_ms());
  } else if (!status.waits_for().empty()) {
    line += "; waits for " + status.waits_for();
  }
  return line;
}

json describe_segment(const wire::SegmentInfo& segment, const wire::ListNodesReply& nodes) {
  json copies = json::array();
  for (const auto& copy : segment.copies()) {
    json one = {{"node", copy.node()},
                {"worker", copy.worker()},
                {"device", copy.device()},
                {"block", copy.block()},
                {"available", copy.available()},
                {"node_name", ""},
                {"device_path", ""},
                {"process", ""}};
    for (const auto& node : nodes.nodes()) {
      if (node.node() != copy.node()) continue;
      one["node_name"] = node.name();
      one["process"] = fmt::format("{}.worker{}", node.name(), copy.worker());
      for (const auto& device : node.devices()) {
        if (device.device() == copy.device()) one["device_path"] = device.path();
      }
    }
    copies.push_back(std::move(one));
  }
  json files = json::array();
  for (const auto& file : segment.files()) {
    files.push_back({{"inode", file.inode()}, {"path", file.path()}, {"bytes", file.bytes()}});
  }
  return {{"segment", segment.segment()},
          {"channel", segment.channel()},
          {"channel_name", segment.channel_name()},
          {"state", state_name(segment.state())},
          {"generation", segment.generation()},
          {"length", segment.length()},
          {"live_bytes", segment.live_bytes()},
          {"session", segment.session()},
          {"copies", copies},
          {"files", files}};
}

}  // namespace reelfs::admin
