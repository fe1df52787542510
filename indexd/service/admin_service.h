#pragma once

#include <cstdint>
#include <map>
#include <set>

#include "common/async/task.h"
#include "common/base/ids.h"
#include "common/rpc/server.h"
#include "common/wire/index.pb.h"
#include "indexd/service/changes.h"
#include "indexd/service/dispatcher.h"
#include "indexd/service/options.h"

namespace reelfs::indexd {

class GapKeeper;
class NodeLog;
class NodeRegistry;
class Compactor;
class Overwriter;
class RepairLog;
class Repairer;
class ScrubKeeper;
class SegmentKeeper;

/// Answers what operators ask.
class AdminService {
 public:
  AdminService(Executor& index, Sessions& sessions, NodeRegistry& nodes, SegmentKeeper& segments,
               Overwriter& overwriter, GapKeeper& gaps, Compactor& compactor, Repairer& repairer,
               RepairLog& repair_log, ScrubKeeper& scrubs, const NodeLog& node_log,
               const ServiceOptions& options)
      : index_(index),
        sessions_(sessions),
        nodes_(nodes),
        segments_(segments),
        overwriter_(overwriter),
        gaps_(gaps),
        compactor_(compactor),
        repairer_(repairer),
        repair_log_(repair_log),
        scrubs_(scrubs),
        node_log_(node_log),
        options_(options) {}
  void register_with(Dispatcher& dispatcher);

  Task<wire::ListChannelsReply> list_channels(wire::ListChannelsRequest request);
  Task<wire::ListNodesReply> list_nodes(wire::ListNodesRequest request);
  Task<wire::ListSegmentsReply> list_segments(wire::ListSegmentsRequest request);
  Task<wire::ShowSegmentReply> show_segment(wire::ShowSegmentRequest request);
  Task<wire::AddDeviceReply> add_device(wire::AddDeviceRequest request);
  Task<wire::RemoveDeviceReply> remove_device(wire::RemoveDeviceRequest request);
  Task<wire::RepairStatusReply> repair_status(wire::RepairStatusRequest request);
  Task<wire::RepairStatusReply> repair_now(wire::RepairNowRequest request);
  Task<wire::DrainNodeReply> drain_node(wire::DrainNodeRequest request);
  Task<wire::RemoveNodeReply> remove_node(wire::RemoveNodeRequest request);
  Task<wire::ClusterStatusReply> cluster_status(wire::ClusterStatusRequest request);

 private:
  struct Degraded {
    std::uint64_t segments = 0;  // with a copy on the device
    std::uint64_t lost = 0;      // of them, those with no other copy within reach
  };
  struct OnNode {
    std::uint64_t segments = 0;  // with a copy there
    std::uint64_t lost = 0;      // of them, those with no other copy within reach
  };
  void note(RepairEvent event, NodeId node);
  Task<OnNode> held_by(NodeId node) const;
  /// What is without its copies on these devices.
  Task<std::map<DeviceId, Degraded>> degraded_by(std::set<DeviceId> devices) const;
  Task<void> note_degraded(wire::ClusterStatusReply& reply) const;
  void note_availability(wire::SegmentInfo& segment) const;

  Executor& index_;
  Sessions& sessions_;
  NodeRegistry& nodes_;
  SegmentKeeper& segments_;
  Overwriter& overwriter_;
  GapKeeper& gaps_;
  Compactor& compactor_;
  Repairer& repairer_;
  RepairLog& repair_log_;
  ScrubKeeper& scrubs_;
  const NodeLog& node_log_;
  const ServiceOptions& options_;
};

}  // namespace reelfs::indexd
