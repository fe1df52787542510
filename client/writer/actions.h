#pragma once

#include <cstdint>
#include <optional>
#include <variant>
#include <vector>

#include "common/base/error.h"
#include "common/base/ids.h"

namespace reelfs::client {

using PieceId = Id<struct PieceTag>;  // given by the core's user, ascending

/// The right to append to a segment, as far as WriterCore has to know it.
struct SegmentGrant {
  SegmentId segment;
  Generation generation;
  std::uint64_t offset = 0;  // append from here
  std::uint64_t block_bytes = 0;
  std::vector<NodeId> nodes;      // one per copy
  std::size_t wanted_copies = 0;  // as many as the channel asks for; there may be fewer nodes to be had
  bool lesser() const { return nodes.size() < wanted_copies; }
};

/// A piece's place in a unit, and in the segment.
struct UnitPiece {
  PieceId piece;
  std::uint32_t record_offset = 0;
};

/// What grants are asked for.
enum class GrantUse : std::uint8_t {
  now,    // there is none to go on with: the first may have fewer copies than the channel asks for
  ahead,  // spares: on none of the nodes to be avoided, or none
  cover,  // the same, beyond those held for the next rollover: only where there is plenty of space
};

/// Ask the index for grants. Answered with grants_arrived or grants_failed; one for now and one for spares
/// may be under way at a time.
struct RequestGrants {
  GrantUse use = GrantUse::now;
  std::uint32_t count = 0;
  std::vector<NodeId> avoid;
};

/// Form the unit and append it to every copy of the segment.
struct SendUnit {
  SegmentId segment;
  Generation generation;
  std::uint64_t offset = 0;
  std::uint32_t bytes = 0;  // with the padding
  std::vector<UnitPiece> pieces;
};

/// Every copy has the piece, and all before it.
struct PiecePlaced {
  PieceId piece;
  SegmentId segment;
  std::uint32_t record_offset = 0;
};

struct PieceFailed {
  PieceId piece;
  Error error;
};

/// The copy that made a segment fail, and how.
struct CopyFailure {
  NodeId node;
  Error error;
};

/// The grant is not used any more: give it back, and await nothing of its copies.
struct ReturnGrant {
  SegmentId segment;
  Generation generation;
  std::uint64_t length = 0;  // every copy has acknowledged so much
  std::optional<CopyFailure> failure;
};

using WriterAction = std::variant<RequestGrants, SendUnit, PiecePlaced, PieceFailed, ReturnGrant>;

}  // namespace reelfs::client
