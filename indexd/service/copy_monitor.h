#pragma once

#include <cstdint>
#include <map>
#include <vector>

#include "common/base/ids.h"
#include "common/wire/index.pb.h"
#include "indexd/schema/rows.h"

namespace reelfs::indexd {

class CopyOrders;
class NodeRegistry;
class ScrubKeeper;
class SegmentKeeper;

/// Tells the state of each copy, out of what those know who deal with copies. docs/design/repair.md, "States"
class CopyMonitor {
 public:
  CopyMonitor(const NodeRegistry& nodes, const SegmentKeeper& segments, const CopyOrders& copies,
              const ScrubKeeper& scrubs)
      : nodes_(nodes), segments_(segments), copies_(copies), scrubs_(scrubs) {}

  wire::CopyState state(SegmentId segment, const SegmentRow& row, const SegmentCopy& copy) const;
  /// Sets the states of the copies that are named.
  void describe(wire::SegmentInfo& info) const;
  /// Adds those that are no part of the row: that are being made, or are to be freed.
  void add_others(wire::SegmentInfo& info) const;

  struct Count {
    std::uint64_t copies = 0;
    std::uint64_t bytes = 0;
  };
  using Counts = std::map<wire::CopyState, Count>;
  void count(SegmentId segment, const SegmentRow& row, Counts& counts) const;
  /// Those that are no part of a row.
  void count_others(Counts& counts) const;

 private:
  const NodeRegistry& nodes_;
  const SegmentKeeper& segments_;
  const CopyOrders& copies_;
  const ScrubKeeper& scrubs_;
};

}  // namespace reelfs::indexd
