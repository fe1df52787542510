#pragma once

#include <cstddef>

#include "common/async/task.h"
#include "common/base/buffer.h"
#include "common/wire/node.pb.h"
#include "noded/segment/segment_store.h"

namespace reelfs::noded {

/// Takes what first copies' processes send on. docs/design/async.md
class ReceiveUnit {
 public:
  explicit ReceiveUnit(SegmentStore& store) : store_(store) {}
  ReceiveUnit(const ReceiveUnit&) = delete;
  ReceiveUnit& operator=(const ReceiveUnit&) = delete;

  /// Appends a unit where it continues the copy, or what is on its way to it; where it does not, nothing is
  /// written and the answer says from where on it would. Checked as any append is.
  /// @errors not_found, stale_generation, no_space, corrupt, io, busy
  Task<wire::SendOnReply> take(wire::SendOnRequest request, Buffer unit);

 private:
  std::uint64_t window() const;

  SegmentStore& store_;
  std::size_t taking_ = 0;  // units
};

}  // namespace reelfs::noded
