#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "common/base/buffer.h"
#include "common/base/clock.h"
#include "common/base/ids.h"
#include "common/base/units.h"

namespace reelfs::client {

/// Bytes [skip, skip + length) of `bytes`, to be seen at file offset `offset`.
struct OverlayPart {
  std::uint64_t offset = 0;
  std::size_t skip = 0;
  std::size_t length = 0;
  SharedBuffer bytes;
};

/// What was written to one file and is not yet committed to the index: pieces in the order in which they
/// shadow each other.
///
/// A piece is *collecting* while writes may still change it, then *sealed*, *sending*, *placed* (it lies on
/// the nodes), and gone once committed or failed. A write joins a collecting piece that it touches, unless a
/// younger piece overlaps the write: the order of effects is always that of the writes. Pieces are committed
/// strictly in order, so what other mounts see is some earlier state of the file.
///
/// Knows no lock, clock, or loop: whoever owns it serialises the calls.
class WriteBuffer {
 public:
  using PieceNumber = std::uint64_t;  // grows in write order; 0 is none. Its record's sequence
  /// Gives numbers to the pieces of many files: of two pieces, the one that was begun later has the greater.
  using Numbers = std::atomic<std::uint64_t>;
  static constexpr std::size_t kMaxPieceBytes = kMiB;

  /// A piece to be stored.
  struct Ready {
    PieceNumber number = 0;
    std::uint64_t offset = 0;
    SharedBuffer bytes;
  };
  /// A placed piece, as the index's extents say it.
  struct PlacedExtent {
    std::uint64_t offset = 0;
    std::uint64_t length = 0;
    SegmentId segment;
    std::uint32_t record_offset = 0;
  };
  struct CommitBatch {
    PieceNumber through = 0;            // 0: nothing to commit
    std::vector<PlacedExtent> extents;  // in write order
    std::uint64_t end = 0;              // of the furthest
    std::int64_t mtime_ns = 0;
  };

  /// @param numbers  the last number given
  explicit WriteBuffer(std::shared_ptr<Numbers> numbers = std::make_shared<Numbers>(0))
      : numbers_(std::move(numbers)) {}

  /// Collects the bytes. A full piece is sealed at once. @return how many pieces were begun
  std::size_t write(std::uint64_t offset, std::span<const std::byte> bytes, TimePoint now,
                    std::int64_t mtime_ns);

  /// Seals every collecting piece that was begun at or before `begun`.
  void seal(TimePoint begun = TimePoint::max());
  /// Sealed pieces in write order; from now on they are sending.
  std::vector<Ready> take_ready();
  bool has_ready() const { return !sealed_.empty(); }

  void placed(PieceNumber number, SegmentId segment, std::uint32_t record_offset);
  /// Forgets the piece's bytes. @return when it was begun
  TimePoint failed(PieceNumber number);

  /// The longest run of placed pieces at the front, at most `limit`; they stay until committed().
  CommitBatch committable(std::size_t limit) const;
  /// The places of the pieces up to and including this one turned out not to last: they are to be stored
  /// anew.
  /// @pre they were in a CommitBatch  @return false, and nothing is changed, where one of them has had its
  /// share of tries
  bool store_anew(PieceNumber through);
  /// Forgets the pieces up to and including this one. @pre they were in a CommitBatch  @return when each was
  /// begun
  std::vector<TimePoint> committed(PieceNumber through);

  /// The bytes of [offset, offset + length) that are held here, in the order in which they shadow what lies
  /// below.
  std::vector<OverlayPart> overlay(std::uint64_t offset, std::size_t length) const;

  bool empty() const { return pieces_.empty(); }
  PieceNumber newest() const { return newest_; }
  /// The first piece behind this one that is neither committed nor failed; 0: there is none.
  PieceNumber first_after(PieceNumber number) const;
  /// True where no piece up to this one is still on its way to the nodes.
  bool settled_through(PieceNumber number) const;
  /// True where no piece up to this one is left.
  bool committed_through(PieceNumber number) const {
    return pieces_.empty() || pieces_.front().number > number;
  }
  /// End of the furthest byte held; 0 when empty.
  std::uint64_t end() const;
  /// Of the last write; only meaningful while something is held.
  std::int64_t mtime_ns() const { return mtime_ns_; }
  std::optional<TimePoint> oldest_write() const;
  /// Memory held.
  std::size_t held_bytes() const { return held_bytes_; }
  /// Bytes that wait for nothing but the commit.
  std::size_t placed_bytes() const { return placed_bytes_; }

 private:
  enum class Stage : std::uint8_t { collecting, sealed, sending, placed };
  struct Piece {
    PieceNumber number = 0;
    Stage stage = Stage::collecting;
    std::uint64_t offset = 0;
    std::size_t size = 0;
    TimePoint begun;
    std::int64_t mtime_ns = 0;
    Buffer collected;    // until it is sent
    SharedBuffer bytes;  // from then on
    SegmentId segment;
    std::uint32_t record_offset = 0;
    std::uint32_t tries = 0;  // to store it
    std::uint64_t end() const { return offset + size; }
    std::size_t capacity() const { return bytes ? bytes->capacity() : collected.capacity(); }
  };
  using Pieces = std::deque<Piece>;

  Piece* joinable(std::uint64_t offset, std::size_t length);
  void put(Piece& piece, std::uint64_t offset, std::span<const std::byte> bytes);
  void seal(Piece& piece);
  Pieces::iterator find(PieceNumber number);
  void forget(const Piece& piece);

  void skip_placed();

  std::shared_ptr<Numbers> numbers_;
  Pieces pieces_;  // ascending numbers
  PieceNumber newest_ = 0;
  std::vector<PieceNumber> collecting_;  // ascending
  std::vector<PieceNumber> sealed_;
  std::size_t placed_run_ = 0;  // that many pieces at the front are placed
  std::size_t held_bytes_ = 0;
  std::size_t placed_bytes_ = 0;
  std::int64_t mtime_ns_ = 0;
};

}  // namespace reelfs::client
