#include <iostream>

#include <CLI/CLI.hpp>
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
    json devices = json::array();
    for (const auto& node : reply.nodes()) {
      for (const auto& device : node.devices()) {
        auto one = describe_device(device);
        one["node_name"] = node.name();
        devices.push_back(std::move(one));
      }
    }
    print_json({{"devices", devices}});
    return ok();
  }
  Table table({"DEVICE", "NODE", "PATH", "STATE", "SIZE", "BLOCKS", "FREE", "OPEN", "SEALED", "WHY"});
  for (const auto& node : reply.nodes()) {
    for (const auto& device : node.devices()) {
      table.add({device.device() == 0 ? "-" : std::to_string(device.device()), node.name(), device.path(),
                 state_name(device.state()), human_bytes(device.blocks() * device.block_bytes()),
                 std::to_string(device.blocks()), std::to_string(device.free_blocks()),
                 std::to_string(device.open_blocks()), std::to_string(device.sealed_blocks()),
                 device.reason()});
    }
  }
  table.print(std::cout);
  return ok();
}

}  // namespace

void add_device(CLI::App& app, Action& action) {
  auto* device = app.add_subcommand("device", "Devices of the storage nodes");
  device->require_subcommand(1);
  add_query(*device, "list", "Each device, its state, and how many of its blocks are free", list, action);
}

}  // namespace reelfs::admin
