#include <algorithm>
#include <chrono>
#include <iostream>
#include <memory>
#include <tuple>
#include <vector>

#include <CLI/CLI.hpp>
#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "admin/command.h"
#include "admin/output.h"
#include "admin/time_text.h"
#include "common/base/rfc3339.h"
#include "common/wire/index.pb.h"

namespace reelfs::admin {
namespace {

using nlohmann::json;

struct FindOptions {
  ClusterOptions cluster;
  std::string path;
  std::string channel;
  std::string from;
  std::string to;
};

Result<wire::FindRecordingsRequest> request_for(Connection& connection, const FindOptions& options) {
  constexpr std::uint32_t kAtOnce = 512;
  wire::FindRecordingsRequest request;
  request.set_limit(kAtOnce);
  if (!options.path.empty()) {
    REELFS_TRY(const auto file, stat_on_mount(options.path));
    if (!S_ISREG(file.st_mode))
      return Error(Errc::invalid, options.path + " is no recording: --channel looks for those of a channel");
    request.set_inode(file.st_ino);
  }
  if (!options.channel.empty()) {
    REELFS_TRY(const auto channel, connection.find_channel(options.channel));
    request.set_channel(channel.inode());
  }
  const auto now_ns = std::chrono::duration_cast<std::chrono::nanoseconds>(
                          std::chrono::system_clock::now().time_since_epoch())
                          .count();
  if (!options.from.empty()) {
    REELFS_TRY(const auto time, parse_time(options.from, now_ns));
    request.set_from_ns(time);
  }
  if (!options.to.empty()) {
    REELFS_TRY(const auto time, parse_time(options.to, now_ns));
    request.set_to_ns(time);
  }
  if (request.has_from_ns() && request.has_to_ns() && request.from_ns() > request.to_ns())
    return Error(Errc::invalid, "--from is later than --to");
  return request;
}

Result<std::vector<wire::RecordingInfo>> find_all(Connection& connection,
                                                  wire::FindRecordingsRequest request) {
  std::vector<wire::RecordingInfo> all;
  for (;;) {
    REELFS_TRY(auto reply,
               connection.call<wire::FindRecordingsReply>(wire::Method::find_recordings, request));
    for (auto& info : *reply.mutable_recordings()) all.push_back(std::move(info));
    if (!reply.has_next()) break;
    *request.mutable_after() = std::move(*reply.mutable_next());
  }
  // One that is being written may have been answered twice, as it moves on in the order of newest bytes.
  const auto by_time = [](const wire::RecordingInfo& info) {
    return std::tuple(info.attributes().channel(), info.first_ns(), info.attributes().inode());
  };
  std::stable_sort(all.begin(), all.end(),
                   [&](const auto& a, const auto& b) { return by_time(a) < by_time(b); });
  const auto is_same = [](const auto& a, const auto& b) {
    return a.attributes().inode() == b.attributes().inode();
  };
  all.erase(std::unique(all.begin(), all.end(), is_same), all.end());
  return all;
}

json describe(const wire::RecordingInfo& info) {
  const auto time = [](std::int64_t ns) { return ns == 0 ? json() : json(rfc3339(ns)); };
  const bool has_bytes = info.first_ns() != 0;
  return {{"path", info.path()},
          {"inode", info.attributes().inode()},
          {"first_byte", time(info.first_ns())},
          {"last_byte", time(has_bytes ? info.last_ns() : 0)},
          {"first_byte_ns", info.first_ns()},
          {"last_byte_ns", has_bytes ? info.last_ns() : 0},
          {"size", info.attributes().size()},
          {"held", info.held()},
          {"being_written", info.being_written()}};
}

std::string state(const wire::RecordingInfo& info) {
  if (info.held()) return info.being_written() ? "held, being written" : "held";
  return info.being_written() ? "being written" : "";
}

Result<void> find(const FindOptions& options) {
  REELFS_TRY(auto connection, options.cluster.connect());
  REELFS_TRY(auto request, request_for(*connection, options));
  REELFS_TRY(const auto recordings, find_all(*connection, std::move(request)));
  if (options.cluster.json) {
    json all = json::array();
    for (const auto& info : recordings) all.push_back(describe(info));
    print_json({{"recordings", all}});
    return ok();
  }
  Table table({"RECORDING", "FIRST BYTE", "LAST BYTE", "SIZE", "STATE"});
  for (const auto& info : recordings) {
    const bool has_bytes = info.first_ns() != 0;
    table.add({info.path(), has_bytes ? time_text(info.first_ns()) : "-",
               has_bytes ? time_text(info.last_ns()) : "-", human_bytes(info.attributes().size()),
               state(info)});
  }
  table.print(std::cout);
  return ok();
}

}  // namespace

void add_find(CLI::App& app, Action& action) {
  auto* command = app.add_subcommand("find", "Recordings with bytes that came in a time, and when they came");
  auto options = std::make_shared<FindOptions>();
  options->cluster.add_to(*command);
  auto* path = command->add_option("PATH", options->path, "This recording, on a mount");
  command->add_option("--channel", options->channel, "Only those of this channel")->excludes(path);
  command
      ->add_option("--from", options->from,
                   "With a byte that came at or after: 10:00, \"2026-11-21 10:00\", 2026-11-21T10:00:00Z")
      ->excludes(path);
  command->add_option("--to", options->to, "With a byte that came at or before")->excludes(path);
  command->callback([options, &action] { action = [options] { return find(*options); }; });
}

}  // namespace reelfs::admin
