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

std::uint64_t ago_ms(std::int64_t since_ns) {
  const auto now = SystemClock().wall().time_since_epoch().count();
  return now > since_ns ? static_cast<std::uint64_t>(now - since_ns) / 1'000'000 : 0;
}

json describe(const wire::CompactionStatus& compaction) {
  return {{"rate", compaction.rate()},
          {"mostly_dead_segments", compaction.mostly_dead_segments()},
          {"dead_bytes", compaction.dead_bytes()},
          {"moving_segment", compaction.moving_segment()},
          {"moved_bytes", compaction.moved_bytes()},
          {"to_move_bytes", compaction.to_move_bytes()},
          {"freed_segments", compaction.freed_segments()},
          {"copied_bytes", compaction.copied_bytes()},
          {"waits_for", compaction.waits_for()}};
}

json describe(const wire::ClusterStatusReply& status) {
  json sessions = json::array();
  for (const auto& session : status.sessions()) {
    sessions.push_back({{"session", session.session()},
                        {"host", session.host()},
                        {"pid", session.pid()},
                        {"purpose", session.purpose()},
                        {"silent_ms", session.silent_ms()},
                        {"open_inodes", session.open_inodes()}});
  }
  json problems = json::array();
  for (const auto& problem : status.problems()) {
    problems.push_back(
        {{"what", problem.what()}, {"advice", problem.advice()}, {"since_ns", problem.since_ns()}});
  }
  const auto cluster = Uuid::from_bytes(status.cluster());
  return {{"cluster", cluster.has_value() ? cluster.value().to_string() : ""},
          {"healthy", status.problems().empty()},
          {"problems", problems},
          {"index",
           {{"pid", status.pid()},
            {"epoch", status.epoch()},
            {"journal_index", status.journal_index()},
            {"journal_synced_index", status.journal_synced_index()}}},
          {"total_bytes", status.total_bytes()},
          {"free_bytes", status.free_bytes()},
          {"files", status.files()},
          {"segments", status.segments()},
          {"compaction", describe(status.compaction())},
          {"repair", describe_repair(status.repair())},
          {"sessions", sessions}};
}

/// What is mostly dead, and what is being done about it; empty where there is nothing to tell.
std::string compaction_line(const wire::CompactionStatus& compaction) {
  if (compaction.mostly_dead_segments() == 0 && compaction.moving_segment() == 0) return {};
  auto line = fmt::format("compact   {} segments mostly dead, {} of them empty",
                          compaction.mostly_dead_segments(), human_bytes(compaction.dead_bytes()));
  if (compaction.rate() == 0) return line + "; off";
  if (!compaction.waits_for().empty()) return line + "; waits for " + compaction.waits_for();
  if (compaction.moving_segment() != 0) {
    line += fmt::format("; moving what lives in segment {}, {} of {}", compaction.moving_segment(),
                        human_bytes(compaction.moved_bytes()), human_bytes(compaction.to_move_bytes()));
  }
  return line;
}

void print(const wire::ClusterStatusReply& status, const wire::ListNodesReply& nodes) {
  if (status.problems().empty()) {
    std::cout << "healthy\n";
  } else {
    std::cout << status.problems_size() << (status.problems_size() == 1 ? " problem\n" : " problems\n");
  }
  for (const auto& problem : status.problems()) {
    std::cout << "  " << problem.what() << ", for " << human_time(ago_ms(problem.since_ns())) << "\n";
    if (!problem.advice().empty()) std::cout << "    " << problem.advice() << "\n";
  }
  std::cout << fmt::format("\nspace     {} free of {}, net of copies\n", human_bytes(status.free_bytes()),
                           human_bytes(status.total_bytes()))
            << fmt::format("stored    {} files, {} segments\n", status.files(), status.segments())
            << fmt::format(
                   "index     active, pid {}, epoch {}, journal at {} ({} not yet synced)\n", status.pid(),
                   status.epoch(), status.journal_index(),
                   status.journal_index() - std::min(status.journal_synced_index(), status.journal_index()));
  if (const auto line = compaction_line(status.compaction()); !line.empty()) std::cout << line << '\n';
  if (const auto line = repair_line(status.repair()); !line.empty()) std::cout << line << '\n';
  std::uint64_t online = 0;
  for (const auto& node : nodes.nodes()) online += node.state() == wire::STATE_ONLINE;
  std::cout << fmt::format("nodes     {} of {} online\n", online, nodes.nodes_size());
  if (status.sessions().empty()) return;
  std::cout << '\n';
  Table table({"CLIENT", "HOST", "PID", "OPEN FILES", "LAST HEARD"});
  for (const auto& session : status.sessions()) {
    table.add({session.purpose(), session.host(), std::to_string(session.pid()),
               std::to_string(session.open_inodes()), human_time(session.silent_ms()) + " ago"});
  }
  table.print(std::cout);
}

Result<void> status(const ClusterOptions& options) {
  REELFS_TRY(auto connection, options.connect());
  REELFS_TRY(auto status, connection->call<wire::ClusterStatusReply>(wire::Method::cluster_status,
                                                                     wire::ClusterStatusRequest{}));
  REELFS_TRY(auto nodes, connection->list_nodes());
  if (!options.json) {
    print(status, nodes);
    return ok();
  }
  auto answer = describe(status);
  answer["nodes"] = json::array();
  for (const auto& node : nodes.nodes()) answer["nodes"].push_back(describe_node(node));
  print_json(answer);
  return ok();
}

}  // namespace

void add_status(CLI::App& app, Action& action) {
  add_query(app, "status", "Cluster health at a glance: what is degraded, why, and since when", status,
            action);
}

}  // namespace reelfs::admin
