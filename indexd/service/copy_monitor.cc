#include "indexd/service/copy_monitor.h"

#include <algorithm>

#include "indexd/service/copy_orders.h"
#include "indexd/service/node_registry.h"
#include "indexd/service/scrub_keeper.h"
#include "indexd/service/segment_keeper.h"

namespace reelfs::indexd {
namespace {

/// The order makes this very copy whole, and not another one on the same node.
bool is_of(const CopyOrder& order, SegmentId segment, const SegmentCopy& copy) {
  return order.segment == segment && order.node == copy.node &&
         (!order.device || order.device == copy.device);
}

/// The copy that the order makes is one of the row's.
bool is_completed(const CopyOrder& order, const SegmentRow& row) {
  return std::any_of(row.copies.begin(), row.copies.end(),
                     [&](const SegmentCopy& copy) { return is_of(order, order.segment, copy); });
}

SegmentCopy copy_of(const wire::CopyInfo& told) {
  return {NodeId{told.node()}, WorkerId{told.worker()}, DeviceId{told.device()}, told.block()};
}

}  // namespace

wire::CopyState CopyMonitor::state(SegmentId segment, const SegmentRow& row, const SegmentCopy& copy) const {
  if (row.state == SegmentState::freeing) return wire::COPY_STALE;
  if (!nodes_.reachable(copy.node, copy.device)) return wire::COPY_MISSING;
  const auto& orders = copies_.under_way();
  if (std::any_of(orders.begin(), orders.end(),
                  [&](const auto& under_way) { return is_of(under_way.order, segment, copy); }))
    return wire::COPY_COPYING;
  if (segments_.is_behind(segment, copy.node)) return wire::COPY_BEHIND;
  if (scrubs_.is_damaged(segment, copy.node)) return wire::COPY_CORRUPT;
  return row.state == SegmentState::sealed ? wire::COPY_SEALED : wire::COPY_OPEN;
}

void CopyMonitor::describe(wire::SegmentInfo& info) const {
  const SegmentId segment{info.segment()};
  SegmentRow row;
  row.state = static_cast<SegmentState>(info.state());
  for (auto& told : *info.mutable_copies()) {
    const auto copy = copy_of(told);
    told.set_available(nodes_.reachable(copy.node, copy.device));
    told.set_state(state(segment, row, copy));
    for (const auto& under_way : copies_.under_way()) {
      if (is_of(under_way.order, segment, copy)) told.set_valid_bytes(under_way.valid);
    }
  }
}

void CopyMonitor::add_others(wire::SegmentInfo& info) const {
  const SegmentId segment{info.segment()};
  for (const auto& under_way : copies_.under_way()) {
    const auto& order = under_way.order;
    const bool is_named =
        std::any_of(info.copies().begin(), info.copies().end(),
                    [&](const wire::CopyInfo& told) { return is_of(order, segment, copy_of(told)); });
    if (order.segment != segment || is_named) continue;
    auto& told = *info.add_copies();
    told.set_node(order.node.value);
    told.set_worker(under_way.worker.value);
    told.set_device(order.device.value);
    told.set_state(wire::COPY_COPYING);
    told.set_valid_bytes(under_way.valid);
  }
  for (const auto& stale : segments_.stale_copies(segment)) {
    auto& told = *info.add_copies();
    told.set_node(stale.node.value);
    told.set_device(stale.device.value);
    told.set_block(stale.block);
    told.set_state(wire::COPY_STALE);
  }
}

void CopyMonitor::count(SegmentId segment, const SegmentRow& row, Counts& counts) const {
  if (row.state == SegmentState::freeing) return;
  for (const auto& copy : row.copies) {
    auto& count = counts[state(segment, row, copy)];
    ++count.copies;
    count.bytes += row.length;
  }
  for (const auto& under_way : copies_.under_way()) {
    if (under_way.order.segment != segment || is_completed(under_way.order, row)) continue;
    auto& count = counts[wire::COPY_COPYING];
    ++count.copies;
    count.bytes += row.length;
  }
}

void CopyMonitor::count_others(Counts& counts) const {
  for (const auto& stale : segments_.stale_copies()) {
    auto& count = counts[wire::COPY_STALE];
    ++count.copies;
    count.bytes += stale.length;
  }
}

}  // namespace reelfs::indexd
