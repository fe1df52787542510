#pragma once

#include <filesystem>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "common/async/event.h"
#include "common/async/task.h"
#include "common/async/task_group.h"
#include "common/base/clock.h"
#include "common/rpc/client.h"
#include "common/rpc/server.h"
#include "noded/leader/leader.h"
#include "noded/leader/node_state.h"
#include "noded/scrub/peer_reader.h"
#include "noded/scrub/range_rewriter.h"
#include "noded/scrub/scrubber.h"
#include "noded/segment/segment_store.h"
#include "noded/service/index_link.h"
#include "noded/service/node_metrics.h"
#include "noded/service/node_service.h"
#include "noded/transfer/record_copier.h"
#include "noded/transfer/segment_copier.h"

namespace reelfs::noded {

/// One worker process of a node: becomes leader by binding the internal port or follows whoever has it,
/// serves its external port as soon as it has attached the node's shared memory, and stands for election
/// again when the leader goes.
///
///     racing ── port free ──> leading (to the end)
///       │ ^
///       v └──────── leader's connection broke
///     following
class Worker {
 public:
  struct Options {
    NodeIdentity identity;
    std::string rack;
    std::vector<rpc::Endpoint> indexes;
    std::vector<rpc::Endpoint> addresses;  // an external port is opened on each; at least one
    std::uint16_t internal_port = 0;
    Leader::Options leader;
    std::shared_ptr<const rpc::TlsContext> tls;       // of the external port and towards the index
    Duration device_limit = std::chrono::seconds(3);  // of one call of a device: then it is out of service
    Scrubber::Options scrub;
  };

  /// @param pool  for what takes long and is asked for seldom
  Worker(asio::io_context& context, const Clock& clock, BlockingPool& pool, DeviceAccess& devices,
         prometheus::Registry& registry, Options options);
  ~Worker();
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;

  /// Returns when it cannot go on, saying why, or `cancelled` when it is cancelled. `stop()` afterwards in
  /// either case.
  Task<void> run();
  /// A clean end: what is under way is ended, devices are synced, this process's shared memory is given back,
  /// and when no other worker of the node lives, the node's too. Calls that hang are not waited for.
  asio::awaitable<void> stop();
  /// After stop(): calls hang in the kernel, so that their threads and coroutines have not ended. Nothing but
  /// the process may be ended then. Their devices are out of service, all else is given back.
  bool hangs() const { return hangs_; }

  bool leading() const { return leader_ != nullptr; }
  /// The external port, once it is served; port 0 before.
  const rpc::Endpoint& endpoint() const { return endpoint_; }

 private:
  Task<bool> try_to_lead();
  Task<void> lead();
  Task<void> follow();
  void begin_to_look_at(const std::vector<std::filesystem::path>& paths);
  asio::awaitable<void> look_at(std::filesystem::path path);
  Result<void> refuse_other_versions() const;
  Task<void> serve();
  Task<rpc::Response> answer_follower(rpc::Request request);
  NodeService::Hooks hooks();
  Task<void> initialise_device(NewDevice device, Deadline deadline);
  Task<wire::DeviceInfo> attach_device(wire::AttachDeviceRequest request, Deadline deadline);
  Task<wire::DeviceInfo> detach_device(wire::DetachDeviceRequest request, Deadline deadline);
  asio::awaitable<void> look_for_devices();
  Result<bool> leads() const;
  IndexLink::Situation situation() const;
  std::vector<NodeMetrics::DeviceFigures> device_figures() const;
  DescriptionOrder to_be_described() const;
  struct Ending;
  static asio::awaitable<void> run_to_end(asio::awaitable<void> work, std::shared_ptr<Ending> ending);
  std::shared_ptr<Ending> begin(asio::awaitable<void> work);
  asio::awaitable<bool> ends(std::shared_ptr<Ending> ending, Deadline deadline);
  asio::awaitable<void> end(asio::awaitable<void> stopping, const char* what);
  asio::awaitable<void> flush(DevicePtr device);
  asio::awaitable<void> flush_devices();
  void take_hanging_out_of_service();
  void give_back();

  asio::io_context& context_;
  const Clock& clock_;
  BlockingPool& pool_;
  const Options options_;
  NodeMetrics metrics_;
  SegmentStore store_;
  NodeState state_;
  TaskGroup group_;
  rpc::Endpoint endpoint_;
  std::unique_ptr<rpc::Server> internal_server_;
  std::unique_ptr<rpc::Client> leader_client_;
  std::set<std::filesystem::path>
      looked_at_;             // by looks that have not ended, for devices that the leader awaits
  bool sees_device_ = false;  // one of them, since the leader was last told
  std::unique_ptr<Leader> leader_;
  bool ready_to_be_joined_ = false;
  std::uint32_t leader_pid_ = 0;  // as far as it knows
  Event connection_lost_;
  std::unique_ptr<RecordCopier> copier_;
  std::unique_ptr<SegmentCopier> segment_copier_;
  std::unique_ptr<PeerReader> peers_;
  std::unique_ptr<RangeRewriter> rewriter_;
  std::unique_ptr<Scrubber> scrubber_;
  std::unique_ptr<NodeService> service_;
  std::unique_ptr<rpc::Server> server_;
  std::unique_ptr<IndexLink> index_link_;
  bool hangs_ = false;
  TaskGroup stopping_;  // what stop() waits for, or has given up to wait for
};

}  // namespace reelfs::noded
