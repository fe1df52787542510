#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <set>
#include <vector>

#include "client/writer/actions.h"
#include "common/base/clock.h"
#include "common/base/units.h"

namespace reelfs::client {

struct WriterCoreOptions {
  // Grants held ahead of need; and one more where, as with two copies on three nodes, these do not suffice to
  // avoid any one node of the current segment.
  std::uint32_t spares = 1;
  std::uint64_t window_bytes = 16 * kMiB;  // appended to a segment and not yet acknowledged
  std::uint64_t unit_bytes =
      2 * kMiB;  // pieces that wait are packed up to this: one of full size, or many small ones
  std::size_t eager_units = 4;  // so many may be under way before a small unit waits for others to join it
  Duration piece_timeout = std::chrono::seconds(30);  // a piece that is not placed by then fails
  /// A copy that owes replies and gives none for so long is left for a spare that avoids its node, where one
  /// is held,
  Duration switch_timeout = std::chrono::milliseconds(300);
  /// after so long where another copy of the segment does better,
  Duration append_timeout = std::chrono::milliseconds(700);
  /// and after so long where all are as slow.
  Duration silence_timeout = std::chrono::seconds(2);
  Duration full_patience =
      std::chrono::seconds(2);  // no_space may pass: blocks of what was deleted are being freed
  Duration idle_timeout = std::chrono::seconds(60);    // grants unused for so long are given back
  Duration suspicion = std::chrono::seconds(3);        // a node that failed is avoided for so long
  Duration suspicion_most = std::chrono::seconds(60);  // twice as long each time that it fails right after
  Duration cover_interval =
      std::chrono::seconds(5);  // between requests for a spare that no node can have: see spares
  Duration retry_least =
      std::chrono::milliseconds(50);  // between attempts that fail one after another, doubling
  Duration retry_most = std::chrono::seconds(1);
};

/// Decides how one channel's pieces get into segments: a plain state machine, without clock, socket or
/// coroutine. Events are reported by the calls below; `advance` then says what to do. See README.md beside.
///
/// Promises to its user:
///  - each queued piece is placed once or fails once, unless it was abandoned;
///  - a piece is placed when every copy of its segment has acknowledged up to the end of its unit;
///  - units of one segment are sent in the order of their offsets, without gaps;
///  - each grant that arrived is returned once, after all its units are acknowledged or a copy has failed;
///  - a segment with fewer copies than the channel asks for is left as soon as a whole one is granted.
class WriterCore {
 public:
  explicit WriterCore(WriterCoreOptions options);

  // ---- events

  /// @param piece  greater than all before   @param payload_bytes  1 .. wire::kMaxRecordPayload
  /// @pre close() was not called
  void queue(PieceId piece, std::uint32_t payload_bytes, TimePoint now);
  /// Nobody waits for the piece any more. It may be stored all the same.
  void abandon(PieceId piece);
  /// @param grants  maybe fewer than were asked for, and none of those asked for ahead
  void grants_arrived(GrantUse use, std::vector<SegmentGrant> grants, TimePoint now);
  void grants_failed(GrantUse use, Error error, TimePoint now);
  /// @param end  the copy has every byte of the segment before it
  void copy_acked(SegmentId segment, Generation generation, std::size_t copy, std::uint64_t end,
                  TimePoint now);
  void copy_failed(SegmentId segment, Generation generation, std::size_t copy, Error error, TimePoint now);
  /// No more pieces will come: place those that wait, then give everything back.
  void close();

  // ---- decisions

  /// What is to be done now, in this order.
  std::vector<WriterAction> advance(TimePoint now);
  /// When `advance` is to be called though no event happens.
  std::optional<TimePoint> next_deadline() const;
  /// After close(): nothing is queued, under way or held. A request for grants may still be unanswered.
  bool finished() const;

 private:
  struct Piece {
    std::uint64_t record_bytes;
    TimePoint queued_at;
  };
  struct Unit {
    std::uint64_t end;
    std::vector<UnitPiece> pieces;
  };
  struct Copy {
    NodeId node;
    std::uint64_t acked;
    TimePoint progress_at;  // of the last acknowledgement, or when it began to owe one
  };
  struct Segment {
    SegmentGrant grant;
    std::uint64_t end;  // of what was sent
    std::vector<Copy> copies;
    std::deque<Unit> units;  // not acknowledged by all
    std::uint64_t acked() const;
    std::uint64_t room() const { return grant.block_bytes - end; }
  };

