#include <algorithm>
#include <cctype>
#include <iostream>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

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

constexpr std::uint64_t kPage = 1024;

void print(const wire::RepairStatus& status) {
  if (status.at_risk().empty()) {
    std::cout << "every segment has the copies it is to have\n";
  } else {
    Table table({"COPIES WITHIN REACH", "SEGMENTS", "BYTES AT RISK"});
    for (const auto& entry : status.at_risk()) {
      table.add(
          {std::to_string(entry.copies()), std::to_string(entry.segments()), human_bytes(entry.bytes())});
    }
    table.print(std::cout);
  }
  std::cout << '\n' << repair_line(status) << '\n';
  for (const auto& copy : status.under_way()) {
    std::cout << fmt::format("  segment {} on {}: {} of {}\n", copy.segment(), copy.node_name(),
                             human_bytes(copy.valid_bytes()), human_bytes(copy.length()));
  }
  for (const auto& node : status.leaving()) {
    std::cout << fmt::format("{} is drained: {} segments, {} left\n", node.node_name(), node.segments(),
                             human_bytes(node.bytes()));
  }
  std::cout << fmt::format("{} copies made, {}, {} failures since the index server began\n",
                           status.copies_made(), human_bytes(status.copied_bytes()), status.failures());
}

void answer(const ClusterOptions& options, const wire::RepairStatus& status) {
  if (options.json) {
    print_json(describe_repair(status));
  } else {
    print(status);
  }
}

Result<void> status(const ClusterOptions& options) {
  REELFS_TRY(auto connection, options.connect());
  REELFS_TRY(const auto reply, connection->call<wire::RepairStatusReply>(wire::Method::repair_status,
                                                                         wire::RepairStatusRequest{}));
  answer(options, reply.status());
  return ok();
}

Result<void> now(const ClusterOptions& options) {
  REELFS_TRY(auto connection, options.connect());
  REELFS_TRY(const auto reply,
             connection->call<wire::RepairStatusReply>(wire::Method::repair_now, wire::RepairNowRequest{}));
  if (!options.json) std::cout << "what is away now is not waited for; reelctl repair status tells more\n";
  answer(options, reply.status());
  return ok();
}

struct LogOptions {
  ClusterOptions cluster;
  std::string since;
  std::string node;
  std::uint64_t segment = 0;
  std::uint64_t lines = 100;
  bool all = false;
};

/// "copy made", or "copy_made" for programs
std::string name_of(wire::RepairEvent event, char between) {
  auto name = wire::RepairEvent_Name(event);  // REPAIR_EVENT_COPY_MADE; empty for one of a newer server
  constexpr std::string_view kPrefix = "REPAIR_EVENT_";
  name = name.starts_with(kPrefix) ? name.substr(kPrefix.size()) : "unknown";
  for (auto& letter : name)
    letter = letter == '_' ? between : static_cast<char>(std::tolower(static_cast<unsigned char>(letter)));
  return name;
}

/// Oldest first.
Result<std::vector<wire::RepairLogEntry>> read_log(Connection& connection, const LogOptions& options) {
  wire::ReadRepairLogRequest request;
  if (!options.since.empty()) {
    REELFS_TRY(const auto since, parse_time(options.since, SystemClock().wall().time_since_epoch().count()));
    request.set_since_ns(since);
  }
  request.set_node(options.node);
  request.set_segment(options.segment);
  const auto wanted = options.all || !options.since.empty() ? UINT64_MAX : options.lines;
  std::vector<wire::RepairLogEntry> entries;
  while (entries.size() < wanted) {
    request.set_limit(static_cast<std::uint32_t>(std::min<std::uint64_t>(kPage, wanted - entries.size())));
    REELFS_TRY(auto reply, connection.call<wire::ReadRepairLogReply>(wire::Method::read_repair_log, request));
    for (auto& entry : *reply.mutable_entries()) entries.push_back(std::move(entry));
    if (reply.next_below() == 0) break;
    request.set_below(reply.next_below());
  }
  std::reverse(entries.begin(), entries.end());
  return entries;
}

json describe(const wire::RepairLogEntry& entry) {
  json described{{"number", entry.number()},
                 {"time", rfc3339(entry.at_ns())},
                 {"time_ns", entry.at_ns()},
                 {"event", name_of(entry.event(), '_')}};
  if (entry.segment() != 0) described["segment"] = entry.segment();
  if (entry.node() != 0) described["node"] = entry.node_name();
  if (entry.other() != 0) described["instead_of"] = entry.other_name();
  if (entry.device() != 0) described["device"] = entry.device();
  if (entry.bytes() != 0) described["bytes"] = entry.bytes();
  if (!entry.details().empty()) described["details"] = entry.details();
  return described;
}

std::string details_of(const wire::RepairLogEntry& entry) {
  std::string text = entry.details();
  if (entry.other() != 0) text = fmt::format("instead of {}", entry.other_name());
  if (entry.device() != 0) text = fmt::format("device {} {}", entry.device(), text);
  return text;
}

Result<void> show_log(const LogOptions& options) {
  REELFS_TRY(auto connection, options.cluster.connect());
  REELFS_TRY(const auto entries, read_log(*connection, options));
  if (options.cluster.json) {
    json described = json::array();
    for (const auto& entry : entries) described.push_back(describe(entry));
    print_json({{"entries", described}});
    return ok();
  }
  Table table({"TIME", "EVENT", "SEGMENT", "NODE", "BYTES", "DETAILS"});
  for (const auto& entry : entries) {
    table.add({time_text(entry.at_ns()), name_of(entry.event(), ' '),
               entry.segment() != 0 ? std::to_string(entry.segment()) : "-",
               entry.node() != 0 ? entry.node_name() : "-",
               entry.bytes() != 0 ? human_bytes(entry.bytes()) : "-", details_of(entry)});
  }
  table.print(std::cout);
  return ok();
}

}  // namespace

void add_repair(CLI::App& app, Action& action) {
  auto* repair = app.add_subcommand("repair", "Copies that are missing, and how they are made again");
  repair->require_subcommand(1);
  add_query(*repair, "status", "What has too few copies, what is being done about it, and for how long",
            status, action);
  add_query(*repair, "now",
            "Make the copies of nodes and devices that are away again without waiting for them", now, action);
  auto* log =
      repair->add_subcommand("log", "What became of copies, nodes and devices, and what was done about it");
  auto options = std::make_shared<LogOptions>();
  options->cluster.add_to(*log);
  log->add_option("--since", options->since,
                  "All since then: 10:00, 2026-11-21, \"2026-11-21 10:00\", RFC 3339")
      ->option_text("TIME");
  log->add_option("--segment", options->segment, "Only of this segment")->option_text("NUMBER");
  log->add_option("--node", options->node, "Only of this node, by name or number")->option_text("NODE");
  auto* lines = log->add_option("-n,--lines", options->lines, "The newest so many (100)")->option_text("N");
  log->add_flag("--all", options->all, "Everything that is kept: 100,000 entries")->excludes(lines);
  log->callback([options, &action] { action = [options] { return show_log(*options); }; });
}

}  // namespace reelfs::admin
