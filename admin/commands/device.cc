#include <iostream>
#include <memory>
#include <string>

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

std::string since(std::int64_t since_ns) {
  const auto now = SystemClock().wall().time_since_epoch().count();
  if (since_ns <= 0) return "-";
  return human_time(now > since_ns ? static_cast<std::uint64_t>(now - since_ns) / 1'000'000 : 0) + " ago";
}

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
  Table table(
      {"DEVICE", "NODE", "PATH", "STATE", "SIZE", "BLOCKS", "FREE", "OPEN", "SEALED", "SINCE", "WHY"});
  for (const auto& node : reply.nodes()) {
    for (const auto& device : node.devices()) {
      table.add({device.device() == 0 ? "-" : std::to_string(device.device()), node.name(), device.path(),
                 state_name(device.state()), human_bytes(device.blocks() * device.block_bytes()),
                 std::to_string(device.blocks()), std::to_string(device.free_blocks()),
                 std::to_string(device.open_blocks()), std::to_string(device.sealed_blocks()),
                 since(device.since_ns()), device.reason()});
    }
  }
  table.print(std::cout);
  return ok();
}

struct Chosen {
  std::string node;
  std::string device;
  bool force = false;
};

Result<void> add(const ClusterOptions& options, const Chosen& chosen) {
  REELFS_TRY(auto connection, options.connect());
  wire::AddDeviceRequest request;
  request.set_node(chosen.node);
  request.set_path(absolute_path(chosen.device).string());
  REELFS_TRY(const auto reply, connection->call<wire::AddDeviceReply>(wire::Method::add_device, request));
  const auto& device = reply.device();
  if (options.json) {
    print_json({{"device", describe_device(device)}});
    return ok();
  }
  std::cout << fmt::format("device {} ({}) of node {} is {}: {} in {} blocks, {} of them free\n",
                           device.device(), device.path(), chosen.node, state_name(device.state()),
                           human_bytes(device.blocks() * device.block_bytes()), device.blocks(),
                           device.free_blocks());
  return ok();
}

Result<void> remove(const ClusterOptions& options, const Chosen& chosen) {
  REELFS_TRY(auto connection, options.connect());
  wire::RemoveDeviceRequest request;
  request.set_node(chosen.node);
  const bool is_path = chosen.device.find('/') != std::string::npos;
  request.set_device(is_path ? absolute_path(chosen.device).string() : chosen.device);
  request.set_force(chosen.force);
  REELFS_TRY(const auto reply,
             connection->call<wire::RemoveDeviceReply>(wire::Method::remove_device, request));
  if (options.json) {
    print_json({{"device", describe_device(reply.device())},
                {"segments", reply.segments()},
                {"lost", reply.lost()}});
    return ok();
  }
  std::cout << fmt::format("{} of node {} is removed\n", reply.device().path(), chosen.node);
  if (reply.segments() > 0) {
    std::cout << fmt::format(
        "{} segments have one copy less now, {} of them none within reach; reelctl device add brings it "
        "back\n",
        reply.segments(), reply.lost());
  }
  return ok();
}

}  // namespace

void add_device(CLI::App& app, Action& action) {
  auto* device = app.add_subcommand("device", "Devices of the storage nodes");
  device->require_subcommand(1);
  add_query(*device, "list", "Each device, its state, and how many of its blocks are free", list, action);

  const auto options = std::make_shared<ClusterOptions>();
  const auto chosen = std::make_shared<Chosen>();
  auto* add_command = device->add_subcommand(
      "add", "Make a blank disk or file a device of a node, or bring back one that failed or was removed");
  options->add_to(*add_command);
  add_command->add_option("NODE", chosen->node, "The node's name, or its number")->required();
  add_command->add_option("PATH", chosen->device, "On the node's machine")->required()->check(check_path);
  add_command->callback(
      [options, chosen, &action] { action = [options, chosen] { return add(*options, *chosen); }; });

  auto* remove_command =
      device->add_subcommand("remove", "Take a device out of service until it is added again");
  options->add_to(*remove_command);
  remove_command->add_option("NODE", chosen->node, "The node's name, or its number")->required();
  remove_command->add_option("DEVICE", chosen->device, "Its path on the node's machine, or its number")
      ->required();
  remove_command->add_flag("--force", chosen->force,
                           "Even where recordings lose their last copy within reach");
  remove_command->callback(
      [options, chosen, &action] { action = [options, chosen] { return remove(*options, *chosen); }; });
}

}  // namespace reelfs::admin
