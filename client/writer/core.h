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
  std::uint32_t spares = 1;                // grants held ahead of need
  std::uint64_t window_bytes = 16 * kMiB;  // appended to a segment and not yet acknowledged
  std::uint64_t unit_bytes =
      2 * kMiB;  // pieces that wait are packed up to this: one of full size, or many small ones
  std::size_t eager_units = 4;  // so many may be under way before a small unit waits for others to join it
  Duration piece_timeout = std::chrono::seconds(30);  // a piece that is not placed by then fails
  Duration append_timeout =
      std::chrono::seconds(2);  // a copy that owes replies and gives none for so long has failed
  Duration full_patience =
      std::chrono::seconds(2);  // no_space may pass: blocks of what was deleted are being freed
  Duration idle_timeout = std::chrono::seconds(60);  // grants unused for so long are given back
  Duration suspicion = std::chrono::seconds(10);     // a node that failed is avoided for so long
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
///  - each grant that arrived is returned once, after all its units are acknowledged or a copy has failed.
class WriterCore {
 public:
  explicit WriterCore(WriterCoreOptions options);

  // ---- events

  /// @param piece  greater than all before   @param payload_bytes  1 .. wire::kMaxRecordPayload
  /// @pre close() was not called
  void queue(PieceId piece, std::uint32_t payload_bytes, TimePoint now);
  /// Nobody waits for the piece any more. It may be stored all the same.
  void abandon(PieceId piece);
  void grants_arrived(std::vector<SegmentGrant> grants, TimePoint now);
  void grants_failed(Error error, TimePoint now);
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

  Segment* find(SegmentId segment, Generation generation);
  Segment* current() { return current_ ? &segments_.at(current_) : nullptr; }
  bool suspect(const SegmentGrant& grant) const;
  bool may_use_suspects() const;

  void place_acked(Segment& segment);
  void fail_segment(Segment& segment, std::size_t copy, Error error, TimePoint now);
  void fail_piece(PieceId piece, Error error);
  void stop_waiting(PieceId piece);
  void return_grant(const SegmentGrant& grant, std::uint64_t length);
  void return_unowing(Segment& segment);
  void retire_current();
  void delay_next_try(TimePoint now);

  void expire_copies(TimePoint now);
  void expire_pieces(TimePoint now);
  void send_units(TimePoint now);
  bool take_grant(TimePoint now);
  std::optional<SendUnit> plan_unit(const Segment& segment) const;
  void return_idle(TimePoint now);
  void return_surplus();
  void request_grants(TimePoint now);
  std::size_t grants_missing() const;

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
  std::deque<SegmentGrant> spares_;

  std::size_t requested_ = 0;            // grants, in a request that is not answered
  std::uint64_t requested_knowing_ = 0;  // suspicions_ when the request was made
  TimePoint next_request_at_{};
  Duration request_delay_{};
  std::optional<TimePoint> full_answer_at_;  // the last answer was no_space
  TimePoint full_since_{};                   // as those before it, from then on

  std::map<NodeId, TimePoint> suspects_;   // until when
  std::uint64_t suspicions_ = 0;           // so many arose
  std::uint64_t suspicions_answered_ = 0;  // of which the index knew so many when it last answered
  TimePoint suspicion_at_{};
  TimePoint next_try_at_{};  // after failures one after another
  Duration try_delay_{};
  std::optional<Error> last_error_;
};

}  // namespace reelfs::client
