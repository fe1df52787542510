#pragma once

#include <memory>
#include <vector>

#include "client/node_path.h"
#include "common/base/clock.h"
#include "common/base/ids.h"
#include "common/rpc/client.h"

namespace reelfs::client {

/// A worker process of a node, as the index names it.
struct WorkerAddress {
  NodeId node;
  WorkerId worker;
  rpc::Endpoint endpoint;
};

/// Connections to worker processes, made when first used and kept: one for appends and one for reads each, so
/// that neither waits behind the other. Lives on one io_context.
class NodePool {
 public:
  NodePool(asio::io_context& context, const Clock& clock, rpc::ClientOptions options);
  ~NodePool();
  NodePool(const NodePool&) = delete;
  NodePool& operator=(const NodePool&) = delete;

  rpc::Client& for_appends(const WorkerAddress& worker);
  rpc::Client& for_reads(const WorkerAddress& worker);
  void set_epoch(Epoch epoch);
  /// By node and worker.
  std::vector<NodePath> paths() const;
  asio::awaitable<void> stop();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace reelfs::client
