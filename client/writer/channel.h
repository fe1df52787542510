#pragma once

#include <memory>
#include <unordered_map>
#include <vector>

#include <boost/asio/steady_timer.hpp>

#include "client/node_pool.h"
#include "client/writer.h"
#include "client/writer/core.h"
#include "client/writer/syncer.h"
#include "common/async/event.h"
#include "common/async/task_group.h"

namespace reelfs::wire {
class Grant;
}

namespace reelfs::client {

/// One channel's WriterCore, its connections and its timer: reports to the core what happens and does what it
/// says. Lives on one io_context.
class ChannelWriter {
 public:
  ChannelWriter(asio::io_context& context, const Clock& clock, IndexClient& index, NodePool& nodes,
                Syncer& syncer, InodeId channel, const WriterOptions& options);
  ~ChannelWriter();
  ChannelWriter(const ChannelWriter&) = delete;
  ChannelWriter& operator=(const ChannelWriter&) = delete;

  Task<Placed> append(Piece piece);

  /// A copy does not flush: its segment is left, if it is written here.
  void copy_is_sick(SegmentId segment, NodeId node, const Error& why);

  /// Takes no more pieces. Those under way are placed, or fail, and all grants go back.
  void close();
  /// close(), and waits until that is done.
  asio::awaitable<void> stop();

 private:
  struct Pending;      // a piece, and who waits for it
  struct OpenSegment;  // a grant's workers, and appends under way

  void wake();
  asio::awaitable<void> drive();

  void perform(RequestGrants& action);
  void perform(SendUnit& action);
  void perform(PiecePlaced& action);
  void perform(PieceFailed& action);
  void perform(ReturnGrant& action);
  void settle(PieceId piece, Result<Placed> result);

  asio::awaitable<void> request_grants(RequestGrants wanted);
  Result<SegmentGrant> accept_grant(const wire::Grant& grant);
  asio::awaitable<void> append_to_copy(WorkerAddress worker, SegmentId segment, Generation generation,
                                       std::size_t copy, std::uint64_t offset, SharedBuffer unit);
  asio::awaitable<void> return_grant(std::unique_ptr<OpenSegment> segment, ReturnGrant returned);
  Task<void> tell_index(ReturnGrant returned, std::uint64_t last_sequence, Deadline deadline);

  asio::io_context& context_;
  const Clock& clock_;
  IndexClient& index_;
  NodePool& nodes_;
  Syncer& syncer_;
  const InodeId channel_;
  const WriterOptions options_;

  WriterCore core_;
  PieceId last_piece_;
  std::unordered_map<PieceId, std::shared_ptr<Pending>> pending_;         // not placed and not failed
  std::unordered_map<SegmentId, std::unique_ptr<OpenSegment>> segments_;  // granted and not returned

  bool closed_ = false;
  bool woken_ = false;  // an event happened since the core last decided
  bool driving_ = true;
  std::size_t returning_ = 0;  // grants on their way back
  asio::steady_timer timer_;
  Event ended_;  // the last of driving_ and returning_
  TaskGroup tasks_;
};

}  // namespace reelfs::client
