#pragma once

#include <map>
#include <memory>

#include <boost/asio/any_io_executor.hpp>

#include "client/arrivals/channel_arrivals.h"
#include "common/async/event.h"
#include "common/async/task.h"
#include "common/async/task_group.h"
#include "common/base/clock.h"
#include "common/base/ids.h"

namespace reelfs::client {

class IndexClient;

/// Tells the index when bytes of channels came, twice a second while anybody has a file open for writing.
/// docs/design/gaps.md. Lives on one loop; `stop()` before destroying.
class Arrivals {
 public:
  Arrivals(asio::any_io_executor executor, const Clock& clock, IndexClient& index);

  void start();
  /// Tells what is left, where the index answers at once, and joins.
  asio::awaitable<void> stop();
  /// Tells what there is to tell. @errors those of the call
  Task<void> tell(Deadline deadline);

  std::shared_ptr<ChannelArrivals> of(InodeId channel);
  void writer_opened(InodeId channel);
  void writer_closed(InodeId channel);

  /// While it lives a call of a recorder waits.
  class Waiting {
   public:
    Waiting(Arrivals& owner, InodeId channel);
    ~Waiting();
    Waiting(const Waiting&) = delete;
    Waiting& operator=(const Waiting&) = delete;

   private:
    const Clock& clock_;
    const std::shared_ptr<ChannelArrivals> channel_;
    const TimePoint since_;
  };

 private:
  bool is_active() const;
  asio::awaitable<void> run();

  const Clock& clock_;
  IndexClient& index_;
  std::map<InodeId, std::shared_ptr<ChannelArrivals>> channels_;
  Event opened_;
  TaskGroup group_;
};

}  // namespace reelfs::client
