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

struct Chosen {
  std::string node;
  bool lost = false;
};

enum class Draining { begin, undo };

Result<void> drain(const ClusterOptions& options, const Chosen& chosen, Draining draining) {
  REELFS_TRY(auto connection, options.connect());
  wire::DrainNodeRequest request;
  request.set_node(chosen.node);
  request.set_undo(draining == Draining::undo);
  REELFS_TRY(const auto reply, connection->call<wire::DrainNodeReply>(wire::Method::drain_node, request));
  if (options.json) {
    print_json({{"node", describe_node(reply.node())}});
  } else if (draining == Draining::undo) {
    std::cout << fmt::format("{} is in service: it may be given copies again\n", reply.node().name());
  } else {
    std::cout << fmt::format(
        "{} is drained: its copies are made anew elsewhere. reelctl repair status shows what is left;\n"
        "when nothing is, reelctl node remove {}\n",
        reply.node().name(), reply.node().name());
  }
  return ok();
}

Result<void> remove(const ClusterOptions& options, const Chosen& chosen) {
  REELFS_TRY(auto connection, options.connect());
  wire::RemoveNodeRequest request;
  request.set_node(chosen.node);
  request.set_lost(chosen.lost);
  REELFS_TRY(const auto reply, connection->call<wire::RemoveNodeReply>(wire::Method::remove_node, request));
  if (options.json) {
    print_json({{"removed", chosen.node}, {"segments", reply.segments()}});
    return ok();
  }
  std::cout << fmt::format("{} is removed\n", chosen.node);
  if (reply.segments() > 0) {
    std::cout << fmt::format("{} segments had a copy there, which are made again: reelctl repair status\n",
                             reply.segments());
  }
  return ok();
}

}  // namespace

void add_node_drain(CLI::App& node, Action& action) {
  const auto options = std::make_shared<ClusterOptions>();
  const auto chosen = std::make_shared<Chosen>();
  const auto add = [&](const char* name, const char* help, auto carry_out) {
    auto* command = node.add_subcommand(name, help);
    options->add_to(*command);
    command->add_option("NODE", chosen->node, "The node's name, or its number")->required();
    command->callback([options, chosen, carry_out, &action] {
      action = [options, chosen, carry_out] { return carry_out(*options, *chosen); };
    });
    return command;
  };
  add("drain", "Make the copies on a node anew on others, and give it no new ones",
      [](const ClusterOptions& o, const Chosen& c) { return drain(o, c, Draining::begin); });
  add("undrain", "Give a node copies again that was being drained",
      [](const ClusterOptions& o, const Chosen& c) { return drain(o, c, Draining::undo); });
  auto* removing =
      add("remove", "Forget a node that has no copies any more, or, with --lost, never comes back", remove);
  removing->add_flag("--lost", chosen->lost,
                     "Though it has copies: they are written off and made again from others");
}

}  // namespace reelfs::admin
