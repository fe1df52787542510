#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "common/base/ids.h"
#include "common/base/result.h"

namespace reelfs::indexd {

/// A healthy worker process of a node, and how busy it said it was.
struct WorkerLoad {
  WorkerId worker;
  std::uint32_t appends_in_flight = 0;
};

/// A device in service.
struct DeviceLoad {
  DeviceId device;
  std::uint64_t blocks = 0;
  std::uint64_t free_blocks = 0;
  bool slow = false;
};

/// What placement knows of a node at one moment.
struct NodeLoad {
  NodeId node;
  std::string name;
  std::string rack;  // the failure domain; empty: the node is its own
  std::uint64_t blocks = 0;
  std::uint64_t free_blocks = 0;
  std::vector<WorkerLoad> workers;  // those that answer; none: the node is offline
  bool suspect = false;             // they did, but are late: used where nothing else is left
  bool slow = false;                // every device with room is slower than its peers
  std::vector<DeviceLoad> devices = {};

  bool online() const { return !workers.empty(); }
};

struct PlacementRequest {
  std::uint32_t copies = 0;      // of each segment, at least 1
  std::uint32_t min_copies = 0;  // where fewer nodes are good; 0: as `copies`
  std::uint32_t grants = 0;      // segments wanted, at least 1; fewer are given where space runs out
  std::vector<NodeId> avoid;     // suspect to whoever asks
  bool ahead = false;            // all are spares; otherwise the first is for now
};

/// Where one copy is to lie, and the process that is to write it.
struct CopyPlace {
  NodeId node;
  WorkerId worker;
  DeviceId device = {};  // none: the node chooses
  friend bool operator==(const CopyPlace&, const CopyPlace&) = default;
};
/// One segment's copies, each on another node.
using SegmentPlace = std::vector<CopyPlace>;

/// Chooses nodes and worker processes for new segments. A node is good if it is online and neither suspect
/// nor to be avoided. Where fewer than `copies` are,
///   - a segment that is wanted now is put on the good ones, if these are at least `min_copies`, else on what
///   is
///     online;
///   - a spare as well, but not one copy alone (a grant for one copy on a dead node could not be fenced), and
///   only
///     on good nodes.
/// A node that is good and full is no reason for fewer copies.
///
/// Nodes are chosen by, in order of weight:
///   1. no two copies on one node, no offline or full node: always;
///   2. nodes that are not to be avoided;
///   3. another rack for each copy;
///   4. nodes that are not slow; but where those are no more than the copies, a spare is rather slow than on
///      the nodes of the segments chosen before;
///   5. other nodes than those of the segments chosen before in the same request, so that a spare outlives
///   them;
///   6. in proportion to free blocks, less where appends wait (smooth weighted round-robin, as nginx's
///   upstream does).
/// Among a node's workers the least busy is taken, in turn where they are equal.
///
/// A plain state machine: its state is whose turn it is. No clock, no threads.
class Placer {
 public:
  /// @return 1 .. request.grants places
  /// @errors unavailable: too few nodes online, for spares too few good ones; no_space: too few with a free
  /// block
  Result<std::vector<SegmentPlace>> place(std::span<const NodeLoad> nodes, const PlacementRequest& request);

 private:
  struct Candidate;
  WorkerId next_worker(const NodeLoad& node);

  std::map<NodeId, double> credit_;
  std::map<NodeId, std::uint64_t> turn_;
};

}  // namespace reelfs::indexd
