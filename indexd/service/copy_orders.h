#pragma once

#include <cstdint>
#include <list>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include <prometheus/counter.h>
#include <prometheus/registry.h>

#include "common/async/condition.h"
#include "common/async/task.h"
#include "common/base/clock.h"
#include "common/base/ids.h"
#include "common/wire/node.pb.h"
#include "indexd/repair/pace.h"
#include "indexd/schema/rows.h"
#include "indexd/segments/life.h"
#include "indexd/service/options.h"

namespace reelfs::indexd {

class NodeRegistry;

/// A copy of a segment that is to be whole.
struct CopyOrder {
  SegmentId segment;
  InodeId channel;
  NodeId node;
  WorkerId worker;  // preferred: any other of the node will do
  Generation generation;
  std::uint64_t length = 0;
  std::vector<SegmentCopy> sources;
  DeviceId device;  // on which it is to be, besides the one that the node has; none: the node chooses
  CopyUse use = CopyUse::repair;
};

/// Has nodes make copies whole, piece by piece: a few at once in the whole cluster, one at a time through
/// each worker, at one pace for all. docs/design/repair.md, "Copying one segment"
///
/// Lives on one io_context and outlives those who wait.
class CopyOrders {
 public:
  CopyOrders(const Clock& clock, NodeRegistry& nodes, const ServiceOptions& options,
             prometheus::Registry& registry);
  CopyOrders(const CopyOrders&) = delete;
  CopyOrders& operator=(const CopyOrders&) = delete;

  /// Returns when the copy is whole and on stable storage. Repeating it is safe.
  /// @errors unavailable (the node or all sources are silent), and what the node answered
  Task<BlockPlace> carry_out(CopyOrder order);

  struct UnderWay {
    CopyOrder order;
    WorkerId worker;          // that makes it
    std::uint64_t valid = 0;  // bytes of it that are there
    TimePoint since;
  };
  const std::list<UnderWay>& under_way() const { return under_way_; }
  /// Since this process began, as those below.
  std::uint64_t copies_made() const { return static_cast<std::uint64_t>(copies_.Value()); }
  std::uint64_t failures() const { return static_cast<std::uint64_t>(failures_.Value()); }
  std::uint64_t copied_bytes() const { return static_cast<std::uint64_t>(copied_bytes_.Value()); }

 private:
  class Slot;
  WorkerId free_worker(const CopyOrder& order) const;
  Task<wire::CopySegmentReply> give(UnderWay& copy);
  std::uint32_t appends_waiting(const CopyOrder& order) const;

  const Clock& clock_;
  NodeRegistry& nodes_;
  RepairPace pace_;
  RepairPace balance_pace_;
  std::list<UnderWay> under_way_;
  Condition slot_free_;
  prometheus::Counter& copied_bytes_;
  prometheus::Counter& copies_;
  prometheus::Counter& failures_;
};

}  // namespace reelfs::indexd