  struct Spare {
    SegmentGrant grant;
    bool tainted = false;  // one of its nodes has failed since it was granted: for want of another only
  };

  Segment* find(SegmentId segment, Generation generation);
  Segment* current() { return current_ ? &segments_.at(current_) : nullptr; }
  bool suspect(NodeId node) const;
  bool suspect(const SegmentGrant& grant) const;
  bool usable(const Spare& spare) const { return !spare.tainted && !suspect(spare.grant); }
  bool may_use_suspects() const;
  /// Whether a usable spare avoids the node, and all others that are slow.
  bool can_leave(NodeId node) const;
  std::set<NodeId> to_avoid() const;
  /// A node of the current segment that no usable spare avoids.
  std::optional<NodeId> uncovered() const;

  void place_acked(Segment& segment);
  void fail_segment(Segment& segment, std::size_t copy, Error error, TimePoint now);
  void suspect_node(NodeId node, TimePoint now);
  void fail_piece(PieceId piece, Error error);
  void stop_waiting(PieceId piece);
  void return_grant(const SegmentGrant& grant, std::uint64_t length);
  void return_unowing(Segment& segment);
  void retire_current();
  void leave_lesser();
  void delay_next_try(TimePoint now);

  TimePoint leave_at(const Segment& segment, std::size_t copy) const;
  std::optional<TimePoint> next_copy_deadline() const;
  void expire_copies(TimePoint now);
  void expire_pieces(TimePoint now);
  void send_units(TimePoint now);
  bool take_grant(TimePoint now);
  std::optional<SendUnit> plan_unit(const Segment& segment) const;
  void return_idle(TimePoint now);
  void return_surplus();
  struct Suspicion {
    TimePoint until;
    Duration length;  // twice as long each time that it follows upon another
  };
  /// Requests of one kind: the one under way, and when the next may follow.
  struct Asking {
    std::size_t requested = 0;  // grants, in a request that is not answered
    GrantUse use = GrantUse::now;
    std::uint64_t knowing = 0;  // news_ when the last request was made
    TimePoint next_at{};
    Duration delay{};
  };
  Asking& asking(GrantUse use) { return use == GrantUse::now ? asking_now_ : asking_ahead_; }
  bool may_ask(const Asking& asking, TimePoint now) const;
  void delay_next_request(Asking& asking, TimePoint now);
  void request_grants(TimePoint now);
  void request(GrantUse use, std::size_t count, std::set<NodeId> avoid);
  bool needs_grant() const { return !waiting_.empty() && !current_; }
  std::size_t usable_spares() const;
  std::size_t spares_missing() const;

  const WriterCoreOptions options_;
  TimePoint advanced_at_{};
  bool closing_ = false;
  std::vector<WriterAction> actions_;  // decided by events, for the next advance

  std::map<PieceId, Piece> pieces_;  // not placed; older ones first, and so in the order of their deadlines
  std::set<PieceId> waiting_;        // those of them that are in no unit
  std::uint64_t waiting_bytes_ = 0;  // their records
  TimePoint used_at_{};              // a piece was queued or placed

  std::map<SegmentId, Segment>
      segments_;       // written to: the current one, and full ones that owe acknowledgements
  SegmentId current_;  // none: the next piece takes a grant
  std::deque<Spare> spares_;

  Asking asking_now_, asking_ahead_;
  TimePoint next_cover_at_{};                // when a spare for what is uncovered is asked for again
  std::optional<TimePoint> full_answer_at_;  // the last answer was no_space
  TimePoint full_since_{};                   // as those before it, from then on

  std::map<NodeId, Suspicion> suspects_;  // and some that were, for a while
  std::set<NodeId> slow_;                 // owe replies for longer than switch_timeout
  std::uint64_t news_ = 0;                // so often one of these two grew
  std::uint64_t news_answered_ = 0;       // as much of it the index knew when it last gave a grant for now
  TimePoint suspicion_at_{};
  TimePoint next_try_at_{};  // after failures one after another
  Duration try_delay_{};
  std::optional<Error> last_error_;
};

}  // namespace reelfs::client
