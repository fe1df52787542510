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

Result<void> list(const ClusterOptions& options) {
  REELFS_TRY(auto connection, options.connect());
  REELFS_TRY(auto reply, connection->list_nodes());
  if (options.json) {
    json nodes = json::array();
    for (const auto& node : reply.nodes()) nodes.push_back(describe_node(node));
    print_json({{"nodes", nodes}});
    return ok();
  }
  Table table(
      {"NODE", "ID", "RACK", "STATE", "WORKER", "ROLE", "PID", "ENDPOINT", "WORKER STATE", "LAST HEARD"});
  for (const auto& node : reply.nodes()) {
    for (const auto& worker : node.workers()) {
      auto endpoints = endpoint_text(worker.endpoint());
      for (const auto& other : worker.endpoint().others()) endpoints += ' ' + endpoint_text(other);
      table.add({node.name(), std::to_string(node.node()), node.rack().empty() ? "-" : node.rack(),
                 state_name(node.state()) + (node.leaving() ? ", drained" : ""),
                 std::to_string(worker.worker()), worker.leader() ? "leader" : "follower",
                 std::to_string(worker.pid()), std::move(endpoints), state_name(worker.state()),
                 human_time(worker.silent_ms()) + " ago"});
    }
  }
  table.print(std::cout);
  return ok();
}

}  // namespace

void add_node(CLI::App& app, Action& action) {
  auto* node = app.add_subcommand("node", "Storage nodes");
  node->require_subcommand(1);
  add_query(*node, "list", "Each node, its worker processes and their external ports", list, action);
  add_node_show(*node, action);
  add_node_drain(*node, action);
}

}  // namespace reelfs::admin
