#include <iostream>
#include <memory>

#include <CLI/CLI.hpp>
#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <sys/stat.h>
#include <unistd.h>

#include "admin/command.h"
#include "admin/output.h"
#include "common/wire/index.pb.h"

namespace reelfs::admin {
namespace {

using nlohmann::json;

struct ChannelOptions {
  ClusterOptions cluster;
  std::string name;
  std::uint32_t copies = 0;
};

json describe(const wire::ChannelInfo& channel) {
  return {{"name", channel.name()},
          {"inode", channel.inode()},
          {"copies", channel.copies()},
          {"files", channel.files()},
          {"segments", channel.segments()},
          {"stored_bytes", channel.stored_bytes()},
          {"live_bytes", channel.live_bytes()}};
}

void print_table(const std::vector<wire::ChannelInfo>& channels) {
  Table table({"CHANNEL", "COPIES", "FILES", "SEGMENTS", "STORED", "LIVE"});
  for (const auto& channel : channels) {
    table.add({channel.name(), std::to_string(channel.copies()), std::to_string(channel.files()),
               std::to_string(channel.segments()), human_bytes(channel.stored_bytes()),
               human_bytes(channel.live_bytes())});
  }
  table.print(std::cout);
}

Result<void> set_copies(Connection& connection, std::uint64_t inode, std::uint32_t copies) {
  wire::SetChannelRequest request;
  request.set_inode(inode);
  request.set_copies(copies);
  REELFS_TRY(connection.call<wire::Empty>(wire::Method::set_channel, std::move(request)));
  return ok();
}

Result<void> answer(Connection& connection, const ChannelOptions& options) {
  REELFS_TRY(auto channel, connection.find_channel(options.name));
  if (options.cluster.json) {
    print_json(describe(channel));
  } else {
    print_table({std::move(channel)});
  }
  return ok();
}

Result<void> list(const ChannelOptions& options) {
  REELFS_TRY(auto connection, options.cluster.connect());
  REELFS_TRY(auto reply, connection->list_channels());
  if (!options.cluster.json) {
    print_table({reply.channels().begin(), reply.channels().end()});
    return ok();
  }
  json channels = json::array();
  for (const auto& channel : reply.channels()) channels.push_back(describe(channel));
  print_json({{"channels", channels}});
  return ok();
}

Result<void> create(const ChannelOptions& options) {
  REELFS_TRY(auto connection, options.cluster.connect());
  wire::CreateRequest request;
  request.set_parent(kRootInode.value);
  request.set_name(options.name);
  request.set_mode(S_IFDIR | 0755);
  request.set_uid(::geteuid());
  request.set_gid(::getegid());
  request.set_exclusive(true);
  auto made = connection->call<wire::AttributesReply>(wire::Method::create, std::move(request));
  if (made.has_error() && made.error().code() == Errc::exists) {
    return Error(Errc::exists, fmt::format("channel {} exists already: `reelctl channel set {}` changes it",
                                           options.name, options.name));
  }
  REELFS_TRY(auto channel, std::move(made));
  if (options.copies != 0) {
    REELFS_TRY(set_copies(*connection, channel.attributes().inode(), options.copies));
  }
  return answer(*connection, options);
}

Result<void> set(const ChannelOptions& options) {
  REELFS_TRY(auto connection, options.cluster.connect());
  REELFS_TRY(auto channel, connection->find_channel(options.name));
  REELFS_TRY(set_copies(*connection, channel.inode(), options.copies));
  return answer(*connection, options);
}

Result<void> show(const ChannelOptions& options) {
  REELFS_TRY(auto connection, options.cluster.connect());
  return answer(*connection, options);
}

}  // namespace

void add_channel(CLI::App& app, Action& action) {
  auto* channel = app.add_subcommand("channel", "Channels: the directories at the root of the mount");
  channel->require_subcommand(1);
  const auto add = [channel, &action](const char* name, const char* help,
                                      Result<void> (*run)(const ChannelOptions&)) {
    auto* command = channel->add_subcommand(name, help);
    auto options = std::make_shared<ChannelOptions>();
    options->cluster.add_to(*command);
    command->callback([options, run, &action] { action = [options, run] { return run(*options); }; });
    return std::pair(command, options);
  };
  const auto add_named = [&add](const char* name, const char* help,
                                Result<void> (*run)(const ChannelOptions&)) {
    auto [command, options] = add(name, help, run);
    command->add_option("NAME", options->name, "The channel's name")->required();
    return std::pair(command, options);
  };
  const auto add_copies = [](CLI::App* command, ChannelOptions& options) {
    return command->add_option("--copies", options.copies, "Copies of what is recorded from now on")
        ->check(CLI::Range(1, 4));
  };
  add("list", "Every channel, and what it stores", list);
  add_named("show", "One channel", show);
  auto [create_command, create_options] =
      add_named("create", "Make a channel; mkdir at the root of a mount does it too", create);
  add_copies(create_command, *create_options);
  auto [set_command, set_options] = add_named("set", "Change a channel", set);
  add_copies(set_command, *set_options)->required();
}

}  // namespace reelfs::admin
