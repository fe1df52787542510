#include <chrono>
#include <iostream>
#include <thread>

#include <CLI/CLI.hpp>
#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <unistd.h>

#include "admin/command.h"
#include "admin/output.h"
#include "admin/time_text.h"
#include "common/wire/index.pb.h"
#include "common/wire/rebuild.pb.h"

namespace reelfs::admin {
namespace {

using nlohmann::json;
using wire::RebuildReport;

constexpr auto kPollInterval = std::chrono::milliseconds(200);
/// The index server opens its store anew in between and answers nothing meanwhile: a minute for each 10 GB of
/// log.
constexpr auto kSilencePatience = std::chrono::minutes(10);

struct RebuildOptions {
  ClusterOptions cluster;
  std::vector<std::string> without;
};

const char* state_word(RebuildReport::State state) {
  switch (state) {
    case RebuildReport::COLLECTING:
      return "collecting";
    case RebuildReport::FAILED:
      return "failed";
    case RebuildReport::DONE:
      return "done";
    default:
      return "never";
  }
}

json describe(const RebuildReport& report) {
  json lost = json::array();
  for (const auto& file : report.lost_files())
    lost.push_back({{"inode", file.inode()}, {"path", file.path()}, {"bytes", file.bytes()}});
  return {{"state", state_word(report.state())},
          {"error", report.error()},
          {"began_ns", report.began_ns()},
          {"ended_ns", report.ended_ns()},
          {"log_segments", report.log_segments()},
          {"log_bytes", report.log_bytes()},
          {"checkpoint_epoch", report.checkpoint_epoch()},
          {"checkpoint_index", report.checkpoint_index()},
          {"last_epoch", report.last_epoch()},
          {"last_index", report.last_index()},
          {"entries", report.entries()},
          {"rows", report.rows()},
          {"without_nodes",
           json(std::vector<std::string>(report.without_nodes().begin(), report.without_nodes().end()))},
          {"adopted_segments", report.adopted_segments()},
          {"fenced_segments", report.fenced_segments()},
          {"lost_segments", report.lost_segments()},
          {"lost_file_count", report.lost_file_count()},
          {"lost_files", lost}};
}

json describe(const wire::IndexStatusReply& status) {
  const auto cluster = Uuid::from_bytes(status.cluster());
  const auto& log = status.log();
  return {{"cluster", cluster ? cluster.value().to_string() : ""},
          {"pid", status.pid()},
          {"epoch", status.epoch()},
          {"journal_index", status.journal_index()},
          {"journal_synced_index", status.journal_synced_index()},
          {"withheld", status.withheld()},
          {"nodes",
           {{"copies", log.copies()},
            {"stored_index", log.stored_index()},
            {"behind", log.behind()},
            {"behind_since_ns", log.behind_since_ns()},
            {"why", log.why()},
            {"segments", log.segments()},
            {"log_bytes", log.log_bytes()},
            {"checkpoint_index", log.checkpoint_index()},
            {"checkpoint_bytes", log.checkpoint_bytes()},
            {"checkpoint_at_ns", log.checkpoint_at_ns()},
            {"checkpointing", log.checkpointing()},
            {"switches", log.switches()},
            {"unwaited", log.unwaited()}}},
          {"rebuild", describe(status.rebuild())}};
}

void print(const RebuildReport& report) {
  switch (report.state()) {
    case RebuildReport::COLLECTING:
      std::cout << fmt::format("rebuild   reading the journal from the nodes: {} segments, {} so far\n",
                               report.log_segments(), human_bytes(report.log_bytes()));
      return;
    case RebuildReport::FAILED:
      std::cout << "rebuild   failed, nothing was changed: " << report.error() << '\n';
      return;
    case RebuildReport::DONE:
      break;
    default:
      return;
  }
  const auto took_ms = static_cast<std::uint64_t>(report.ended_ns() - report.began_ns()) / 1'000'000;
  std::cout << fmt::format(
      "rebuilt   {}, in {} s: {} rows, of the checkpoint at entry {} and {} entries behind it, up to {}\n",
      time_text(report.ended_ns()), fmt::format("{:.1f}", static_cast<double>(took_ms) / 1000), report.rows(),
      report.checkpoint_index(), report.entries(), report.last_index());
  for (const auto& name : report.without_nodes()) std::cout << "          without node " << name << '\n';
  if (report.adopted_segments() + report.fenced_segments() > 0) {
    std::cout << fmt::format(
        "          {} segments were begun and {} went on after the last entry: what recorders had placed "
        "there is "
        "committed\n",
        report.adopted_segments(), report.fenced_segments());
  }
  if (report.lost_segments() == 0) {
    std::cout << "          every segment with recordings is there\n";
    return;
  }
  std::cout << fmt::format("          {} segments are on no node; they held parts of {} files:\n",
                           report.lost_segments(), report.lost_file_count());
  for (const auto& file : report.lost_files()) {
    std::cout << fmt::format("            {}  {}\n", human_bytes(file.bytes()),
                             file.path().empty() ? fmt::format("inode {}", file.inode()) : file.path());
  }
}

void print(const wire::IndexStatusReply& status) {
  const auto& log = status.log();
  std::cout << fmt::format("index     pid {}, epoch {}, entry {}, {} of them on its own disk\n", status.pid(),
                           status.epoch(), status.journal_index(), status.journal_synced_index());
  if (!status.withheld().empty()) std::cout << "          serves no mounts: " << status.withheld() << '\n';
  if (log.copies() == 0) {
    std::cout << "nodes     do not store the journal: journal_copies is 0\n";
  } else {
    std::cout << fmt::format("nodes     have {}, in {} segments", log.stored_index(), log.segments());
    if (log.checkpoint_index() != 0) {
      std::cout << fmt::format(": a checkpoint of {} at entry {}, {} of journal behind it",
                               human_bytes(log.checkpoint_bytes()), log.checkpoint_index(),
                               human_bytes(log.log_bytes()));
    }
    std::cout << (log.checkpointing() ? "; another checkpoint is being stored\n" : "\n");
    if (log.behind())
      std::cout << "          BEHIND since " << time_text(log.behind_since_ns()) << ": " << log.why() << '\n';
    if (log.switches() > 0) {
      std::cout << fmt::format(
          "          {} times since its start a copy failed, and another segment was taken\n",
          log.switches());
    }
  }
  print(status.rebuild());
}

Result<wire::IndexStatusReply> ask(Connection& connection) {
  return connection.call<wire::IndexStatusReply>(wire::Method::index_status, wire::IndexStatusRequest{});
}

Result<void> status(const ClusterOptions& options) {
  REELFS_TRY(auto connection, options.connect());
  REELFS_TRY(const auto reply, ask(*connection));
  if (options.json) {
    print_json(describe(reply));
  } else {
    print(reply);
  }
  return ok();
}

/// Polls until the rebuild has ended.
Result<wire::IndexStatusReply> follow(Connection& connection, const RebuildOptions& options) {
  const bool shows = !options.cluster.json && isatty(STDOUT_FILENO) != 0;
  auto answered = std::chrono::steady_clock::now();
  for (;;) {
    std::this_thread::sleep_for(kPollInterval);
    const auto now = std::chrono::steady_clock::now();
    auto reply = ask(connection);
    if (!reply) {
      if (now - answered > kSilencePatience)
        return std::move(reply).error().within("the index server does not come back, its log tells why");
      continue;
    }
    answered = now;
    const auto& report = reply.value().rebuild();
    if (report.state() != RebuildReport::COLLECTING) {
      if (shows) std::cout << '\n';
      return reply;
    }
    if (shows) {
      std::cout << fmt::format("\rreading the journal from the nodes: {} segments, {}   ",
                               report.log_segments(), human_bytes(report.log_bytes()))
                << std::flush;
    }
  }
}

Result<void> rebuild(const RebuildOptions& options) {
  REELFS_TRY(auto connection, options.cluster.connect());
  wire::RebuildIndexRequest request;
  for (const auto& name : options.without) request.add_without(name);
  REELFS_TRY(connection->call<wire::RebuildIndexReply>(wire::Method::rebuild_index, std::move(request)));
  REELFS_TRY(const auto reply, follow(*connection, options));
  const auto& report = reply.rebuild();
  if (report.state() != RebuildReport::DONE) {
    return Error(Errc::unavailable,
                 report.error().empty() ? "the index server has begun anew: try again" : report.error());
  }
  if (options.cluster.json) {
    print_json(describe(report));
  } else {
    print(report);
  }
  return ok();
}

}  // namespace

void add_index(CLI::App& app, Action& action) {
  auto* index =
      app.add_subcommand("index", "The index server's journal, and how the index is made again of the nodes");
  index->require_subcommand(1);
  add_query(*index, "status",
            "How far the journal is stored, here and on the nodes, and what the last rebuild did", status,
            action);
  auto* command = index->add_subcommand(
      "rebuild", "Make the index again from the nodes, on an index server whose data_dir is empty");
  auto options = std::make_shared<RebuildOptions>();
  options->cluster.add_to(*command);
  command->add_option("--without", options->without, "A node that need not be there (repeatable)");
  command->callback([options, &action] { action = [options] { return rebuild(*options); }; });
}

}  // namespace reelfs::admin
