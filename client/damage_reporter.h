#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <tuple>

#include "common/async/task_group.h"
#include "common/base/clock.h"
#include "common/base/ids.h"

namespace reelfs::client {

class IndexClient;

/// Tells the index which copies were found damaged by reading, so that they are repaired: each place once in
/// a while, a few at a time, and nobody waits for it. What is not told is found again by the next reader, or
/// by the node's scrubber. Lives on one io_context.
class DamageReporter {
 public:
  struct Place {
    SegmentId segment;
    NodeId node;
    std::uint64_t offset = 0;
    std::uint64_t length = 0;
  };
  DamageReporter(const asio::any_io_executor& executor, const Clock& clock, IndexClient& index);
  DamageReporter(const DamageReporter&) = delete;
  DamageReporter& operator=(const DamageReporter&) = delete;

  void report(Place place, std::string why);
  asio::awaitable<void> stop();

 private:
  using Key = std::tuple<SegmentId, NodeId, std::uint64_t>;
  asio::awaitable<void> send(Place place, std::string why);

  const Clock& clock_;
  IndexClient& index_;
  std::map<Key, TimePoint> told_;
  std::size_t under_way_ = 0;
  TaskGroup background_;
};

}  // namespace reelfs::client
