#include <chrono>
#include <iostream>
#include <memory>
#include <vector>

#include <CLI/CLI.hpp>
#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <pwd.h>
#include <unistd.h>

#include "admin/command.h"
#include "admin/output.h"
#include "admin/time_text.h"
#include "common/base/rfc3339.h"
#include "common/wire/index.pb.h"

namespace reelfs::admin {
namespace {

using nlohmann::json;

struct HoldOptions {
  ClusterOptions cluster;
  std::string path;
  std::string channel;
  std::string from;
  std::string to;
  std::string reason;
};

/// "operator@host"
std::string whoami() {
  const auto* user = ::getpwuid(::geteuid());
  char host[256] = "";
  if (::gethostname(host, sizeof host - 1) != 0) host[0] = '\0';
  return fmt::format("{}@{}", user != nullptr ? user->pw_name : fmt::format("uid {}", ::geteuid()), host);
}

std::string plural(std::uint64_t holds) { return fmt::format("{} hold{}", holds, holds == 1 ? "" : "s"); }

/// What PATH, --channel, --from and --to name.
Result<wire::HoldSelection> select(Connection& connection, const HoldOptions& options) {
  wire::HoldSelection selection;
  if (!options.path.empty()) {
    REELFS_TRY(const auto file, stat_on_mount(options.path));
    selection.set_inode(file.st_ino);
    return selection;
  }
  REELFS_TRY(const auto channel, connection.find_channel(options.channel));
  selection.set_channel(channel.inode());
  const auto now_ns = std::chrono::duration_cast<std::chrono::nanoseconds>(
                          std::chrono::system_clock::now().time_since_epoch())
                          .count();
  if (!options.from.empty()) {
    REELFS_TRY(const auto time, parse_time(options.from, now_ns));
    selection.set_from_ns(time);
  }
  if (!options.to.empty()) {
    REELFS_TRY(const auto time, parse_time(options.to, now_ns));
    selection.set_to_ns(time);
  }
  if (selection.has_from_ns() && selection.has_to_ns() && selection.from_ns() > selection.to_ns())
    return Error(Errc::invalid, "--from is later than --to");
  return selection;
}

std::string where(const HoldOptions& options) {
  if (!options.path.empty()) return options.path;
  auto text = "channel " + options.channel;
  if (!options.from.empty()) text += " from " + options.from;
  if (!options.to.empty()) text += " to " + options.to;
  return text;
}

void answer(const HoldOptions& options, std::uint64_t holds, const char* done) {
  if (options.cluster.json) {
    print_json({{"holds", holds}});
  } else {
    std::cout << fmt::format("{} {}: {}\n", plural(holds), done, where(options));
  }
}

Result<void> add(const HoldOptions& options) {
  REELFS_TRY(auto connection, options.cluster.connect());
  wire::AddHoldsRequest request;
  REELFS_TRY(auto selection, select(*connection, options));
  const bool is_whole_channel =
      selection.channel() != 0 && !selection.has_from_ns() && !selection.has_to_ns();
  if (is_whole_channel) selection.set_inode(selection.channel());
  *request.mutable_selection() = std::move(selection);
  request.set_reason(options.reason);
  request.set_who(whoami());
  auto put = connection->call<wire::AddHoldsReply>(wire::Method::add_holds, std::move(request));
  if (put.has_error() && put.error().code() == Errc::not_found) {
    return Error(Errc::not_found,
                 fmt::format("{}: no recording to hold; `reelctl hold list` shows what is held already",
                             where(options)));
  }
  REELFS_TRY(const auto reply, std::move(put));
  answer(options, reply.holds(), "in force");
  return ok();
}

Result<void> release(const HoldOptions& options) {
  REELFS_TRY(auto connection, options.cluster.connect());
  wire::ReleaseHoldsRequest request;
  REELFS_TRY(auto selection, select(*connection, options));
  *request.mutable_selection() = std::move(selection);
  if (!options.reason.empty()) request.set_reason(options.reason);
  request.set_who(whoami());
  auto released = connection->call<wire::ReleaseHoldsReply>(wire::Method::release_holds, std::move(request));
  if (released.has_error() && released.error().code() == Errc::not_found) {
    return Error(Errc::not_found,
                 fmt::format("{}: no such hold; `reelctl hold list` shows those there are, and a hold on a "
                             "directory is released there",
                             where(options)));
  }
  REELFS_TRY(const auto reply, std::move(released));
  answer(options, reply.holds(), "released");
  return ok();
}

Result<std::vector<wire::HoldInfo>> list_holds(Connection& connection, std::uint64_t channel) {
  std::vector<wire::HoldInfo> all;
  for (std::uint64_t after = 0;;) {
    wire::ListHoldsRequest request;
    request.set_channel(channel);
    request.set_after(after);
    request.set_limit(512);
    REELFS_TRY(auto reply,
               connection.call<wire::ListHoldsReply>(wire::Method::list_holds, std::move(request)));
    for (auto& info : *reply.mutable_holds()) all.push_back(std::move(info));
    if (reply.end() || reply.holds().empty()) return all;
    after = all.back().inode();
  }
}

json describe(const wire::HoldInfo& info) {
  return {{"path", info.path()},        {"inode", info.inode()}, {"directory", info.directory()},
          {"reason", info.reason()},    {"who", info.who()},     {"since", rfc3339(info.since_ns())},
          {"since_ns", info.since_ns()}};
}

Result<void> list(const HoldOptions& options) {
  REELFS_TRY(auto connection, options.cluster.connect());
  std::uint64_t channel = 0;  // any
  if (!options.channel.empty()) {
    REELFS_TRY(const auto found, connection->find_channel(options.channel));
    channel = found.inode();
  }
  REELFS_TRY(const auto holds, list_holds(*connection, channel));
  if (options.cluster.json) {
    json all = json::array();
    for (const auto& info : holds) all.push_back(describe(info));
    print_json({{"holds", all}});
    return ok();
  }
  Table table({"HELD", "REASON", "BY", "SINCE"});
  for (const auto& info : holds) {
    table.add({fmt::format("{}{}", info.path(), info.directory() ? "/ and all below" : ""), info.reason(),
               info.who(), time_text(info.since_ns())});
  }
  table.print(std::cout);
  return ok();
}

}  // namespace

void add_hold(CLI::App& app, Action& action) {
  auto* hold = app.add_subcommand("hold", "Holds: recordings that nobody can remove or overwrite");
  hold->require_subcommand(1);
  const auto add_command = [hold, &action](const char* name, const char* help,
                                           Result<void> (*run)(const HoldOptions&)) {
    auto* command = hold->add_subcommand(name, help);
    auto options = std::make_shared<HoldOptions>();
    options->cluster.add_to(*command);
    command->callback([options, run, &action] { action = [options, run] { return run(*options); }; });
    return std::pair(command, options);
  };
  const auto add_selection = [](CLI::App& command, HoldOptions& options) {
    auto* which = command.add_option_group("which", "What it is about");
    auto* path = which->add_option("PATH", options.path, "A recording or directory on a mount");
    auto* channel = which->add_option("--channel", options.channel, "Recordings of this channel");
    which->require_option(1);
    const char* kTimes = "10:00, \"2026-11-21 10:00\", 2026-11-21T10:00:00Z";
    command
        .add_option("--from", options.from,
                    fmt::format("Only recordings that went on at or after: {}", kTimes))
        ->needs(channel)
        ->excludes(path);
    command.add_option("--to", options.to, "Only recordings that began at or before")
        ->needs(channel)
        ->excludes(path);
  };
  {
    auto [command, options] = add_command("add", "Hold a recording, a directory, or what a channel has", add);
    add_selection(*command, *options);
    command->add_option("--reason", options->reason, "Why: one line, such as \"case 4711\"")->required();
  }
  {
    auto [command, options] = add_command("list", "Every hold: on what, why, by whom, since when", list);
    command->add_option("--channel", options->channel, "Only those of this channel");
  }
  {
    auto [command, options] = add_command("release", "End holds", release);
    add_selection(*command, *options);
    command->add_option("--reason", options->reason, "Only those with just this reason");
  }
}

}  // namespace reelfs::admin
