#include <chrono>
#include <iostream>
#include <map>
#include <memory>

#include <CLI/CLI.hpp>
#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "admin/command.h"
#include "admin/output.h"
#include "admin/render.h"
#include "admin/time_text.h"
#include "common/base/clock.h"
#include "common/base/rfc3339.h"
#include "common/wire/index.pb.h"

namespace reelfs::admin {
namespace {

using nlohmann::json;

struct ScrubOptions {
  ClusterOptions cluster;
  std::string node;
};

using Names = std::map<std::uint32_t, std::string>;

Names names_of(const wire::ScrubStatusReply& status) {
  Names names;
  for (const auto& node : status.nodes()) names[node.node()] = node.name();
  return names;
}

std::string name_of(const Names& names, std::uint32_t node) {
  const auto found = names.find(node);
  return found != names.end() ? found->second : "node " + std::to_string(node);
}

double percent(const wire::ScrubProgress& scrub) {
  if (scrub.used_bytes() == 0) return 100;
  return 100.0 * static_cast<double>(scrub.verified_bytes()) / static_cast<double>(scrub.used_bytes());
}

/// A time that is not known is null.
json time_of(std::int64_t time_ns) { return time_ns != 0 ? json(rfc3339(time_ns)) : json(nullptr); }

json describe(const wire::ByteRange& range) {
  return {{"offset", range.offset()}, {"length", range.length()}};
}

json describe(const wire::DeviceInfo& device, const std::string& node) {
  const auto& scrub = device.scrub();
  return {{"node", node},
          {"device", device.device()},
          {"path", device.path()},
          {"state", state_name(device.state())},
          {"ordered_since", time_of(scrub.ordered_ns())},
          {"period_s", scrub.period_s()},
          {"used_bytes", scrub.used_bytes()},
          {"verified_bytes", scrub.verified_bytes()},
          {"percent", percent(scrub)},
          {"all_verified_since", time_of(scrub.oldest_ns())},
          {"read_bytes", scrub.read_bytes()},
          {"damaged_blocks", scrub.damaged_blocks()}};
}

json describe(const wire::DamageInfo& damage, const Names& names) {
  json ranges = json::array(), files = json::array();
  for (const auto& range : damage.ranges()) ranges.push_back(describe(range));
  for (const auto& piece : damage.files())
    files.push_back({{"path", piece.path()}, {"offset", piece.offset()}, {"length", piece.length()}});
  return {{"segment", damage.segment()},
          {"node", name_of(names, damage.node())},
          {"device", damage.device()},
          {"block", damage.block()},
          {"since", time_of(damage.since_ns())},
          {"unrepairable", damage.unrepairable()},
          {"waits_for", damage.waits_for()},
          {"ranges", ranges},
          {"files", files}};
}

json describe(const wire::ScrubStatusReply& status) {
  const auto names = names_of(status);
  json devices = json::array(), damages = json::array();
  for (const auto& node : status.nodes()) {
    for (const auto& device : node.devices()) devices.push_back(describe(device, node.name()));
  }
  for (const auto& damage : status.damages()) damages.push_back(describe(damage, names));
  return {{"devices", devices},
          {"damages", damages},
          {"reported_ranges", status.reported_ranges()},
          {"repaired_ranges", status.repaired_ranges()},
          {"rewritten_bytes", status.repaired_bytes()},
          {"pending_ranges", status.pending_ranges()},
          {"unrepairable_ranges", status.unrepairable_ranges()}};
}

std::uint64_t bytes_of(const wire::DamageInfo& damage) {
  std::uint64_t bytes = 0;
  for (const auto& range : damage.ranges()) bytes += range.length();
  return bytes;
}

void print(const wire::ScrubStatusReply& status) {
  Table devices(
      {"NODE", "DEVICE", "STATE", "PASS", "VERIFIED", "ALL VERIFIED SINCE", "DAMAGED BLOCKS FOUND"});
  for (const auto& node : status.nodes()) {
    for (const auto& device : node.devices()) {
      const auto& scrub = device.scrub();
      const bool told = device.state() == wire::STATE_ONLINE && device.has_scrub();
      std::string pass = "off";
      if (scrub.period_s() != 0) pass = "every " + human_time(scrub.period_s() * 1000);
      if (scrub.ordered_ns() != 0) pass = "ordered " + time_text(scrub.ordered_ns());
      devices.add(
          {node.name(), device.path(), state_name(device.state()), told ? pass : "-",
           told ? fmt::format("{:.1f} % of {}", percent(scrub), human_bytes(scrub.used_bytes())) : "-",
           told && scrub.oldest_ns() != 0 ? time_text(scrub.oldest_ns()) : "-",
           told ? std::to_string(scrub.damaged_blocks()) : "-"});
    }
  }
  devices.print(std::cout);
  std::cout << fmt::format(
      "\nSince the index server began: {} damaged ranges reported, {} repaired ({} rewritten). Now: {} to be "
      "repaired, {} damaged in every copy\n",
      status.reported_ranges(), status.repaired_ranges(), human_bytes(status.repaired_bytes()),
      status.pending_ranges(), status.unrepairable_ranges());
  if (status.damages().empty()) return;
  const auto names = names_of(status);
  Table damages({"SEGMENT", "NODE", "BYTES", "SINCE", "WHAT"});
  Table lost({"LOST OF", "OFFSET", "BYTES"});
  bool any_lost = false;
  for (const auto& damage : status.damages()) {
    const std::string what = damage.unrepairable()        ? "damaged in every copy"
                             : damage.waits_for().empty() ? "being repaired"
                                                          : "waits: " + damage.waits_for();
    damages.add({std::to_string(damage.segment()), name_of(names, damage.node()),
                 std::to_string(bytes_of(damage)), time_text(damage.since_ns()), what});
    for (const auto& piece : damage.files()) {
      lost.add({piece.path().empty() ? "a removed file" : piece.path(), std::to_string(piece.offset()),
                std::to_string(piece.length())});
      any_lost = true;
    }
  }
  std::cout << '\n';
  damages.print(std::cout);
  if (!any_lost) return;
  std::cout << '\n';
  lost.print(std::cout);
}

Result<void> status(const ClusterOptions& options) {
  REELFS_TRY(auto connection, options.connect());
  REELFS_TRY(const auto reply, connection->call<wire::ScrubStatusReply>(wire::Method::scrub_status,
                                                                        wire::ScrubStatusRequest()));
  if (options.json) {
    print_json(describe(reply));
  } else {
    print(reply);
  }
  return ok();
}

Result<void> start(const ScrubOptions& options) {
  REELFS_TRY(auto connection, options.cluster.connect());
  wire::StartScrubRequest request;
  request.set_node(options.node);
  REELFS_TRY(const auto reply,
             connection->call<wire::StartScrubReply>(wire::Method::start_scrub, std::move(request)));
  REELFS_TRY(const auto nodes, connection->list_nodes());
  Names names;
  for (const auto& node : nodes.nodes()) names[node.node()] = node.name();
  if (options.cluster.json) {
    json started = json::array();
    for (const auto node : reply.nodes()) started.push_back(name_of(names, node));
    print_json({{"nodes", started}});
    return ok();
  }
  for (const auto node : reply.nodes())
    std::cout << "verifying all copies on " << name_of(names, node) << '\n';
  std::cout << "reelctl scrub status shows how far they are\n";
  return ok();
}

}  // namespace

void add_scrub(CLI::App& app, Action& action) {
  auto* scrub = app.add_subcommand("scrub", "Verifying what is stored, and what was found damaged");
  scrub->require_subcommand(1);
  auto* begin = scrub->add_subcommand("start", "Verify all copies now, as fast as the nodes are allowed to");
  auto options = std::make_shared<ScrubOptions>();
  options->cluster.add_to(*begin);
  begin->add_option("--node", options->node, "Only those on this node: its name, or its number");
  begin->callback([options, &action] { action = [options] { return start(*options); }; });
  add_query(*scrub, "status", "How far each device is verified, what was found, repaired and lost", status,
            action);
}

}  // namespace reelfs::admin
