#pragma once

#include "common/async/task.h"
#include "common/base/clock.h"
#include "common/wire/index.pb.h"
#include "indexd/service/dispatcher.h"
#include "indexd/tree/times.h"

namespace reelfs::indexd {

class Executor;
class Sessions;

/// Answers which recordings have bytes of a time. docs/design/time.md
class RecordingService {
 public:
  RecordingService(const Clock& clock, Executor& index, Sessions& sessions)
      : clock_(clock), index_(index), sessions_(sessions) {}
  void register_with(Dispatcher& dispatcher);

  Task<wire::FindRecordingsReply> find_recordings(wire::FindRecordingsRequest request);
  Task<wire::FindTimesReply> find_times(wire::FindTimesRequest request);

  /// A search as of now. @param range  anything with from_ns and to_ns
  template <class Range>
  static tree::TimeSearch search(const Range& range, const Sessions& sessions, const Clock& clock) {
    tree::TimeRange time;
    if (range.has_from_ns()) time.from = range.from_ns();
    if (range.has_to_ns()) time.to = range.to_ns();
    return search_for(time, sessions, clock);
  }

 private:
  static tree::TimeSearch search_for(const tree::TimeRange& time, const Sessions& sessions,
                                     const Clock& clock);

  const Clock& clock_;
  Executor& index_;
  Sessions& sessions_;
};

}  // namespace reelfs::indexd
