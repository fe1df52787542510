#pragma once

#include <functional>
#include <string>

#include "common/async/blocking_pool.h"
#include "common/async/task.h"
#include "common/base/clock.h"
#include "common/rpc/server.h"
#include "common/wire/node.pb.h"
#include "noded/leader/device_bring_up.h"
#include "noded/leader/node_identity.h"
#include "noded/scrub/range_rewriter.h"
#include "noded/segment/segment_store.h"
#include "noded/service/node_description.h"
#include "noded/service/node_metrics.h"
#include "noded/transfer/record_copier.h"
#include "noded/transfer/segment_copier.h"

namespace reelfs::noded {

/// Answers what clients and the index ask of a worker process on its external port.
class NodeService {
 public:
  struct Hooks {
    /// Carries out or passes on the index's command.
    std::function<Task<void>(NewDevice device, Deadline deadline)> initialise_device;
    std::function<Task<wire::DeviceInfo>(wire::AttachDeviceRequest, Deadline)> attach_device;
    std::function<Task<wire::DeviceInfo>(wire::DetachDeviceRequest, Deadline)> detach_device;
    /// Attaches what the node's leader has and this process has not.
    std::function<asio::awaitable<void>()> look_for_devices;
    /// Everything on the node's devices is to be verified now.
    std::function<void()> order_scrub;
    std::function<Task<wire::RewriteRangesReply>(wire::RewriteRangesRequest, Deadline)> rewrite_ranges;
    std::function<Task<RangeRewriter::Raw>(wire::RewriteRangesRequest)> look_at_ranges;
    /// What there is to describe now.
    std::function<DescriptionOrder()> to_be_described;
  };

  /// @param pool  for what takes long
  NodeService(NodeIdentity identity, const Clock& clock, BlockingPool& pool, SegmentStore& store,
              UnfilledTable& unfilled, RecordCopier& records, SegmentCopier& copies, NodeMetrics& metrics,
              Hooks hooks);
  NodeService(const NodeService&) = delete;
  NodeService& operator=(const NodeService&) = delete;

  /// @errors those of the operation; stale_epoch: a command of an index server that is not active any more;
  /// unsupported
  Task<rpc::Response> handle(rpc::Request request);

 private:
  using Operation = Task<rpc::Response> (NodeService::*)(rpc::Request);
  static Operation operation_of(wire::Method method);
  Deadline bounded(const rpc::Request& request) const;

  Task<rpc::Response> initialise_device(rpc::Request request);
  Task<rpc::Response> attach_device(rpc::Request request);
  Task<rpc::Response> detach_device(rpc::Request request);
  Result<void> check_cluster(const std::string& raw) const;
  Task<rpc::Response> allocate_block(rpc::Request request);
  Task<rpc::Response> fence_segment(rpc::Request request);
  Task<rpc::Response> seal_segment(rpc::Request request);
  Task<rpc::Response> free_segment(rpc::Request request);
  Task<rpc::Response> release_segment(rpc::Request request);
  Task<rpc::Response> copy_records(rpc::Request request);
  Task<rpc::Response> list_records(rpc::Request request);
  Task<rpc::Response> list_blocks(rpc::Request request);
  Task<rpc::Response> copy_segment(rpc::Request request);
  Task<rpc::Response> rewrite_ranges(rpc::Request request);
  Task<rpc::Response> scrub_node(rpc::Request request);
  Task<rpc::Response> append(rpc::Request request);
  Task<rpc::Response> sync_segments(rpc::Request request);
  Task<rpc::Response> read_record(rpc::Request request);
  Task<rpc::Response> read_segment(rpc::Request request);
  Task<rpc::Response> describe(rpc::Request request);
  Task<wire::DescribeNodeReply> describe_now(bool check);

  const NodeIdentity identity_;
  const Clock& clock_;
  BlockingPool& pool_;
  SegmentStore& store_;
  UnfilledTable& unfilled_;
  RecordCopier& copier_;
  SegmentCopier& segment_copier_;
  NodeMetrics& metrics_;
  const Hooks hooks_;
  bool describing_ = false;  // one at a time
};

}  // namespace reelfs::noded
