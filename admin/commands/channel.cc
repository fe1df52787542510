#include <algorithm>
#include <array>
#include <iostream>
#include <map>
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
  std::map<std::string, std::string> settings;  // by name, as given
  std::vector<std::string> unset;
};

/// Of the policy, which the index keeps as extended attributes: user.reel.quota is the setting quota.
constexpr std::array kSettings{
    std::pair{"quota", "Bytes that its files may have (500G), or none"},
    std::pair{"max_age", "Recordings older than this go (30d, 12h), or none"},
    std::pair{"min_age", "Younger ones are never overwritten, or none"},
    std::pair{"overwrite", "Whether the oldest recordings make room for new ones: on, off"},
    std::pair{"copies", "Copies of what is recorded from now on: 1 to 4"},
    std::pair{"min_copies", "With how many recording goes on where nodes are missing: 1 to 4"},
    std::pair{"replication", "sync"},
};
/// Instead of a channel: what is in force where nothing else was decided.
constexpr auto kDefaults = "/";

std::string attribute(const std::string& setting) { return "user.reel." + setting; }

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

Result<std::uint64_t> find_inode(Connection& connection, const std::string& name) {
  if (name == kDefaults) return kRootInode.value;
  REELFS_TRY(const auto channel, connection.find_channel(name));
  return channel.inode();
}

Result<void> decide(Connection& connection, std::uint64_t inode, const ChannelOptions& options) {
  for (const auto& [setting, value] : options.settings) {
    wire::SetXattrRequest request;
    request.set_inode(inode);
    request.set_name(attribute(setting));
    request.set_value(value);
    REELFS_TRY(connection.call<wire::Empty>(wire::Method::set_xattr, std::move(request)));
  }
  for (const auto& setting : options.unset) {
    wire::RemoveXattrRequest request;
    request.set_inode(inode);
    request.set_name(attribute(setting));
    const auto removed = connection.call<wire::Empty>(wire::Method::remove_xattr, std::move(request));
    if (!removed && removed.error().code() != Errc::no_attribute) return removed.error();
  }
  return ok();
}

/// What is in force, and what of it was decided for this very channel.
Result<json> policy_of(Connection& connection, std::uint64_t inode) {
  wire::ListXattrRequest list;
  list.set_inode(inode);
  REELFS_TRY(const auto decided, connection.call<wire::ListXattrReply>(wire::Method::list_xattr, list));
  json policy = json::object();
  for (const auto& [setting, help] : kSettings) {
    wire::GetXattrRequest request;
    request.set_inode(inode);
    request.set_name(attribute(setting));
    const auto value = connection.call<wire::GetXattrReply>(wire::Method::get_xattr, std::move(request));
    if (!value && value.error().code() == Errc::no_attribute) continue;
    if (!value) return value.error();
    const bool is_own = std::find(decided.names().begin(), decided.names().end(), attribute(setting)) !=
                        decided.names().end();
    policy[setting] = {{"value", value.value().value()}, {"decided", is_own}};
  }
  return policy;
}

void print_policy(const json& policy) {
  Table table({"SETTING", "VALUE", "DECIDED"});
  for (const auto& [setting, help] : kSettings) {
    if (!policy.contains(setting)) continue;
    const auto& value = policy[setting];
    table.add({setting, value["value"].get<std::string>(), value["decided"].get<bool>() ? "here" : ""});
  }
  table.print(std::cout);
}

Result<void> answer(Connection& connection, const ChannelOptions& options) {
  REELFS_TRY(const auto inode, find_inode(connection, options.name));
  REELFS_TRY(auto policy, policy_of(connection, inode));
  json described = json::object();
  if (options.name != kDefaults) {
    REELFS_TRY(auto channel, connection.find_channel(options.name));
    described = describe(channel);
    if (!options.cluster.json) print_table({std::move(channel)});
  }
  described["policy"] = std::move(policy);
  if (options.cluster.json) {
    print_json(described);
  } else {
    print_policy(described["policy"]);
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
  REELFS_TRY(decide(*connection, channel.attributes().inode(), options));
  return answer(*connection, options);
}

Result<void> set(const ChannelOptions& options) {
  REELFS_TRY(auto connection, options.cluster.connect());
  if (options.settings.empty() && options.unset.empty())
    return Error(Errc::invalid, "nothing to set: `reelctl channel set --help` shows what there is");
  REELFS_TRY(const auto inode, find_inode(*connection, options.name));
  REELFS_TRY(decide(*connection, inode, options));
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
    command->add_option("NAME", options->name, "The channel's name, or / for what is in force for all")
        ->required();
    return std::pair(command, options);
  };
  const auto add_settings = [](CLI::App* command, const std::shared_ptr<ChannelOptions>& options) {
    for (const auto& [setting, help] : kSettings) {
      auto option = std::string("--") + setting;
      std::replace(option.begin(), option.end(), '_', '-');
      command->add_option_function<std::string>(
          option,
          [options, setting = setting](const std::string& value) { options->settings[setting] = value; },
          help);
    }
  };
  add("list", "Every channel, and what it stores", list);
  add_named("show", "One channel", show);
  auto [create_command, create_options] =
      add_named("create", "Make a channel; mkdir at the root of a mount does it too", create);
  add_settings(create_command, create_options);
  auto [set_command, set_options] = add_named("set", "Change a channel", set);
  add_settings(set_command, set_options);
  set_command->add_option("--unset", set_options->unset, "Settings that are to be as for all again");
}

}  // namespace reelfs::admin
