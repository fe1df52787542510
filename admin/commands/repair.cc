#include <iostream>

#include <CLI/CLI.hpp>
#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "admin/command.h"
#include "admin/output.h"
#include "admin/render.h"
#include "common/wire/index.pb.h"

namespace reelfs::admin {
namespace {

using nlohmann::json;

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

}  // namespace

void add_repair(CLI::App& app, Action& action) {
  auto* repair = app.add_subcommand("repair", "Copies that are missing, and how they are made again");
  repair->require_subcommand(1);
  add_query(*repair, "status", "What has too few copies, what is being done about it, and for how long",
            status, action);
  add_query(*repair, "now",
            "Make the copies of nodes and devices that are away again without waiting for them", now, action);
}

}  // namespace reelfs::admin
