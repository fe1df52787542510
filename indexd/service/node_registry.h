#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include <boost/asio/any_io_executor.hpp>

#include "common/async/task.h"
#include "common/async/task_group.h"
#include "common/base/buffer.h"
#include "common/base/clock.h"
#include "common/base/ids.h"
#include "common/rpc/client.h"
#include "common/wire/node.pb.h"
#include "indexd/placement/placer.h"
#include "indexd/schema/rows.h"
#include "indexd/service/options.h"

namespace boost::asio {
class io_context;
}

namespace reelfs::indexd {

class Executor;

/// What recordings can have, net of copies.
struct NetSpace {
  std::uint64_t total_bytes = 0;
  std::uint64_t free_bytes = 0;     // where new segments can lie now
  std::uint64_t present_bytes = 0;  // of the total, on nodes and devices that are online
  std::uint64_t blocks = 0;         // of all devices, copies and all
  std::uint64_t present_blocks = 0;
};

/// The storage nodes: who they are (rows, kept for ever), and which of their workers answer, with what load
/// and space (memory, told anew after a restart). Calls them, and gives their blank devices to the cluster
/// where that is wanted.
///
/// Lives on one io_context; `stop()` before destroying.
class NodeRegistry {
 public:
  NodeRegistry(asio::io_context& context, const Clock& clock, Executor& executor,
               const ServiceOptions& options, rpc::ClientOptions client_options);
  ~NodeRegistry();
  NodeRegistry(const NodeRegistry&) = delete;
  NodeRegistry& operator=(const NodeRegistry&) = delete;

  /// Reads the rows and begins to watch for silence.
  Task<void> start();
  asio::awaitable<void> stop();

  /// Told when a node answers again after all its workers were silent, or for the first time.
  void on_node_returned(std::function<void(NodeId)> callback);
  /// Told when a node or a device came or went, or is to be drained.
  void on_changed(std::function<void()> callback);

  // ---- what workers say
  /// @param connection  its end means that the worker is silent
  Task<wire::RegisterWorkerReply> register_worker(wire::RegisterWorkerRequest request,
                                                  std::uint64_t connection);
  wire::HeartbeatReply heartbeat(const wire::HeartbeatRequest& request, std::uint64_t connection);
  void disconnected(std::uint64_t connection);
  /// Some of the node's blocks were listed. Once all have been it need not list them again, unless that was
  /// wanted anew since the listing began.
  void blocks_reported(NodeId node, bool first_part, bool last_part);
  /// Something may be left behind there: it is to list its blocks.
  void want_block_report(NodeId node);

  // ---- what is known of them
  bool online(NodeId node) const;
  /// Online, and not all its workers are suspect.
  bool healthy(NodeId node) const;
  std::size_t online_nodes() const;
  /// When so many nodes were online last; where that never was, when this process began.
  WallTime fewer_online_since(std::uint64_t nodes) const;
  /// Whether a copy there can be read: the node is online, and has not said that the device is out of
  /// service.
  bool reachable(NodeId node, DeviceId device) const;
  /// How long a copy there has not been readable; none: it can be read. Duration::max() where that is for
  /// ever.
  std::optional<Duration> away_for(NodeId node, DeviceId device) const;
  /// It is being drained.
  bool leaving(NodeId node) const;
  /// It never comes back.
  bool removed(NodeId node) const;
  /// Devices of online nodes that are out of service, blank ones apart.
  std::vector<wire::DeviceInfo> out_of_service() const;
  /// By its name, or its number. @errors not_found
  Result<NodeId> find(std::string_view node) const;
  /// By its path, or its number. @errors not_found
  Result<wire::DeviceInfo> find_device(NodeId node, std::string_view device) const;
  /// "node2", or "node 7" where there is none.
  std::string name(NodeId node) const;
  std::vector<NodeLoad> loads() const;
  /// Online workers, `first` before the others, and suspect ones behind them.
  std::vector<wire::WorkerAddress> workers(NodeId node, WorkerId first = {}) const;
  /// `preferred` if it is online and not suspect, else another one, else a suspect one; none if the node is
  /// offline.
  WorkerId any_worker(NodeId node, WorkerId preferred) const;
  /// @param copies  0: those of new channels
  NetSpace net_space(std::uint32_t copies) const;
  std::vector<wire::NodeInfo> list() const;
  std::vector<wire::Problem> problems() const;
  /// Whether a device of the node holds segments and is unknown here. Devices are recorded before they are
  /// initialised, so then this is not the index that they were filled under: an empty data_dir, or a wrong
  /// one. Until that is put right the node gets no segments and none of its blocks is given back.
  bool withholds(NodeId node) const;
  /// A block was taken there since its last report of free blocks.
  void block_taken(NodeId node);

