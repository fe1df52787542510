#include <algorithm>
#include <iostream>
#include <memory>

#include <CLI/CLI.hpp>
#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "admin/box/supervisor.h"
#include "admin/command.h"
#include "admin/output.h"

namespace reelfs::admin {
namespace {

using nlohmann::json;

struct StatusOptions {
  std::string directory;
  bool json = false;
};

const char* to_string(Role role) {
  switch (role) {
    case Role::index:
      return "index";
    case Role::worker:
      return "node";
    case Role::mount:
      return "mount";
  }
  return "unknown";
}

json describe(const ProcessReport& report) {
  const auto& process = report.process;
  json one = {{"name", process.name},  {"role", to_string(process.role)},
              {"node", nullptr},       {"worker", nullptr},
              {"pid", nullptr},        {"endpoints", report.endpoints},
              {"state", report.state}, {"log", process.log.string()}};
  if (process.role == Role::worker) {
    one["node"] = process.node;
    one["worker"] = process.worker;
  }
  if (report.running) one["pid"] = report.running->pid;
  return one;
}

void print_table(const std::vector<ProcessReport>& reports) {
  Table table({"NAME", "ROLE", "NODE", "WORKER", "PID", "STATE", "ENDPOINT"});
  for (const auto& report : reports) {
    const auto& process = report.process;
    const bool worker = process.role == Role::worker;
    table.add({process.name, to_string(process.role), worker ? process.node : "-",
               worker ? std::to_string(process.worker) : "-",
               report.running ? std::to_string(report.running->pid) : "-", report.state,
               fmt::format("{}", fmt::join(report.endpoints, " "))});
  }
  table.print(std::cout);
}

std::vector<ProcessReport> report(const Box& box) {
  return Supervisor(box, [](const std::string&) {}).report();
}

Result<void> status(const StatusOptions& options) {
  REELFS_TRY(auto box, Box::load(absolute_path(options.directory), program_directory()));
  if (options.json) {
    print_box(box);
    return ok();
  }
  const auto reports = report(box);
  print_table(reports);
  const auto is_down = [](const ProcessReport& report) { return !report.running; };
  if (std::any_of(reports.begin(), reports.end(), is_down)) {
    std::cout << "\n`reelctl box start --dir " << box.directory().string() << "` starts what has stopped.\n";
  }
  return ok();
}

}  // namespace

void print_box(const Box& box) {
  json processes = json::array();
  for (const auto& one : report(box)) processes.push_back(describe(one));
  print_json({{"dir", box.directory().string()},
              {"cluster", box.cluster().to_string()},
              {"cluster_file", box.cluster_file().string()},
              {"mount", box.options().mount.empty() ? json(nullptr) : json(box.options().mount.string())},
              {"processes", processes}});
}

std::ostream& progress(bool json) { return json ? std::cerr : std::cout; }

void add_box_status(CLI::App& box, Action& action) {
  auto* command = box.add_subcommand("status", "Each process: role, node, worker, pid, endpoints, state");
  auto options = std::make_shared<StatusOptions>();
  command->add_option("--dir", options->directory, "Directory of the box")->required()->check(check_path);
  command->add_flag("--json", options->json, "Answer in JSON");
  command->callback([options, &action] { action = [options] { return status(*options); }; });
}

}  // namespace reelfs::admin
