#pragma once

#include <functional>
#include <map>
#include <set>
#include <string>
#include <vector>

#include <boost/asio/any_io_executor.hpp>

#include "common/async/blocking_pool.h"
#include "common/async/task.h"
#include "common/async/task_group.h"
#include "common/base/clock.h"
#include "common/base/ids.h"
#include "common/wire/index.pb.h"
#include "common/wire/rebuild.pb.h"
#include "indexd/nodelog/piece_file.h"
#include "indexd/service/options.h"

namespace reelfs::indexd {

class Executor;
class NodeRegistry;

/// Collects from the nodes what an index server that has lost its data is made again of: the log of the
/// journal, and which blocks there are. What it leaves in files is put in place when the process opens its
/// store the next time (restore.h). docs/design/rebuild.md
///
/// Lives on one io_context; `stop()` before destroying.
class Rebuilder {
 public:
  Rebuilder(asio::any_io_executor executor, const Clock& clock, Executor& index, NodeRegistry& nodes,
            const ServiceOptions& options);
  Rebuilder(const Rebuilder&) = delete;
  Rebuilder& operator=(const Rebuilder&) = delete;

  /// Reads what became of the last rebuild. @errors io
  Result<void> start();
  asio::awaitable<void> stop();
  /// Called when all is collected: the store is to be opened anew.
  void on_collected(std::function<void()> callback) { collected_ = std::move(callback); }

  /// Begins in the background; report() tells how it goes.
  /// @param without  names of nodes that need not be there
  /// @errors not_permitted (this index has something already), busy (it has begun), unavailable (no node is
  /// there)
  Task<void> begin(std::vector<std::string> without);
  const wire::RebuildReport& report() const { return report_; }

 private:
  using Copies = std::map<SegmentId, std::vector<NodeId>>;

  asio::awaitable<void> run();
  Task<void> collect();
  Task<wire::CollectedNode> list_node(wire::NodeInfo node);
  Task<bool> read_copy(SegmentId segment, NodeId node, std::uint64_t length, PieceFile& pieces);
  Task<void> check(PieceFile& pieces, std::set<std::string> listed);

  const Clock& clock_;
  Executor& index_;
  NodeRegistry& nodes_;
  const ServiceOptions& options_;
  BlockingPool pool_;
  std::function<void()> collected_;
  std::set<std::string> without_;
  wire::RebuildReport report_;
  TaskGroup group_;
};

}  // namespace reelfs::indexd