  // ---- commands of administrators, sent to all workers of the node at once and carried out by its leader. A
  // worker that does not answer holds nobody up
  /// Makes the path a device of the node, with a number and a superblock where it is blank.
  /// @errors unavailable, and what the node answered
  Task<wire::DeviceInfo> add_device(NodeId node, std::string path);
  Task<wire::DeviceInfo> remove_device(NodeId node, std::string path);
  /// Kept for ever, on stable storage when it returns. What was removed stays so: its workers are refused.
  Task<void> set_service(NodeId node, NodeService service);

  /// Calls a worker of the node: `preferred` where it is online, else any. @param limit  none:
  /// node_call_limit
  /// @errors unavailable (no worker is online), and those of the call
  Task<rpc::Reply> call(NodeId node, WorkerId preferred, wire::Method method,
                        std::shared_ptr<const google::protobuf::MessageLite> request,
                        std::optional<Duration> limit = std::nullopt, SharedBuffer payload = nullptr);
  /// A node holds segments that this index does not know: see withholds().
  bool withholds_any() const;
  /// A node's leader has told what devices it has, since the start.
  bool any_devices_told() const;

 private:
  struct Worker {
    Uuid incarnation;
    wire::WorkerStatus status;
    TimePoint heard;
    bool online = false;
    std::uint64_t connection = 0;
    std::shared_ptr<rpc::Client> client;
  };
  struct Device {
    wire::DeviceInfo info;  // as the leader said last
    WallTime since;         // it has this state, and is full or not
  };
  struct Node {
    NodeRow row;
    std::map<WorkerId, Worker> workers;
    std::map<std::string, Device> devices;  // by path
    bool devices_told = false;              // its leader has been heard since the start
    std::uint64_t taken = 0;                // blocks, since then
    std::set<std::string> withheld;         // of the devices: see withholds()
    struct {                                // block reports: the number of the newest that was …
      std::uint64_t wanted = 0, asked_for = 0, begun = 0, ended = 0;
    } reports;
    WallTime changed;  // to online or offline
    bool online() const;
  };
  struct Adoption {
    bool under_way = false;
    TimePoint not_before;
  };

  bool suspect(const Worker& worker) const;
  Result<void> check_cluster(const std::string& raw) const;
  Task<NodeId> node_of(std::string name, std::string rack);
  void take_status(NodeId id, Node& node, Worker& worker, const wire::WorkerStatus& status);
  void take_devices(NodeId id, Node& node, const wire::WorkerStatus& status);
  void mark_heard(NodeId id, Node& node, WorkerId worker_id, Worker& worker, std::uint64_t connection);
  void mark_silent(NodeId id, Node& node, WorkerId worker_id, Worker& worker, const char* why);
  asio::awaitable<void> watch();
  asio::awaitable<void> retire(std::shared_ptr<rpc::Client> client);
  asio::awaitable<void> adopt(NodeId node, std::string path);
  Task<void> initialise(NodeId node, std::string path);
  struct Command;
  asio::awaitable<void> send_command(std::shared_ptr<rpc::Client> client, bool leads, wire::Method method,
                                     std::shared_ptr<const google::protobuf::MessageLite> request,
                                     Deadline limit, std::shared_ptr<Command> command);
  Task<rpc::Reply> command(NodeId node, wire::Method method,
                           std::shared_ptr<const google::protobuf::MessageLite> request);
  std::uint64_t next_command();
  Task<wire::DeviceInfo> attach_device(NodeId node, std::string path);
  Task<void> wait_until_known(NodeId node, std::string path, wire::State state);
  asio::awaitable<void> record_device(NodeId node, wire::DeviceInfo device);
  void fill_from_row(NodeId node, wire::DeviceInfo& device) const;
  const DeviceRow* row_of(const wire::DeviceInfo& device) const;
  bool is_in_use_unrecorded(const wire::DeviceInfo& device) const;

  asio::io_context& context_;
  const Clock& clock_;
  Executor& executor_;
  const ServiceOptions& options_;
  const rpc::ClientOptions client_options_;
  TaskGroup group_;
  WallTime started_;
  std::uint32_t commands_given_ = 0;
  TimePoint watched_;  // when it last looked for silence
  std::map<NodeId, Node> nodes_;
  std::map<DeviceId, DeviceRow> devices_;  // the rows
  std::set<Uuid> being_recorded_;
  std::map<std::pair<NodeId, std::string>, Adoption> adoptions_;  // by path of the blank device
  std::unordered_map<std::uint64_t, std::vector<std::pair<NodeId, WorkerId>>> by_connection_;
  std::function<void(NodeId)> node_returned_;
  std::function<void()> changed_;
};

/// Segments that still fit when each puts `copies` blocks on as many nodes: the largest k with
/// sum(min(blocks, k)) >= copies * k.
std::uint64_t segments_that_fit(const std::vector<std::uint64_t>& blocks_of_nodes, std::uint32_t copies);

}  // namespace reelfs::indexd
