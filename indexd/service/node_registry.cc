#include "indexd/service/node_registry.h"

#include <algorithm>
#include <array>
#include <iterator>
#include <optional>
#include <utility>

#include <boost/asio/io_context.hpp>
#include <fmt/format.h>

#include "common/async/event.h"
#include "common/async/timeout.h"
#include "common/observe/log.h"
#include "indexd/journal/executor.h"

namespace reelfs::indexd {

namespace {

constexpr std::uint32_t kMaxWorkers = 1024;
constexpr std::size_t kMaxNodeName = 255;
constexpr auto kKnownLimit = std::chrono::seconds(3);  // several heartbeats
constexpr auto kKnownPause = std::chrono::milliseconds(20);
constexpr std::array kPunctualFirst{false, true};  // whether late ones are asked
constexpr auto kWatchInterval = std::chrono::milliseconds(250);

spdlog::logger& log() {
  static auto& instance = logger("indexd.nodes");
  return instance;
}

constexpr int kMaxEndpoints = 16;  // of a worker

Result<void> check_status(const wire::WorkerStatus& status) {
  if (status.worker() == 0 || status.worker() > kMaxWorkers)
    return Error(Errc::invalid, "worker number out of range");
  const auto endpoint = rpc::Endpoint::from(status.endpoint());
  const auto is_none = [](const rpc::Endpoint& one) { return one.host.empty() || one.port == 0; };
  if (is_none(endpoint) || std::any_of(endpoint.others.begin(), endpoint.others.end(), is_none))
    return Error(Errc::invalid, "worker without an external port");
  if (status.endpoint().others_size() >= kMaxEndpoints)
    return Error(Errc::invalid, "worker with too many addresses");
  return ok();
}

bool is_full(const wire::DeviceInfo& device) {
  return device.state() == wire::STATE_ONLINE && device.free_blocks() == 0;
}

/// Whether an error is the node's answer to a command, and not one worker's that did not reach its leader.
bool speaks_for_node(Errc code, bool leads) {
  switch (code) {
    case Errc::unavailable:
    case Errc::timed_out:
    case Errc::cancelled:
      return false;
    case Errc::busy:  // of others: they know no leader yet
      return leads;
    default:
      return true;
  }
}

/// Sets it for a scope, however that ends.
class Marked {
 public:
  explicit Marked(bool& flag) : flag_(flag) { flag_ = true; }
  ~Marked() { flag_ = false; }
  Marked(const Marked&) = delete;
  Marked& operator=(const Marked&) = delete;

