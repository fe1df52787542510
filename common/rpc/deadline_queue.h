#pragma once

#include <cstdint>
#include <functional>
#include <memory>

#include <boost/asio/any_io_executor.hpp>

#include "common/base/clock.h"

namespace reelfs::rpc {

namespace asio = boost::asio;

/// The deadlines of all calls of one connection, behind one timer. Lives on one loop.
class DeadlineQueue {
 public:
  /// @param expired  called from the loop with the id of each entry whose deadline has passed, after its
  /// removal
  DeadlineQueue(asio::any_io_executor executor, const Clock& clock,
                std::function<void(std::uint64_t id)> expired);
  ~DeadlineQueue();
  DeadlineQueue(const DeadlineQueue&) = delete;
  DeadlineQueue& operator=(const DeadlineQueue&) = delete;

  void add(Deadline deadline, std::uint64_t id);
  /// Ignored where the entry is not there.
  void remove(Deadline deadline, std::uint64_t id);
  /// Removes all and stops the timer.
  void clear();

 private:
  struct State;
  std::shared_ptr<State> state_;
};

}  // namespace reelfs::rpc
