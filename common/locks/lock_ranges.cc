#include "common/locks/lock_ranges.h"

#include <algorithm>
#include <iterator>

namespace reelfs {

LockRanges::Map::const_iterator LockRanges::from(std::uint64_t byte) const {
  const auto after = pieces_.upper_bound(byte);
  if (after != pieces_.begin() && std::prev(after)->second.range.last >= byte) return std::prev(after);
  return after;
}

LockRanges::Changes LockRanges::lock(const Piece& piece) { return replace(piece.range, piece); }
LockRanges::Changes LockRanges::unlock(ByteRange range) { return replace(range, std::nullopt); }

LockRanges::Changes LockRanges::replace(ByteRange range, std::optional<Piece> by) {
  // With the neighbours that touch it: a piece of the same type becomes one with them.
  const auto reach_first = by && range.first > 0 ? range.first - 1 : range.first;
  const auto reach_last = by && range.last < kLastByte ? range.last + 1 : range.last;
  const auto begin = from(reach_first);
  const auto end = pieces_.upper_bound(reach_last);

  Map before;
  Map after;
  for (auto at = begin; at != end; ++at) {
    const auto& piece = at->second;
    before.emplace(at->first, piece);
    if (by && piece.type == by->type) {
      by->range.first = std::min(by->range.first, piece.range.first);
      by->range.last = std::max(by->range.last, piece.range.last);
      continue;
    }
    if (piece.range.first < range.first) {
      Piece left = piece;
      left.range.last = std::min(piece.range.last, range.first - 1);
      after.emplace(left.range.first, left);
    }
    if (piece.range.last > range.last) {
      Piece right = piece;
      right.range.first = std::max(piece.range.first, range.last + 1);
      after.emplace(right.range.first, right);
    }
  }
  if (by) after.emplace(by->range.first, *by);

  pieces_.erase(begin, end);
  Changes changes;
  for (const auto& [first, piece] : before) {
    if (!after.contains(first)) changes.gone.push_back(first);
  }
  for (const auto& [first, piece] : after) {
    const auto old = before.find(first);
    if (old == before.end() || old->second != piece) changes.put.push_back(piece);
  }
  pieces_.merge(after);
  return changes;
}

std::optional<LockRanges::Piece> LockRanges::blocking(ByteRange range, LockType type) const {
  for (auto at = from(range.first); at != pieces_.end() && at->first <= range.last; ++at) {
    if (conflict(at->second.type, type)) return at->second;
  }
  return std::nullopt;
}

std::vector<LockRanges::Piece> LockRanges::pieces() const {
  std::vector<Piece> all;
  all.reserve(pieces_.size());
  for (const auto& [first, piece] : pieces_) all.push_back(piece);
  return all;
}

}  // namespace reelfs
