#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "client/writer/core.h"

namespace reelfs::sim {

struct WriterSimOptions {
  bool place_after_first_ack = false;  // a planted bug: one copy's acknowledgement counts for all
};

/// A WriterCore, an index and a few storage nodes in one thread on virtual time, all chances taken from one
/// seed. Connections deliver in order and break; replies overtake each other; nodes stop, stand still and
/// refuse; the index grants segments again, is away, or is full. What must hold is checked all along.
class WriterSim {
 public:
  WriterSim(std::uint64_t seed, WriterSimOptions options);

  /// Queues random pieces through random faults, closes the writer, and runs until nothing happens any more.
  void run();

  /// What did not hold; empty is good.
  const std::vector<std::string>& violations() const { return violations_; }
  std::size_t pieces_placed() const { return placed_count_; }
  std::size_t pieces_failed() const { return failed_count_; }
  std::size_t segments_given_up() const { return given_up_count_; }

 private:
  using PieceId = client::PieceId;

  struct Block {  // one copy of a segment
    Generation generation;
    std::uint64_t length = 0;
    std::map<std::uint32_t, PieceId> records;  // by offset
  };
  struct Append {  // of one unit to one copy
    std::shared_ptr<const client::SendUnit> unit;
    std::size_t copy;
    std::uint64_t connection;
  };
  struct Node {
    NodeId id;
    bool up = true;
    TimePoint stands_until{};
    std::uint64_t connection = 1;  // number of the present one
    TimePoint last_arrival{};
    std::deque<Append> inbox;
    std::vector<Append> unanswered;
    std::map<SegmentId, Block> blocks;
  };
  enum class State { open, unfilled, sealed };
  struct Segment {  // as the index knows it
    SegmentId id;
    Generation generation;
    State state = State::open;
    std::uint64_t length = 0;
    std::vector<NodeId> nodes;
    std::uint64_t sent = 0;                 // by the writer under this generation
    std::vector<std::uint64_t> told_acked;  // to the writer, per copy
  };
  struct Piece {
    TimePoint queued_at;
    std::uint32_t bytes = 0;
    bool abandoned = false;
    bool ended = false;
    SegmentId segment;  // where it was placed
    std::uint32_t record_offset = 0;
  };

  // chance and time
  std::uint64_t below(std::uint64_t bound) { return random_() % bound; }
  bool one_in(std::uint64_t n) { return below(n) == 0; }
  Duration between(Duration least, Duration most);
  void after(Duration delay, std::function<void()> event);
  void violated(const std::string& what);

  // the writer and its user
  void plan_work();
  void plan_faults();
  void queue_piece();
  void advance();
  void perform(client::RequestGrants& action);
  void perform(client::SendUnit& action);
  void perform(client::PiecePlaced& action);
  void perform(client::PieceFailed& action);
  void perform(client::ReturnGrant& action);
  void check_end();

  // nodes
  Node& node(NodeId id) { return nodes_.at(id.value - 1); }
  void serve(Node& node);
  Result<std::uint64_t> append(Node& node, const client::SendUnit& unit);
  void reply(Node& node, const Append& append, Result<std::uint64_t> result);
  void break_connection(Node& node);

  // the index
  void open_segments(const client::RequestGrants& request);
  bool grant(bool is_spare, const std::vector<NodeId>& avoid, std::vector<client::SegmentGrant>& grants);
  void close_segment(const client::ReturnGrant& returned);

  const WriterSimOptions options_;
  std::mt19937_64 random_;
  TimePoint now_{std::chrono::hours(1)};
  std::multimap<TimePoint, std::function<void()>> events_;
  std::vector<std::string> violations_;

  const bool long_outages_;  // pieces may fail
  const std::uint64_t block_bytes_;
  const std::size_t copies_, min_copies_;
  client::WriterCoreOptions core_options_;
  client::WriterCore core_;
  TimePoint due_{TimePoint::max()};               // the core's next deadline
  bool asked_now_ = false, asked_ahead_ = false;  // requests under way
  std::map<PieceId, Piece> pieces_;
  std::size_t placed_count_ = 0;
  std::size_t failed_count_ = 0;
  std::size_t given_up_count_ = 0;

  std::deque<Node> nodes_;
  std::map<SegmentId, Segment> segments_;
  TimePoint index_away_until_{};
  TimePoint full_until_{};
  TimePoint full_answers_since_{TimePoint::max()};
  Errc index_error_ = Errc::unavailable;
};

}  // namespace reelfs::sim
