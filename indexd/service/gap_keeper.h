#pragma once

#include <cstddef>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <boost/asio/any_io_executor.hpp>
#include <prometheus/family.h>
#include <prometheus/gauge.h>
#include <prometheus/registry.h>

#include "common/async/task.h"
#include "common/async/task_group.h"
#include "common/base/clock.h"
#include "common/base/ids.h"
#include "common/wire/index.pb.h"
#include "indexd/gaps/channel_watch.h"
#include "indexd/service/dispatcher.h"
#include "indexd/service/options.h"

namespace reelfs::indexd {

class Executor;
class Sessions;

/// Takes what mounts tell of arrivals, keeps the ledger of gaps, and tells of channels that are silent: in
/// the log, as problems, as metrics and to those who ask. docs/design/gaps.md
///
/// Lives on one io_context; `stop()` before destroying.
class GapKeeper {
 public:
  GapKeeper(asio::any_io_executor executor, const Clock& clock, Executor& index, Sessions& sessions,
            const ServiceOptions& options, prometheus::Registry& registry);
  GapKeeper(const GapKeeper&) = delete;
  GapKeeper& operator=(const GapKeeper&) = delete;

  void register_with(Dispatcher& dispatcher);
  /// Goes on with the channels that are recorded to. @errors io, corrupt
  Task<void> start();
  asio::awaitable<void> stop();

  Task<wire::Empty> report_arrivals(wire::ReportArrivalsRequest request);
  Task<wire::ListGapsReply> list_gaps(wire::ListGapsRequest request);
  void session_ended(SessionId session);
  std::vector<wire::Problem> problems() const;

 private:
  struct Channel {
    std::string name;
    ChannelWatch watch;
    std::optional<ChannelWatch::Open> told;  // of what the log says that it lasts
    WatchRow stored;                         // without its count of gaps
    TimePoint stored_at;
  };
  struct Gauges {
    std::string name;
    std::vector<std::pair<prometheus::Family<prometheus::Gauge>*, prometheus::Gauge*>> all;
    std::size_t used = 0;
  };
  struct Unsaved {
    InodeId channel;
    WatchRow row;
    std::vector<tree::GapChange> changes;
  };

  Moment moment() const { return {clock_.now(), clock_.wall().time_since_epoch().count()}; }
  asio::awaitable<void> run();
  Task<void> read_names();
  Task<bool> learn_of(InodeId channel);
  void collect(InodeId id, Channel& channel, TimePoint now);
  Task<void> save();
  void tell(Channel& channel, TimePoint now);
  void forget(InodeId channel);
  void measure(InodeId id, const Channel& channel, TimePoint now);

  const Clock& clock_;
  Executor& index_;
  Sessions& sessions_;
  const ServiceOptions& options_;
  prometheus::Family<prometheus::Gauge>& silence_;
  prometheus::Family<prometheus::Gauge>& silent_;
  prometheus::Family<prometheus::Gauge>& cadence_;
  prometheus::Family<prometheus::Gauge>& stall_;
  prometheus::Family<prometheus::Gauge>& gaps_;
  prometheus::Family<prometheus::Gauge>& gap_seconds_;
  std::map<InodeId, Channel> channels_;
  std::map<InodeId, Gauges> gauges_;
  std::vector<Unsaved> unsaved_;
  TimePoint started_at_;
  TimePoint judge_from_;  // until then reports may be on their way that were kept from us
  TimePoint names_read_at_;
  TaskGroup group_;
};

}  // namespace reelfs::indexd
