#include <algorithm>
#include <charconv>
#include <iostream>
#include <map>
#include <memory>
#include <optional>

#include <CLI/CLI.hpp>
#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <sys/stat.h>

#include "admin/command.h"
#include "admin/output.h"
#include "admin/render.h"
#include "common/wire/index.pb.h"

namespace reelfs::admin {
namespace {

using nlohmann::json;

struct SegmentOptions {
  ClusterOptions cluster;
  std::string channel;
  bool degraded = false;
  std::string what;  // number or file
};

// One line of the copy table: "node1.worker2  device 1 (/dev/sdb)  block 17".
std::vector<std::string> copy_cells(const json& copy) {
  return {copy.at("node_name").get<std::string>(), copy.at("process").get<std::string>(),
          fmt::format("{} {}", copy.at("device").get<unsigned>(), copy.at("device_path").get<std::string>()),
          std::to_string(copy.at("block").get<unsigned>()), copy.at("available").get<bool>() ? "yes" : "no"};
}

Result<std::vector<wire::SegmentInfo>> list_segments(Connection& connection, std::uint64_t channel,
                                                     std::uint64_t inode) {
  std::vector<wire::SegmentInfo> all;
  for (std::uint64_t after = 0;;) {
    wire::ListSegmentsRequest request;
    request.set_channel(channel);
    request.set_inode(inode);
    request.set_after(after);
    request.set_limit(1024);
    REELFS_TRY(auto reply,
               connection.call<wire::ListSegmentsReply>(wire::Method::list_segments, std::move(request)));
    for (auto& segment : *reply.mutable_segments()) all.push_back(std::move(segment));
    if (reply.end() || reply.segments().empty()) return all;
    after = all.back().segment();
  }
}

bool is_degraded(const wire::SegmentInfo& segment) {
  return std::any_of(segment.copies().begin(), segment.copies().end(),
                     [](const auto& copy) { return !copy.available(); });
}

Result<void> list(const SegmentOptions& options) {
  REELFS_TRY(auto connection, options.cluster.connect());
  std::uint64_t channel = 0;  // any
  if (!options.channel.empty()) {
    REELFS_TRY(const auto found, connection->find_channel(options.channel));
    channel = found.inode();
  }
  REELFS_TRY(auto segments, list_segments(*connection, channel, 0));
  if (options.degraded) std::erase_if(segments, [](const auto& segment) { return !is_degraded(segment); });
  REELFS_TRY(auto nodes, connection->list_nodes());
  if (options.cluster.json) {
    json all = json::array();
    for (const auto& segment : segments) all.push_back(describe_segment(segment, nodes));
    print_json({{"segments", all}});
    return ok();
  }
  Table table(
      {"SEGMENT", "CHANNEL", "STATE", "LENGTH", "LIVE", "GENERATION", "COPIES (NODE.WORKER DEVICE/BLOCK)"});
  for (const auto& segment : segments) {
    const auto described = describe_segment(segment, nodes);
    std::string copies;
    for (const auto& copy : described.at("copies")) {
      copies += fmt::format("{}{} {}/{}", copies.empty() ? "" : ", ", copy.at("process").get<std::string>(),
                            copy.at("device").get<unsigned>(), copy.at("block").get<unsigned>());
    }
    table.add({std::to_string(segment.segment()), segment.channel_name(), state_name(segment.state()),
               human_bytes(segment.length()), human_bytes(segment.live_bytes()),
               std::to_string(segment.generation()), copies});
  }
  table.print(std::cout);
  return ok();
}

void print_segment(const json& segment) {
  std::cout << fmt::format(
      "segment {} of channel {}: {}, {} long, {} live, generation {}\n",
      segment.at("segment").get<std::uint64_t>(), segment.at("channel_name").get<std::string>(),
      segment.at("state").get<std::string>(), human_bytes(segment.at("length").get<std::uint64_t>()),
      human_bytes(segment.at("live_bytes").get<std::uint64_t>()),
      segment.at("generation").get<std::uint64_t>());
  Table copies({"NODE", "PROCESS", "DEVICE", "BLOCK", "AVAILABLE"});
  for (const auto& copy : segment.at("copies")) copies.add(copy_cells(copy));
  copies.print(std::cout);
}

Result<void> show_segment(Connection& connection, std::uint64_t number, const SegmentOptions& options) {
  wire::ShowSegmentRequest request;
  request.set_segment(number);
  REELFS_TRY(auto reply,
             connection.call<wire::ShowSegmentReply>(wire::Method::show_segment, std::move(request)));
  REELFS_TRY(auto nodes, connection.list_nodes());
  const auto segment = describe_segment(reply.segment(), nodes);
  if (options.cluster.json) {
    print_json(segment);
    return ok();
  }
  print_segment(segment);
  std::cout << '\n';
  Table files({"FILE", "INODE", "BYTES HERE"});
  for (const auto& file : reply.segment().files()) {
    files.add({file.path().empty() ? "(deleted, still open)" : file.path(), std::to_string(file.inode()),
               human_bytes(file.bytes())});
  }
  files.print(std::cout);
  return ok();
}

// How many of the file's bytes lie in each segment.
Result<std::map<std::uint64_t, std::uint64_t>> bytes_by_segment(Connection& connection, std::uint64_t inode) {
  std::map<std::uint64_t, std::uint64_t> bytes;
  for (std::uint64_t offset = 0;;) {
    wire::GetExtentsRequest request;
    request.set_inode(inode);
    request.set_offset(offset);
    request.set_length(INT64_MAX - offset);
    request.set_limit(4096);
    REELFS_TRY(auto reply,
               connection.call<wire::GetExtentsReply>(wire::Method::get_extents, std::move(request)));
    for (const auto& extent : reply.extents()) {
      bytes[extent.segment()] += extent.length();
      offset = extent.file_offset() + extent.length();
    }
    if (!reply.more() || reply.extents().empty()) return bytes;
  }
}

Result<struct stat> stat_recording(const std::string& path) {
  REELFS_TRY(const auto file, stat_on_mount(path));
  if (!S_ISREG(file.st_mode))
    return Error(Errc::invalid, path + " is not a recording: name a regular file on the mount");
  return file;
}

Result<void> show_file(Connection& connection, const SegmentOptions& options) {
  REELFS_TRY(auto file, stat_recording(options.what));
  REELFS_TRY(auto bytes, bytes_by_segment(connection, file.st_ino));
  REELFS_TRY(auto segments, list_segments(connection, 0, file.st_ino));
  REELFS_TRY(auto nodes, connection.list_nodes());
  json all = json::array();
  for (const auto& segment : segments) {
    auto one = describe_segment(segment, nodes);
    one.erase("files");
    one["file_bytes"] = bytes[segment.segment()];
    all.push_back(std::move(one));
  }
  if (options.cluster.json) {
    print_json({{"file", options.what}, {"inode", file.st_ino}, {"size", file.st_size}, {"segments", all}});
    return ok();
  }
  std::cout << fmt::format("{}: inode {}, {}, in {} segment{}\n", options.what, file.st_ino,
                           human_bytes(static_cast<std::uint64_t>(file.st_size)), all.size(),
                           all.size() == 1 ? "" : "s");
  Table table({"SEGMENT", "STATE", "BYTES HERE", "NODE", "PROCESS", "DEVICE", "BLOCK", "AVAILABLE"});
  for (const auto& segment : all) {
    for (const auto& copy : segment.at("copies")) {
      std::vector<std::string> cells = {std::to_string(segment.at("segment").get<std::uint64_t>()),
                                        segment.at("state").get<std::string>(),
                                        human_bytes(segment.at("file_bytes").get<std::uint64_t>())};
      for (auto& cell : copy_cells(copy)) cells.push_back(std::move(cell));
      table.add(std::move(cells));
    }
  }
  table.print(std::cout);
  return ok();
}

Result<void> show(const SegmentOptions& options) {
  REELFS_TRY(auto connection, options.cluster.connect());
  std::uint64_t number = 0;
  const auto* end = options.what.data() + options.what.size();
  const auto parsed = std::from_chars(options.what.data(), end, number);
  if (parsed.ec == std::errc() && parsed.ptr == end) return show_segment(*connection, number, options);
  return show_file(*connection, options);
}

}  // namespace

void add_segment(CLI::App& app, Action& action) {
  auto* segment =
      app.add_subcommand("segment", "Segments: the replicated pieces that recordings are stored in");
  segment->require_subcommand(1);
  {
    auto* command = segment->add_subcommand("list", "Every segment, and where its copies lie");
    auto options = std::make_shared<SegmentOptions>();
    options->cluster.add_to(*command);
    command->add_option("--channel", options->channel, "Only those of this channel");
    command->add_flag("--degraded", options->degraded, "Only those with a copy out of reach");
    command->callback([options, &action] { action = [options] { return list(*options); }; });
  }
  {
    auto* command = segment->add_subcommand(
        "show", "Where one segment or recording lies: node, process, device, block, copies");
    auto options = std::make_shared<SegmentOptions>();
    options->cluster.add_to(*command);
    command->add_option("SEGMENT", options->what, "A segment's number, or a file on a mount")->required();
    command->callback([options, &action] { action = [options] { return show(*options); }; });
  }
}

}  // namespace reelfs::admin
