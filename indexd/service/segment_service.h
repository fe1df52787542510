#pragma once

#include "common/async/task.h"
#include "common/wire/index.pb.h"
#include "indexd/service/dispatcher.h"
#include "indexd/service/options.h"

namespace reelfs::indexd {

class Executor;
class NodeRegistry;
class Overwriter;
class RollForward;
class SegmentKeeper;
class Sessions;

/// Grants segments to writers and takes them back.
class SegmentService {
 public:
  SegmentService(const Clock& clock, Executor& index, Sessions& sessions, NodeRegistry& nodes,
                 SegmentKeeper& segments, Overwriter& overwriter, RollForward& roll_forward)
      : clock_(clock),
        index_(index),
        sessions_(sessions),
        nodes_(nodes),
        segments_(segments),
        overwriter_(overwriter),
        roll_forward_(roll_forward) {}
  void register_with(Dispatcher& dispatcher);

  Task<wire::OpenSegmentReply> open_segment(wire::OpenSegmentRequest request);
  Task<wire::Empty> close_segment(wire::CloseSegmentRequest request);

 private:
  bool has_plenty(std::uint32_t copies) const;

  const Clock& clock_;
  Executor& index_;
  Sessions& sessions_;
  NodeRegistry& nodes_;
  SegmentKeeper& segments_;
  Overwriter& overwriter_;
  RollForward& roll_forward_;
};

}  // namespace reelfs::indexd
