#include <algorithm>
#include <chrono>
#include <iostream>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>
#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "admin/command.h"
#include "admin/output.h"
#include "admin/render.h"
#include "common/wire/index.pb.h"
#include "common/wire/node.pb.h"

namespace reelfs::admin {
namespace {

using namespace std::chrono_literals;
using nlohmann::json;

constexpr auto kAnswerLimit = 5s;     // of one worker, before the next is asked
constexpr auto kCheckLimit = 60s;     // the same, where it has to read the devices' tables
constexpr int kUnfilledPrinted = 16;  // people are told how many more there are

struct ShowOptions {
  ClusterOptions cluster;
  std::string name;
  bool check = false;
};

Result<wire::NodeInfo> find_node(Connection& connection, const std::string& name) {
  REELFS_TRY(const auto reply, connection.list_nodes());
  for (const auto& node : reply.nodes()) {
    if (node.name() == name) return node;
  }
  return Error(Errc::not_found, fmt::format("no node {}: `reelctl node list` lists them", name));
}

/// Those that the index hears of first; the others all the same, since it may be the index that does not
/// hear.
std::vector<wire::WorkerInfo> in_order_of_hope(const wire::NodeInfo& node) {
  std::vector<wire::WorkerInfo> workers(node.workers().begin(), node.workers().end());
  std::stable_sort(workers.begin(), workers.end(), [](const auto& a, const auto& b) {
    const auto rank = [](const auto& worker) {
      return worker.state() == wire::STATE_ONLINE ? 0 : worker.state() == wire::STATE_SUSPECT ? 1 : 2;
    };
    return rank(a) < rank(b);
  });
  return workers;
}

Result<wire::DescribeNodeReply> ask_workers(Connection& connection, const wire::NodeInfo& node, bool check) {
  wire::DescribeNodeRequest request;
  request.set_check(check);
  std::string refusals;
  for (const auto& worker : in_order_of_hope(node)) {
    auto reply = connection.call_worker<wire::DescribeNodeReply>(
        worker.endpoint(), wire::Method::describe_node, request, check ? kCheckLimit : kAnswerLimit);
    if (reply && reply.value().node_name() == node.name()) return reply;
    const auto why = reply ? "it is another node's now" : reply.error().describe();
    refusals +=
        fmt::format("\n  worker {} at {}: {}", worker.worker(), endpoint_text(worker.endpoint()), why);
  }
  return Error(Errc::unavailable,
               fmt::format("no worker process of {} answers; start noded there, or look at its log{}",
                           node.name(), refusals));
}

json describe(const wire::DeviceDescription& device) {
  const auto uuid = Uuid::from_bytes(device.uuid());
  return {{"device", device.device()},
          {"uuid", uuid ? uuid.value().to_string() : ""},
          {"path", device.path()},
          {"state", state_name(device.state())},
          {"reason", device.reason()},
          {"block_bytes", device.block_bytes()},
          {"blocks", device.free_blocks() + device.open_blocks() + device.unfilled_blocks() +
                         device.sealed_blocks() + device.freeing_blocks()},
          {"free_blocks", device.free_blocks()},
          {"open_blocks", device.open_blocks()},
          {"unfilled_blocks", device.unfilled_blocks()},
          {"sealed_blocks", device.sealed_blocks()},
          {"freeing_blocks", device.freeing_blocks()},
          {"appends_in_flight", device.appends_in_flight()},
          {"dirty_pages", device.dirty_pages()},
          {"repairs", device.repairs()}};
}

json describe(const wire::ProcessDescription& process) {
  json blocks = json::array();
  for (const auto& block : process.blocks()) {
    blocks.push_back({{"device", block.device()},
                      {"block", block.block()},
                      {"segment", block.segment()},
                      {"appends_in_flight", block.appends_in_flight()}});
  }
  return {{"worker", process.worker()},
          {"pid", process.pid()},
          {"leader", process.leader()},
          {"alive", process.alive()},
          {"started_ns", process.started_ns()},
          {"owned_blocks", process.owned_blocks()},
          {"claimed_pages", process.claimed_pages()},
          {"appends_in_flight", process.appends_in_flight()},
          {"blocks", blocks}};
}

/// What the node says, and of each part what only the index knows.
json describe(const wire::NodeInfo& known, const wire::DescribeNodeReply& told) {
  json devices = json::array();
  for (const auto& device : told.devices()) devices.push_back(describe(device));
  for (const auto& device : known.devices()) {
    const bool shown = std::any_of(devices.begin(), devices.end(),
                                   [&](const json& one) { return one["path"] == device.path(); });
    if (shown) continue;
    wire::DeviceDescription absent;  // from the shared memory: it is not in use
    absent.set_device(device.device());
    absent.set_uuid(device.uuid());
    absent.set_path(device.path());
    absent.set_state(device.state());
    absent.set_reason(device.reason());
    absent.set_block_bytes(device.block_bytes());
    devices.push_back(describe(absent));
  }
  json processes = json::array();
  for (const auto& process : told.processes()) processes.push_back(describe(process));
  for (const auto& worker : known.workers()) {
    auto shown = std::find_if(processes.begin(), processes.end(),
                              [&](const json& one) { return one["worker"] == worker.worker(); });
    if (shown == processes.end()) {
      wire::ProcessDescription absent;
      absent.set_worker(worker.worker());
      absent.set_pid(worker.pid());
      shown = processes.insert(processes.end(), describe(absent));
    }
    (*shown)["endpoint"] = endpoint_text(worker.endpoint());
    (*shown)["state"] = state_name(worker.state());
  }
  for (auto& process : processes) {
    if (process.contains("state")) continue;  // the index has not heard of it yet
    process["endpoint"] = "";
    process["state"] = state_name(wire::STATE_UNKNOWN);
  }
  std::sort(processes.begin(), processes.end(),
            [](const json& a, const json& b) { return a["worker"] < b["worker"]; });
  json unfilled = json::array();
  for (const auto& block : told.unfilled()) {
    unfilled.push_back({{"device", block.device()},
                        {"block", block.block()},
                        {"segment", block.segment()},
                        {"length", block.length()}});
  }
  const auto incarnation = Uuid::from_bytes(told.incarnation());
  return {{"name", known.name()},
          {"node", known.node()},
          {"rack", known.rack()},
          {"state", state_name(known.state())},
          {"incarnation", incarnation ? incarnation.value().to_string() : ""},
          {"epoch", told.epoch()},
          {"answered_by", told.worker()},
          {"devices", devices},
          {"processes", processes},
          {"unfilled", unfilled},
          {"unfilled_entries", told.unfilled_entries()},
          {"faults", std::vector<std::string>(told.faults().begin(), told.faults().end())}};
}

std::string number(const json& value) { return std::to_string(value.get<std::uint64_t>()); }

std::string age(std::int64_t started_ns) {
  const auto now = SystemClock().wall().time_since_epoch().count();
  if (started_ns == 0 || now < started_ns) return "-";
  return human_time(static_cast<std::uint64_t>(now - started_ns) / 1'000'000);
}

void print(const json& node) {
  const auto text = [](const json& value) { return value.get<std::string>(); };
  const auto rack = text(node["rack"]);
  std::cout << fmt::format("{}  node {}{}, {}, epoch {}, shared memory {}, as worker {} sees it\n\n",
                           text(node["name"]), number(node["node"]), rack.empty() ? "" : ", rack " + rack,
                           text(node["state"]), number(node["epoch"]), text(node["incarnation"]),
                           number(node["answered_by"]));
  Table devices({"DEVICE", "PATH", "STATE", "SIZE", "BLOCKS", "FREE", "OPEN", "UNFILLED", "SEALED", "FREEING",
                 "APPENDS", "WHY"});
  for (const auto& device : node["devices"]) {
    const auto size = device["blocks"].get<std::uint64_t>() * device["block_bytes"].get<std::uint64_t>();
    devices.add({number(device["device"]), text(device["path"]), text(device["state"]), human_bytes(size),
                 number(device["blocks"]), number(device["free_blocks"]), number(device["open_blocks"]),
                 number(device["unfilled_blocks"]), number(device["sealed_blocks"]),
                 number(device["freeing_blocks"]), number(device["appends_in_flight"]),
                 text(device["reason"])});
  }
  devices.print(std::cout);
  std::cout << '\n';
  Table processes({"WORKER", "PID", "ROLE", "STATE", "ENDPOINT", "RUNS FOR", "BLOCKS", "PAGES", "APPENDS"});
  for (const auto& process : node["processes"]) {
    const bool alive = process["alive"].get<bool>();
    const auto role = process["leader"].get<bool>() ? "leader" : "follower";
    processes.add({number(process["worker"]), number(process["pid"]), alive ? role : "-",
                   alive ? text(process["state"]) : "dead", text(process["endpoint"]),
                   alive ? age(process["started_ns"].get<std::int64_t>()) : "-",
                   number(process["owned_blocks"]), number(process["claimed_pages"]),
                   number(process["appends_in_flight"])});
  }
  processes.print(std::cout);
  const auto entries = node["unfilled_entries"].get<std::uint64_t>();
  if (entries == 0) return;
  std::cout << fmt::format("\nunfilled-block table, {} {}\n", entries, entries == 1 ? "block" : "blocks");
  Table unfilled({"DEVICE", "BLOCK", "SEGMENT", "LENGTH"});
  std::uint64_t printed = 0;
  for (const auto& block : node["unfilled"]) {
    if (printed == kUnfilledPrinted) break;
    ++printed;
    unfilled.add({number(block["device"]), number(block["block"]), number(block["segment"]),
                  human_bytes(block["length"].get<std::uint64_t>())});
  }
  unfilled.print(std::cout);
  if (entries > printed) std::cout << fmt::format("and {} more\n", entries - printed);
}

Result<void> show(const ShowOptions& options) {
  REELFS_TRY(auto connection, options.cluster.connect());
  REELFS_TRY(const auto known, find_node(*connection, options.name));
  REELFS_TRY(const auto told, ask_workers(*connection, known, options.check));
  const auto node = describe(known, told);
  if (options.cluster.json) {
    print_json(node);
  } else {
    print(node);
  }
  if (told.faults().empty()) return ok();
  std::string faults;
  for (const auto& fault : told.faults()) faults += "\n  " + fault;
  return Error(Errc::corrupt,
               fmt::format("the shared memory of {} is not sound: restart all its workers, which "
                           "makes it anew from the devices{}",
                           options.name, faults));
}

}  // namespace

void add_node_show(CLI::App& node, Action& action) {
  auto* command = node.add_subcommand(
      "show", "A node as its shared memory has it: blocks per device, worker processes, unfilled blocks");
  auto options = std::make_shared<ShowOptions>();
  command->add_option("name", options->name, "The node's name")->required();
  command->add_flag("--check", options->check,
                    "Also look for what must never be, and compare the descriptor tables on the devices");
  options->cluster.add_to(*command);
  command->callback([options, &action] { action = [options] { return show(*options); }; });
}

}  // namespace reelfs::admin