 private:
  bool& flag_;
};

const char* word_for(wire::State state) {
  switch (state) {
    case wire::STATE_ONLINE:
      return "online";
    case wire::STATE_OFFLINE:
      return "offline";
    case wire::STATE_BLANK:
      return "blank";
    case wire::STATE_FOREIGN:
      return "foreign";
    case wire::STATE_FAILED:
      return "failed";
    case wire::STATE_REMOVED:
      return "removed";
    default:
      return "unknown";
  }
}

}  // namespace

std::uint64_t segments_that_fit(const std::vector<std::uint64_t>& blocks_of_nodes, std::uint32_t copies) {
  std::uint64_t total = 0;
  for (const auto blocks : blocks_of_nodes) total += blocks;
  std::uint64_t low = 0, high = total / copies;
  while (low < high) {
    const auto middle = low + (high - low + 1) / 2;
    std::uint64_t usable = 0;
    for (const auto blocks : blocks_of_nodes) usable += std::min(blocks, middle);
    if (usable >= middle * copies) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  return low;
}

bool NodeRegistry::Node::online() const {
  return std::any_of(workers.begin(), workers.end(), [](const auto& entry) { return entry.second.online; });
}

NodeRegistry::NodeRegistry(asio::io_context& context, const Clock& clock, Executor& executor,
                           const ServiceOptions& options, rpc::ClientOptions client_options)
    : context_(context),
      clock_(clock),
      executor_(executor),
      options_(options),
      client_options_(std::move(client_options)),
      group_(context.get_executor()),
      started_(clock.wall()) {}

NodeRegistry::~NodeRegistry() = default;

Task<void> NodeRegistry::start() {
  auto load = [this](const View& view) -> Result<void> {
    REELFS_TRY(view.scan_table<NodeKey>([this](NodeKey key, NodeRow row) {
      auto& node = nodes_[key.node];
      node.row = std::move(row);
      node.changed = clock_.wall();
      return true;
    }));
    return view.scan_table<DeviceKey>([this](DeviceKey key, DeviceRow row) {
      devices_[key.device] = std::move(row);
      return true;
    });
  };
  REELFS_CO_TRY(co_await executor_.read(std::move(load)));
  watched_ = clock_.now();
  group_.spawn(watch());
  co_return ok();
}

asio::awaitable<void> NodeRegistry::stop() {
  std::vector<std::shared_ptr<rpc::Client>> clients;
  for (auto& [id, node] : nodes_) {
    for (auto& [worker_id, worker] : node.workers) {
      if (worker.client) clients.push_back(std::move(worker.client));
      worker.online = false;
    }
  }
  for (const auto& client : clients) co_await client->stop();
  co_await group_.stop();
}

void NodeRegistry::on_node_returned(std::function<void(NodeId)> callback) {
  node_returned_ = std::move(callback);
}

void NodeRegistry::on_changed(std::function<void()> callback) { changed_ = std::move(callback); }

// ---- what workers say

Result<void> NodeRegistry::check_cluster(const std::string& raw) const {
  if (raw.empty()) return ok();
  REELFS_TRY(const auto cluster, Uuid::from_bytes(raw));
  if (cluster == options_.cluster) return ok();
  return Error(Errc::bad_config, fmt::format("this index server is of cluster {}, the node of cluster {}",
                                             options_.cluster.to_string(), cluster.to_string()));
}

Task<NodeId> NodeRegistry::node_of(std::string name, std::string rack) {
  for (const auto& [id, node] : nodes_) {
    if (node.row.name == name && node.row.rack == rack) co_return id;
  }
  auto find_or_make = [name, rack](Transaction& txn) -> Result<NodeId> {
    NodeId found;
    NodeRow row{name, rack, NodeService::in_service};
    REELFS_TRY(txn.scan_table<NodeKey>([&](NodeKey key, const NodeRow& other) {
      if (other.name != row.name) return true;
      found = key.node;
      row.service = other.service;
      return false;
    }));
    if (!found) {
      REELFS_TRY(const auto number, txn.next(Counter::node));
      found = NodeId{static_cast<std::uint32_t>(number)};
    }
    txn.put(NodeKey{found}, row);
    return found;
  };
  REELFS_CO_TRY(const auto id, co_await executor_.run(std::move(find_or_make)));
  // A node told its number keeps it: its blocks bear it.
  REELFS_CO_TRY(co_await executor_.sync());
  auto& node = nodes_[id];
  node.row.name = name;
  node.row.rack = rack;
  node.changed = clock_.wall();
  log().info("node known node={} name={} rack=\"{}\"", id.value, name, rack);
  co_return id;
}

Task<wire::RegisterWorkerReply> NodeRegistry::register_worker(wire::RegisterWorkerRequest request,
                                                              std::uint64_t connection) {
  REELFS_CO_TRY(check_cluster(request.cluster()));
  REELFS_CO_TRY(check_status(request.status()));
  REELFS_CO_TRY(const auto incarnation, Uuid::from_bytes(request.incarnation()));
  if (request.node_name().empty() || request.node_name().size() > kMaxNodeName) {
    co_return Error(Errc::invalid, "a node's name has 1 to 255 bytes");
  }
  REELFS_CO_TRY(const auto id, co_await node_of(request.node_name(), request.rack()));
  if (removed(id)) {
    co_return Error(Errc::not_permitted,
                    fmt::format("node {} was removed: give it another name, and devices that are blank",
                                request.node_name()));
  }
  auto& node = nodes_[id];
  const WorkerId worker_id{request.status().worker()};
  auto& worker = node.workers[worker_id];
  const auto endpoint = rpc::Endpoint::from(request.status().endpoint());
  if (worker.client && worker.client->endpoint() != endpoint) group_.spawn(retire(std::move(worker.client)));
  if (!worker.client) {
    worker.client = std::make_shared<rpc::Client>(context_, clock_, endpoint, client_options_);
    worker.client->set_epoch(options_.epoch);
  }
  const bool new_life = worker.incarnation != incarnation;
  worker.incarnation = incarnation;
  if (new_life) {
    log().info("worker registered node={} worker={} endpoint={} pid={} leader={}", node.row.name,
               worker_id.value, endpoint.to_string(), request.status().pid(), request.status().leader());
  }
  if (request.status().leader()) ++node.reports.wanted;
  mark_heard(id, node, worker_id, worker, connection);
  take_status(id, node, worker, request.status());
  wire::RegisterWorkerReply reply;
  reply.set_cluster(options_.cluster.raw());
  reply.set_node(id.value);
  reply.set_epoch(options_.epoch.value);
  reply.set_block_bytes(options_.block_bytes);
  reply.set_heartbeat_ms(static_cast<std::uint32_t>(options_.heartbeat.count()));
  co_return reply;
}

wire::HeartbeatReply NodeRegistry::heartbeat(const wire::HeartbeatRequest& request,
                                             std::uint64_t connection) {
  wire::HeartbeatReply reply;
  reply.set_epoch(options_.epoch.value);
  const NodeId id{request.node()};
  const WorkerId worker_id{request.status().worker()};
  const auto node = nodes_.find(id);
  const bool known_node = node != nodes_.end() && !removed(id);
  const auto worker =
      known_node ? node->second.workers.find(worker_id) : std::map<WorkerId, Worker>::iterator{};
  const bool known = known_node && worker != node->second.workers.end() &&
                     worker->second.incarnation.raw() == request.incarnation() &&
                     check_status(request.status()) &&
                     worker->second.client->endpoint() == rpc::Endpoint::from(request.status().endpoint());
  if (!known) {
    reply.set_register_again(true);
    return reply;
  }
  const bool new_leader = request.status().leader() && !worker->second.status.leader();
  auto& reports = node->second.reports;
  if (new_leader) ++reports.wanted;
  mark_heard(id, node->second, worker_id, worker->second, connection);
  take_status(id, node->second, worker->second, request.status());
  if (request.status().leader() && reports.ended < reports.wanted) {
    reports.asked_for = reports.wanted;
    reply.set_report_blocks(true);
  }
  return reply;
}

void NodeRegistry::take_status(NodeId id, Node& node, Worker& worker, const wire::WorkerStatus& status) {
  if (status.leader()) {
    take_devices(id, node, status);
    for (auto& [other_id, other] : node.workers) other.status.set_leader(false);
  }
  worker.status = status;
  worker.status.clear_devices();
}

void NodeRegistry::take_devices(NodeId id, Node& node, const wire::WorkerStatus& status) {
  const auto before = std::exchange(node.devices, {});
  bool came_back = false;
  node.devices_told = true;
  node.taken = 0;
  std::set<std::string> withheld;
  for (const auto& told : status.devices()) {
    auto device = told;
    device.set_node(id.value);
    const bool serves = told.state() == wire::STATE_ONLINE;
    const auto* row = serves ? row_of(told) : nullptr;
    if (serves && row == nullptr && is_in_use_unrecorded(told)) {
      device.set_state(wire::STATE_FOREIGN);
      device.set_reason("it holds recordings that this index does not know");
      device.set_since_ns(0);
      withheld.insert(device.path());
    }
    const auto at = before.find(device.path());
    const auto* known = at == before.end() ? nullptr : &at->second;
    const bool news = known != nullptr && known->info.state() != device.state();
    const bool is_as_before = known != nullptr && !news && is_full(known->info) == is_full(device);
    const auto since = is_as_before ? known->since : clock_.wall();
    // The node knows better, where it says so.
    if (device.since_ns() == 0) {
      const bool is_older = known != nullptr && !news;
      device.set_since_ns(is_older ? known->info.since_ns() : since.time_since_epoch().count());
    }
    node.devices[device.path()] = {device, since};
    if (news) {
      log().info("device node={} path={} device={} state={} why=\"{}\"", node.row.name, device.path(),
                 device.device(), word_for(device.state()), device.reason());
    }
    const bool is_new = known == nullptr && !before.empty();
    const bool online = device.state() == wire::STATE_ONLINE;
    came_back = came_back || ((news || is_new) && online);
    const bool is_recorded =
        row != nullptr && row->node == id && row->path == device.path() && row->blocks == device.blocks();
    if (online && !is_recorded) {
      const auto uuid = Uuid::from_bytes(device.uuid());
      if (uuid && being_recorded_.insert(uuid.value()).second) group_.spawn(record_device(id, device));
    }
    if (device.state() == wire::STATE_BLANK && options_.adopt_blank_devices) {
      auto& adoption = adoptions_[{id, device.path()}];
      if (!adoption.under_way && clock_.now() >= adoption.not_before) {
        adoption.under_way = true;
        group_.spawn(adopt(id, device.path()));
      }
    }
  }
  for (const auto& path : withheld) {
    if (node.withheld.contains(path)) continue;
    log().error(
        "device withheld node={} path={} why=\"it holds recordings that this index does not know: is this "
        "the right data_dir?\"",
        node.row.name, path);
  }
  node.withheld = std::move(withheld);
  const bool is_other = std::any_of(node.devices.begin(), node.devices.end(), [&](const auto& entry) {
    const auto at = before.find(entry.first);
    return at == before.end() || at->second.info.state() != entry.second.info.state();
  });
  if (is_other && changed_) changed_();
  if (!came_back) return;
  ++node.reports.wanted;
  if (node_returned_) node_returned_(id);
}

bool NodeRegistry::is_in_use_unrecorded(const wire::DeviceInfo& device) const {
  if (device.free_blocks() >= device.blocks()) return false;
  const auto uuid = Uuid::from_bytes(device.uuid());
  return !uuid || !being_recorded_.contains(uuid.value());
}

bool NodeRegistry::withholds(NodeId node) const {
  const auto found = nodes_.find(node);
  return found != nodes_.end() && !found->second.withheld.empty();
}

bool NodeRegistry::withholds_any() const {
  return std::any_of(nodes_.begin(), nodes_.end(),
                     [](const auto& entry) { return !entry.second.withheld.empty(); });
}

bool NodeRegistry::any_devices_told() const {
  return std::any_of(nodes_.begin(), nodes_.end(),
                     [](const auto& entry) { return entry.second.devices_told; });
}

void NodeRegistry::mark_heard(NodeId id, Node& node, WorkerId worker_id, Worker& worker,
                              std::uint64_t connection) {
  const bool returned = !node.online();
  worker.heard = clock_.now();
  worker.online = true;
  if (worker.connection != connection) {
    worker.connection = connection;
    by_connection_[connection].emplace_back(id, worker_id);
  }
  if (!returned) return;
  node.changed = clock_.wall();
  log().info("node online node={} worker={}", node.row.name, worker_id.value);
  if (node_returned_) node_returned_(id);
  if (changed_) changed_();
}

void NodeRegistry::mark_silent(NodeId id, Node& node, WorkerId worker_id, Worker& worker, const char* why) {
  if (!worker.online) return;
  worker.online = false;
  log().warn("worker silent node={} worker={} why=\"{}\"", node.row.name, worker_id.value, why);
  if (node.online()) return;
  node.changed = clock_.wall();
  log().warn("node offline node={} id={}", node.row.name, id.value);
  if (changed_) changed_();
}

void NodeRegistry::disconnected(std::uint64_t connection) {
  const auto found = by_connection_.find(connection);
  if (found == by_connection_.end()) return;
  for (const auto& [id, worker_id] : found->second) {
    auto& node = nodes_[id];
    const auto worker = node.workers.find(worker_id);
    if (worker == node.workers.end() || worker->second.connection != connection) continue;
    worker->second.connection = 0;
    mark_silent(id, node, worker_id, worker->second, "its connection ended");
  }
  by_connection_.erase(found);
}

asio::awaitable<void> NodeRegistry::watch() {
  for (;;) {
    co_await sleep_for(kWatchInterval);
    const auto now = clock_.now();
    // Where this process itself was stopped for a while, nobody's silence means anything.
    const bool slept = now - watched_ > options_.suspect_limit;
    watched_ = now;
    for (auto& [id, node] : nodes_) {
      for (auto& [worker_id, worker] : node.workers) {
        if (slept) worker.heard = now;
        if (now - worker.heard > options_.silence_limit)
          mark_silent(id, node, worker_id, worker, "no heartbeat");
      }
    }
  }
}

asio::awaitable<void> NodeRegistry::retire(std::shared_ptr<rpc::Client> client) { co_await client->stop(); }

void NodeRegistry::blocks_reported(NodeId node, bool first_part, bool last_part) {
  const auto found = nodes_.find(node);
  if (found == nodes_.end()) return;
  auto& reports = found->second.reports;
  // It was listed after it was asked for: what was wanted later may not be in it.
  if (first_part) reports.begun = reports.asked_for;
  if (last_part) reports.ended = reports.begun;
}

void NodeRegistry::want_block_report(NodeId node) {
  const auto found = nodes_.find(node);
  if (found != nodes_.end()) ++found->second.reports.wanted;
}

// ---- devices

const DeviceRow* NodeRegistry::row_of(const wire::DeviceInfo& device) const {
  const auto found = devices_.find(DeviceId{device.device()});
  return found != devices_.end() && found->second.uuid.raw() == device.uuid() ? &found->second : nullptr;
}

asio::awaitable<void> NodeRegistry::record_device(NodeId node, wire::DeviceInfo device) {
  const DeviceId id{device.device()};
  const auto uuid = Uuid::from_bytes(device.uuid()).value();
  const DeviceRow row{uuid, node, device.path(), device.block_bytes(), device.blocks()};
  auto record = [id, row](Transaction& txn) -> Result<void> {
    if (!id) return Error(Errc::invalid, "an online device without a number");
    REELFS_TRY(const auto stored, txn.find(DeviceKey{id}));
    if (stored && stored->uuid != row.uuid)
      return Error(Errc::exists, "its number is that of another device");
    REELFS_TRY(const auto counter, txn.find(CounterKey{Counter::device}));
    if (!counter || counter->value < id.value) txn.put(CounterKey{Counter::device}, CounterRow{id.value});
    txn.put(DeviceKey{id}, row);
    return ok();
  };
  const auto recorded = co_await executor_.run(std::move(record));
  if (recorded) {
    devices_[id] = row;
    log().info("device known device={} node={} path={} blocks={}", id.value, name(node), row.path,
               row.blocks);
    being_recorded_.erase(uuid);
  } else {  // left in the set: said once, not at each heartbeat
    log().error("device refused device={} node={} path={} why=\"{}\"", id.value, name(node), row.path,
                recorded.error().describe());
  }
}

asio::awaitable<void> NodeRegistry::adopt(NodeId node, std::string path) {
  auto initialising = initialise(node, path);
  const auto result = co_await std::move(initialising);
  auto& adoption = adoptions_[{node, path}];
  adoption.under_way = false;
  adoption.not_before = clock_.now() + options_.adopt_retry;
  if (!result) {
    log().warn("device not initialised node={} path={} why=\"{}\"", name(node), path,
               result.error().describe());
  }
}

Task<void> NodeRegistry::initialise(NodeId node, std::string path) {
  auto number = [node, path, block_bytes = options_.block_bytes](
                    Transaction& txn) -> Result<std::pair<DeviceId, DeviceRow>> {
    std::optional<std::pair<DeviceId, DeviceRow>> found;
    REELFS_TRY(txn.scan_table<DeviceKey>([&](DeviceKey key, DeviceRow row) {
      // A number given before, to a device that was not seen since: the attempt is repeated.
      if (row.node == node && row.path == path && row.blocks == 0)
        found = std::pair(key.device, std::move(row));
      return !found;
    }));
    if (found) return std::move(*found);
    REELFS_TRY(const auto next, txn.next(Counter::device));
    const DeviceId id{static_cast<std::uint32_t>(next)};
    const DeviceRow row{Uuid::random(), node, path, block_bytes, 0};
    txn.put(DeviceKey{id}, row);
    return std::pair(id, row);
  };
  REELFS_CO_TRY(const auto device, co_await executor_.run(std::move(number)));
  REELFS_CO_TRY(co_await executor_.sync());
  const auto& [id, row] = device;
  devices_[id] = row;
  auto request = std::make_shared<wire::InitialiseDeviceRequest>();
  request->set_path(path);
  request->set_uuid(row.uuid.raw());
  request->set_device(id.value);
  request->set_cluster(options_.cluster.raw());
  request->set_block_bytes(row.block_bytes);
  const auto reply = co_await command(node, wire::Method::initialise_device, request);
  if (!reply) co_return reply.error();
  log().info("device initialised device={} node={} path={}", id.value, name(node), path);
  co_return ok();
}

/// What a node's workers answered to a command that was sent to several of them.
struct NodeRegistry::Command {
  std::size_t unanswered = 0;
  bool decided = false;
  std::optional<Result<rpc::Reply>> answer;  // the one that decides, or the first
  Event told;
};

asio::awaitable<void> NodeRegistry::send_command(std::shared_ptr<rpc::Client> client, bool leads,
                                                 wire::Method method,
                                                 std::shared_ptr<const google::protobuf::MessageLite> request,
                                                 Deadline limit, std::shared_ptr<Command> command) {
  auto reply = co_await client->call(method, *request, limit);
  --command->unanswered;
  if (!command->decided) {
    command->decided = reply || speaks_for_node(reply.error().code(), leads);
    if (command->decided || !command->answer) command->answer.emplace(std::move(reply));
  }
  command->told.set();
}

/// To the external ports of the node, at once: whichever of its workers is leader by then carries it out,
/// once. Its answer is the answer, whoever passes it on; nobody else is waited for. A worker that is late
/// with its heartbeats is asked only where no other answers for the node: it might carry the command out when
/// later ones have been given.
Task<rpc::Reply> NodeRegistry::command(NodeId node, wire::Method method,
                                       std::shared_ptr<const google::protobuf::MessageLite> request) {
  const auto limit =
      Deadline::after(clock_, std::chrono::seconds(30));  // a large device's table takes its time
  auto command = std::make_shared<Command>();
  for (const bool late : kPunctualFirst) {
    for (const auto& [worker_id, worker] : nodes_[node].workers) {
      if (!worker.online || !worker.client || suspect(worker) != late) continue;
      ++command->unanswered;
      group_.spawn(send_command(worker.client, worker.status.leader(), method, request, limit, command));
    }
    while (!command->decided && command->unanswered > 0) {
      const auto told = co_await with_timeout(clock_, limit, wait_for(command->told));
      if (told) continue;
      if (command->answer) break;
      co_return Error(told.error().code(), fmt::format("no worker of node {} answers", name(node)));
    }
    if (command->decided) break;
  }
  if (!command->answer) co_return Error(Errc::unavailable, fmt::format("node {} is offline", name(node)));
  co_return std::move(*command->answer);
}

/// Greater than any that this index server or one before it gave.
std::uint64_t NodeRegistry::next_command() { return options_.epoch.value << 32 | ++commands_given_; }

Task<wire::DeviceInfo> NodeRegistry::attach_device(NodeId node, std::string path) {
  auto request = std::make_shared<wire::AttachDeviceRequest>();
  request->set_path(path);
  request->set_cluster(options_.cluster.raw());
  request->set_block_bytes(options_.block_bytes);
  request->set_command(next_command());
  REELFS_CO_TRY(const auto reply, co_await command(node, wire::Method::attach_device, request));
  wire::AttachDeviceReply message;
  if (!message.ParseFromString(reply.message)) co_return Error(Errc::protocol, "reply does not parse");
  co_return message.device();
}

/// Until the node's leader has said so in a heartbeat, or for a moment: it is only for lists to show it.
Task<void> NodeRegistry::wait_until_known(NodeId node, std::string path, wire::State state) {
  const auto patience = Deadline::after(clock_, kKnownLimit);
  while (patience.left(clock_) > Duration::zero()) {
    const auto& devices = nodes_[node].devices;
    const auto known = devices.find(path);
    if (known != devices.end() && known->second.info.state() == state) co_return ok();
    co_await sleep_for(kKnownPause);
  }
  co_return ok();
}

Task<wire::DeviceInfo> NodeRegistry::add_device(NodeId node, std::string path) {
  REELFS_CO_TRY(auto device, co_await attach_device(node, path));
  path = device.path();
  if (device.state() == wire::STATE_BLANK) {
    auto& adoption = adoptions_[{node, path}];
    while (adoption.under_way) co_await sleep_for(kKnownPause);
    const Marked under_way(adoption.under_way);
    // It may have been adopted meanwhile.
    auto again = co_await attach_device(node, path);
    Result<void> outcome = ok();
    if (!again) {
      outcome = again.error();
    } else if (again.value().state() == wire::STATE_BLANK) {
      outcome = co_await initialise(node, path);
    }
    if (!outcome) co_return outcome.error();
    REELFS_CO_TRY(device, co_await attach_device(node, path));
  }
  REELFS_CO_TRY(co_await wait_until_known(node, path, device.state()));
  const auto known = nodes_[node].devices.find(path);
  // What the heartbeat says tells more, but may be older.
  if (known != nodes_[node].devices.end() && known->second.info.state() == device.state())
    device = known->second.info;
  co_return device;
}

Task<wire::DeviceInfo> NodeRegistry::remove_device(NodeId node, std::string path) {
  auto request = std::make_shared<wire::DetachDeviceRequest>();
  request->set_path(path);
  request->set_cluster(options_.cluster.raw());
  request->set_command(next_command());
  REELFS_CO_TRY(const auto reply, co_await command(node, wire::Method::detach_device, request));
  wire::DetachDeviceReply message;
  if (!message.ParseFromString(reply.message)) co_return Error(Errc::protocol, "reply does not parse");
  REELFS_CO_TRY(co_await wait_until_known(node, path, wire::STATE_REMOVED));
  co_return message.device();
}

// ---- what is known

/// Late with its heartbeats, unless it is this process that is late.
bool NodeRegistry::suspect(const Worker& worker) const {
  const auto now = clock_.now();
  return now - worker.heard > options_.suspect_limit && now - watched_ <= options_.suspect_limit;
}

bool NodeRegistry::healthy(NodeId node) const {
  const auto found = nodes_.find(node);
  if (found == nodes_.end()) return false;
  const auto& workers = found->second.workers;
  return std::any_of(workers.begin(), workers.end(),
                     [this](const auto& entry) { return entry.second.online && !suspect(entry.second); });
}

bool NodeRegistry::online(NodeId node) const {
  const auto found = nodes_.find(node);
  return found != nodes_.end() && found->second.online();
}

std::size_t NodeRegistry::online_nodes() const {
  return static_cast<std::size_t>(std::count_if(nodes_.begin(), nodes_.end(), [](const auto& entry) {
    return entry.second.online() && entry.second.row.service == NodeService::in_service;
  }));
}

WallTime NodeRegistry::fewer_online_since(std::uint64_t nodes) const {
  std::vector<WallTime> went;
  std::size_t known = 0;
  for (const auto& [id, node] : nodes_) {
    if (node.row.service != NodeService::in_service) continue;
    ++known;
    if (!node.online()) went.push_back(node.changed);
  }
  if (known < nodes) return started_;
  const auto may_be_missing = known - nodes;
  std::sort(went.begin(), went.end());
  return may_be_missing < went.size() ? went[may_be_missing] : clock_.wall();
}

bool NodeRegistry::reachable(NodeId node, DeviceId device) const {
  const auto found = nodes_.find(node);
  if (found == nodes_.end() || !found->second.online()) return false;
  const auto& devices = found->second.devices;
  if (!device || devices.empty()) return true;  // nothing was said of it yet
  return std::any_of(devices.begin(), devices.end(), [&](const auto& entry) {
    return entry.second.info.device() == device.value && entry.second.info.state() == wire::STATE_ONLINE;
  });
}

std::optional<Duration> NodeRegistry::away_for(NodeId node, DeviceId device) const {
  if (removed(node)) return Duration::max();
  if (reachable(node, device)) return std::nullopt;
  const auto found = nodes_.find(node);
  if (found == nodes_.end()) return clock_.wall() - started_;
  const auto& [id, known] = *found;
  if (!known.online()) return clock_.wall() - known.changed;
  for (const auto& [path, told] : known.devices) {
    if (told.info.device() != device.value) continue;
    return told.info.state() == wire::STATE_REMOVED ? Duration::max() : clock_.wall() - told.since;
  }
  return clock_.wall() - known.changed;  // it is online without the device
}

bool NodeRegistry::leaving(NodeId node) const {
  const auto found = nodes_.find(node);
  return found != nodes_.end() && found->second.row.service == NodeService::leaving;
}

bool NodeRegistry::removed(NodeId node) const {
  const auto found = nodes_.find(node);
  return found != nodes_.end() && found->second.row.service == NodeService::removed;
}

Task<void> NodeRegistry::set_service(NodeId node, NodeService service) {
  auto change = [node, service](Transaction& txn) -> Result<void> {
    REELFS_TRY(auto row, txn.get(NodeKey{node}));
    row.service = service;
    txn.put(NodeKey{node}, row);
    return ok();
  };
  REELFS_CO_TRY(co_await executor_.run(std::move(change)));
  REELFS_CO_TRY(co_await executor_.sync());
  auto& known = nodes_[node];
  known.row.service = service;
  log().info("node service node={} service={}", known.row.name, static_cast<int>(service));
  if (service == NodeService::removed) {
    for (auto& [worker_id, worker] : known.workers) worker.online = false;
  }
  if (changed_) changed_();
  co_return ok();
}

std::vector<wire::DeviceInfo> NodeRegistry::out_of_service() const {
  std::vector<wire::DeviceInfo> devices;
  for (const auto& node : list()) {
    if (!online(NodeId{node.node()})) continue;
    for (const auto& device : node.devices()) {
      if (device.device() != 0 && device.state() != wire::STATE_ONLINE) devices.push_back(device);
    }
  }
  return devices;
}

Result<NodeId> NodeRegistry::find(std::string_view node) const {
  for (const auto& [id, known] : nodes_) {
    if (known.row.name == node && !removed(id)) return id;
  }
  for (const auto& [id, known] : nodes_) {
    if (std::to_string(id.value) == node && !removed(id)) return id;
  }
  return Error(Errc::not_found, fmt::format("there is no node {}; reelctl node list names them", node));
}

Result<wire::DeviceInfo> NodeRegistry::find_device(NodeId node, std::string_view device) const {
  for (const auto& each : list()) {
    if (each.node() != node.value) continue;
    for (const auto& candidate : each.devices()) {
      const bool numbered = candidate.device() != 0 && std::to_string(candidate.device()) == device;
      if (numbered || candidate.path() == device) return candidate;
    }
  }
  return Error(Errc::not_found,
               fmt::format("node {} has no device {}; reelctl device list names them", name(node), device));
}

std::string NodeRegistry::name(NodeId node) const {
  const auto found = nodes_.find(node);
  return found != nodes_.end() ? found->second.row.name : fmt::format("node {}", node.value);
}

std::vector<NodeLoad> NodeRegistry::loads() const {
  std::vector<NodeLoad> loads;
  for (const auto& [id, node] : nodes_) {
    // Of one whose followers alone have been heard nobody can say that it is full.
    if (!node.devices_told || !node.withheld.empty()) continue;
    if (node.row.service != NodeService::in_service) continue;  // it gets nothing new
    NodeLoad load{id, node.row.name, node.row.rack, 0, 0, {}, node.online() && !healthy(id)};
    for (const auto& [path, device] : node.devices) {
      if (device.info.state() != wire::STATE_ONLINE) continue;
      load.blocks += device.info.blocks();
      load.free_blocks += device.info.free_blocks();
    }
    load.free_blocks -= std::min(load.free_blocks, node.taken);
    for (const auto& [worker_id, worker] : node.workers) {
      if (!worker.online || (suspect(worker) && !load.suspect)) continue;
      load.workers.push_back({worker_id, worker.status.appends_in_flight()});
    }
    loads.push_back(std::move(load));
  }
  return loads;
}

std::vector<wire::WorkerAddress> NodeRegistry::workers(NodeId node, WorkerId first) const {
  std::vector<wire::WorkerAddress> addresses, late;
  const auto found = nodes_.find(node);
  if (found == nodes_.end()) return addresses;
  for (const auto& [worker_id, worker] : found->second.workers) {
    if (!worker.online) continue;
    wire::WorkerAddress address;
    address.set_node(node.value);
    address.set_worker(worker_id.value);
    *address.mutable_endpoint() = worker.status.endpoint();
    auto& list = suspect(worker) ? late : addresses;
    list.insert(worker_id == first ? list.begin() : list.end(), std::move(address));
  }
  std::move(late.begin(), late.end(), std::back_inserter(addresses));
  return addresses;
}

WorkerId NodeRegistry::any_worker(NodeId node, WorkerId preferred) const {
  const auto found = nodes_.find(node);
  if (found == nodes_.end()) return {};
  WorkerId healthy, late;
  for (const auto& [worker_id, worker] : found->second.workers) {
    if (!worker.online) continue;
    auto& any = suspect(worker) ? late : healthy;
    if (any != preferred || !any) any = worker_id;
  }
  return healthy ? healthy : late;
}

NetSpace NodeRegistry::net_space(std::uint32_t copies) const {
  if (copies == 0) copies = options_.copies;
  std::map<NodeId, std::uint64_t> blocks;
  for (const auto& [id, row] : devices_) {
    if (!leaving(row.node) && !removed(row.node)) blocks[row.node] += row.blocks;
  }
  NetSpace space;
  std::vector<std::uint64_t> total, free, present;
  for (const auto& [node, count] : blocks) {
    total.push_back(count);
    space.blocks += count;
  }
  for (const auto& load : loads()) {
    if (!load.online()) continue;
    free.push_back(load.free_blocks);
    present.push_back(load.blocks);
    space.present_blocks += load.blocks;
  }
  space.total_bytes = segments_that_fit(total, copies) * options_.block_bytes;
  space.free_bytes = segments_that_fit(free, copies) * options_.block_bytes;
  space.present_bytes = segments_that_fit(present, copies) * options_.block_bytes;
  return space;
}

void NodeRegistry::block_taken(NodeId node) {
  const auto found = nodes_.find(node);
  if (found != nodes_.end()) ++found->second.taken;
}

/// A node knows only the path of a device that was never there in its life.
void NodeRegistry::fill_from_row(NodeId node, wire::DeviceInfo& device) const {
  if (device.state() == wire::STATE_BLANK || device.state() == wire::STATE_FOREIGN) return;
  for (const auto& [id, row] : devices_) {
    if (row.node != node || row.path != device.path() || row.blocks == 0) continue;
    device.set_device(id.value);
    device.set_uuid(row.uuid.raw());
    device.set_block_bytes(row.block_bytes);
    device.set_blocks(row.blocks);
  }
}

std::vector<wire::NodeInfo> NodeRegistry::list() const {
  std::vector<wire::NodeInfo> nodes;
  for (const auto& [id, node] : nodes_) {
    if (node.row.service == NodeService::removed) continue;
    wire::NodeInfo info;
    info.set_leaving(node.row.service == NodeService::leaving);
    info.set_node(id.value);
    info.set_name(node.row.name);
    info.set_rack(node.row.rack);
    const bool is_online = node.online();
    const auto answering = healthy(id) ? wire::STATE_ONLINE : wire::STATE_SUSPECT;
    info.set_state(is_online ? answering : wire::STATE_OFFLINE);
    for (const auto& [worker_id, worker] : node.workers) {
      auto& described = *info.add_workers();
      described.set_worker(worker_id.value);
      *described.mutable_endpoint() = worker.status.endpoint();
      described.set_pid(worker.status.pid());
      described.set_leader(worker.online && worker.status.leader());
      const auto worker_answering = suspect(worker) ? wire::STATE_SUSPECT : wire::STATE_ONLINE;
      described.set_state(worker.online ? worker_answering : wire::STATE_OFFLINE);
      described.set_silent_ms(static_cast<std::uint64_t>(
          std::chrono::duration_cast<std::chrono::milliseconds>(clock_.now() - worker.heard).count()));
      described.set_appends_in_flight(worker.status.appends_in_flight());
    }
    std::set<std::uint32_t> told;
    for (const auto& [path, device] : node.devices) {
      auto& described = *info.add_devices() = device.info;
      if (!is_online && device.info.state() != wire::STATE_REMOVED) {
        described.set_state(wire::STATE_OFFLINE);
        described.set_reason("the node is offline");
        described.set_since_ns(node.changed.time_since_epoch().count());
      }
      if (device.info.device() == 0) fill_from_row(id, described);
      told.insert(described.device());
    }
    for (const auto& [device_id, row] : devices_) {
      if (row.node != id || row.blocks == 0 || told.contains(device_id.value)) continue;
      auto& described = *info.add_devices();
      described.set_device(device_id.value);
      described.set_uuid(row.uuid.raw());
      described.set_node(id.value);
      described.set_path(row.path);
      described.set_state(wire::STATE_OFFLINE);
      described.set_block_bytes(row.block_bytes);
      described.set_blocks(row.blocks);
      described.set_reason(is_online ? "the node does not have it" : "the node is offline");
      described.set_since_ns(node.changed.time_since_epoch().count());
    }
    nodes.push_back(std::move(info));
  }
  return nodes;
}

std::vector<wire::Problem> NodeRegistry::problems() const {
  std::vector<wire::Problem> problems;
  const auto add = [&](std::string what, std::string advice, WallTime since) {
    wire::Problem problem;
    problem.set_what(std::move(what));
    problem.set_advice(std::move(advice));
    problem.set_since_ns(since.time_since_epoch().count());
    problems.push_back(std::move(problem));
  };
  if (nodes_.empty()) {
    add("no storage node has registered", "start noded with this index server in its configuration",
        started_);
  }
  for (const auto& [id, node] : nodes_) {
    if (node.row.service == NodeService::removed) continue;
    if (!node.online()) {
      add(fmt::format("node {} is offline", node.row.name), "start its noded processes, or look at its log",
          node.changed);
      continue;
    }
    for (const auto& [worker_id, worker] : node.workers) {
      if (worker.online) continue;
      const auto silent = clock_.now() - worker.heard;
      add(fmt::format("worker {} of node {} is silent", worker_id.value, node.row.name),
          "start it again: noded --worker", clock_.wall() - silent);
    }
    for (const auto& [path, device] : node.devices) {
      const auto where = fmt::format("device {} of node {}", path, node.row.name);
      const auto reason =
          device.info.reason().empty() ? std::string("no reason given") : device.info.reason();
      const WallTime since(std::chrono::nanoseconds(device.info.since_ns()));
      switch (device.info.state()) {
        case wire::STATE_ONLINE:
          if (is_full(device.info))
            add(where + " is full", "add a device or delete recordings", device.since);
          break;
        case wire::STATE_BLANK:
          if (!options_.adopt_blank_devices) {
            add(where + " is blank", "give it to the cluster: reelctl device add", since);
          }
          break;
        case wire::STATE_FOREIGN:
          if (node.withheld.contains(path)) {
            add(where + " holds recordings that this index does not know",
                "stop the index server and give it the data_dir that it had, or where that is lost: reelctl "
                "index rebuild. Nothing on the device is touched meanwhile",
                since);
            break;
          }
          add(where + " is refused: " + reason,
              "let go of it there, or take it out of this node: reelctl device remove", since);
          break;
        case wire::STATE_REMOVED:
          break;
        case wire::STATE_OFFLINE:
          add(where + " is offline: " + reason,
              "bring it back, or take it out of the node: reelctl device remove", since);
          break;
        default:
          add(where + " has failed: " + reason,
              "look at the disk and at the node's log, then reelctl device add or remove", since);
      }
    }
  }
  return problems;
}

Task<rpc::Reply> NodeRegistry::call(NodeId node, WorkerId preferred, wire::Method method,
                                    std::shared_ptr<const google::protobuf::MessageLite> request,
                                    std::optional<Duration> limit, SharedBuffer payload) {
  const auto worker = any_worker(node, preferred);
  if (!worker) co_return Error(Errc::unavailable, fmt::format("node {} is offline", name(node)));
  const auto client = nodes_[node].workers[worker].client;
  const auto deadline = Deadline::after(clock_, limit.value_or(options_.node_call_limit));
  auto reply = co_await client->call(method, *request, deadline, std::move(payload));
  if (!reply) {
    auto error = std::move(reply).error();
    co_return std::move(error).within(
        fmt::format("{} on node {} worker {}", wire::to_string(method), name(node), worker.value));
  }
  co_return std::move(reply);
}

}  // namespace reelfs::indexd
