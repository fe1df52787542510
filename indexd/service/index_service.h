#pragma once

#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "common/async/task.h"
#include "common/base/clock.h"
#include "common/rpc/client.h"
#include "common/rpc/server.h"
#include "common/wire/rebuild.pb.h"
#include "indexd/service/admin_service.h"
#include "indexd/service/changes.h"
#include "indexd/service/compactor.h"
#include "indexd/service/copy_orders.h"
#include "indexd/service/dispatcher.h"
#include "indexd/service/file_service.h"
#include "indexd/service/gap_keeper.h"
#include "indexd/service/hold_service.h"
#include "indexd/service/leases.h"
#include "indexd/service/lock_service.h"
#include "indexd/service/name_service.h"
#include "indexd/service/node_log.h"
#include "indexd/service/node_registry.h"
#include "indexd/service/options.h"
#include "indexd/service/overwriter.h"
#include "indexd/service/rebuilder.h"
#include "indexd/service/recording_service.h"
#include "indexd/service/repair_log.h"
#include "indexd/service/repairer.h"
#include "indexd/service/roll_forward.h"
#include "indexd/service/scrub_keeper.h"
#include "indexd/service/segment_keeper.h"
#include "indexd/service/segment_service.h"
#include "indexd/service/sessions.h"

namespace boost::asio {
class io_context;
}

namespace reelfs::indexd {

class Executor;

/// All of an active index server but its port and its files: give `handle` to an rpc::Server.
/// Lives on one io_context; stop the rpc::Server first, then this, before destroying.
class IndexService {
 public:
  /// @param options  cluster and block size as in the store, see claim_cluster
  IndexService(asio::io_context& context, const Clock& clock, Executor& index, ServiceOptions options,
               rpc::ClientOptions client_options, prometheus::Registry& registry);
  IndexService(const IndexService&) = delete;
  IndexService& operator=(const IndexService&) = delete;

  /// Reads what must be known and goes on with what the last life of this process left. @errors io, corrupt
  Task<void> start();
  Task<rpc::Response> handle(rpc::Request request);
  void disconnected(std::uint64_t connection) { nodes_.disconnected(connection); }
  asio::awaitable<void> stop();
  /// Called when the index is to be made of what was collected (restore.h): stop this, and open the store
  /// anew.
  void on_collected(std::function<void()> callback) { rebuilder_.on_collected(std::move(callback)); }

  Task<wire::OpenSessionReply> open_session(wire::OpenSessionRequest request);
  Task<wire::RenewSessionReply> renew_session(wire::RenewSessionRequest request);
  Task<wire::WatchChangesReply> watch_changes(wire::WatchChangesRequest request);
  Task<wire::Empty> close_session(wire::CloseSessionRequest request);
  Task<wire::RegisterWorkerReply> register_worker(wire::RegisterWorkerRequest request,
                                                  std::uint64_t connection);
  Task<wire::HeartbeatReply> heartbeat(wire::HeartbeatRequest request, std::uint64_t connection);
  Task<wire::ReportBlocksReply> report_blocks(wire::ReportBlocksRequest request);
  Task<wire::IndexStatusReply> index_status(wire::IndexStatusRequest request);
  Task<wire::RebuildIndexReply> rebuild_index(wire::RebuildIndexRequest request);

 private:
  /// Why nobody is given a session who would see an empty tree where there may be another; empty: all are.
  std::string withheld() const;

  const Clock& clock_;
  Executor& index_;
  const ServiceOptions options_;
  NodeRegistry nodes_;
  Sessions sessions_;
  Leases leases_;
  RepairLog repair_log_;
  CopyOrders copies_;
  SegmentKeeper segments_;
  NodeLog node_log_;
  Rebuilder rebuilder_;
  Repairer repairer_;
  Overwriter overwriter_;
  RollForward roll_forward_;
  Compactor compactor_;
  Changes changes_;
  NameService names_;
  HoldService holds_;
  RecordingService recordings_;
  FileService files_;
  SegmentService grants_;
  LockService locks_;
  GapKeeper gaps_;
  ScrubKeeper scrubs_;
  AdminService admin_;
  Dispatcher dispatcher_;
  TimePoint began_;
};

struct ClusterIdentity {
  Uuid cluster;
  std::uint64_t block_bytes = 0;
  bool is_new = false;  // it has nothing yet but its root directory
};
/// Makes an empty store that of this cluster, with a root directory; or checks that it is.
/// @return what the store says  @errors bad_config: the store is another cluster's, or was made with another
/// block size
Task<ClusterIdentity> claim_cluster(Executor& index, const Clock& clock, ClusterIdentity wanted);

}  // namespace reelfs::indexd
