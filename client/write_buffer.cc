#include "client/write_buffer.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "common/base/assert.h"

namespace reelfs::client {
namespace {

// How many of the youngest pieces a write is compared with. Appends match within the first two or three;
// beyond this a write becomes a piece of its own, which is right too.
constexpr std::size_t kJoinSearch = 64;
// More than this many collecting pieces seals the oldest: scattered writes go out instead of waiting.
constexpr std::size_t kMaxCollecting = 32;
// How often a piece is stored whose place did not last until it was committed.
constexpr std::uint32_t kMaxTries = 3;
constexpr std::size_t kLargeWrite = 64 * kKiB;

std::size_t first_capacity(std::size_t bytes) {
  return bytes >= kLargeWrite ? WriteBuffer::kMaxPieceBytes : round_up(bytes, kPageBytes);
}

}  // namespace

// The oldest piece that the write may change: collecting, touched by the write's start with room left, and
// with no younger piece that overlaps the write.
WriteBuffer::Piece* WriteBuffer::joinable(std::uint64_t offset, std::size_t length) {
  if (collecting_.empty()) return nullptr;
  std::size_t searched = 0;
  for (auto piece = pieces_.rbegin(); piece != pieces_.rend() && searched < kJoinSearch;
       ++piece, ++searched) {
    const bool touches = offset >= piece->offset && offset <= piece->end();
    if (piece->stage == Stage::collecting && touches && offset - piece->offset < kMaxPieceBytes)
      return &*piece;
    if (offset < piece->end() && piece->offset < offset + length) return nullptr;
  }
  return nullptr;
}

void WriteBuffer::put(Piece& piece, std::uint64_t offset, std::span<const std::byte> bytes) {
  const auto at = static_cast<std::size_t>(offset - piece.offset);
  const auto size = std::max(piece.size, at + bytes.size());
  if (size > piece.collected.capacity()) {
    auto capacity = std::max(first_capacity(size), 4 * piece.collected.capacity());
    Buffer larger(std::min(capacity, kMaxPieceBytes));
    if (piece.size > 0) std::memcpy(larger.data(), piece.collected.data(), piece.size);
    held_bytes_ += larger.capacity() - piece.collected.capacity();
    piece.collected = std::move(larger);
  }
  piece.collected.resize(size);
  std::memcpy(piece.collected.data() + at, bytes.data(), bytes.size());
  piece.size = size;
}

void WriteBuffer::seal(Piece& piece) {
  REELFS_ASSERT(piece.stage == Stage::collecting);
  piece.stage = Stage::sealed;
  std::erase(collecting_, piece.number);
  sealed_.push_back(piece.number);
}

std::size_t WriteBuffer::write(std::uint64_t offset, std::span<const std::byte> bytes, TimePoint now,
                               std::int64_t mtime_ns) {
  std::size_t begun = 0;
  mtime_ns_ = mtime_ns;
  while (!bytes.empty()) {
    // Compared with the whole rest: a part of it must not slip below a younger piece that the rest overlaps
    // either, so that the rest, too, finds its order right.
    auto* piece = joinable(offset, bytes.size());
    if (piece == nullptr) {
      if (collecting_.size() >= kMaxCollecting) seal(*find(collecting_.front()));
      piece = &pieces_.emplace_back();
      piece->number = newest_ = ++*numbers_;
      ++begun;
      piece->offset = offset;
      piece->begun = now;
      collecting_.push_back(newest_);
    }
    const auto room = kMaxPieceBytes - static_cast<std::size_t>(offset - piece->offset);
    const auto part = bytes.first(std::min(room, bytes.size()));
    put(*piece, offset, part);
    piece->mtime_ns = mtime_ns;
    if (piece->size == kMaxPieceBytes) seal(*piece);
    offset += part.size();
    bytes = bytes.subspan(part.size());
  }
  return begun;
}

void WriteBuffer::seal(TimePoint begun) {
  const auto collecting = collecting_;
  for (const auto number : collecting) {
    auto& piece = *find(number);
    if (piece.begun <= begun) seal(piece);
  }
}

std::vector<WriteBuffer::Ready> WriteBuffer::take_ready() {
  std::vector<Ready> ready;
  ready.reserve(sealed_.size());
  std::sort(sealed_.begin(), sealed_.end());
  for (const auto number : sealed_) {
    auto& piece = *find(number);
    if (!piece.bytes) {
      piece.bytes = std::make_shared<const Buffer>(std::move(piece.collected));
      piece.collected = Buffer();
    }
    ++piece.tries;
    piece.stage = Stage::sending;
    ready.push_back({piece.number, piece.offset, piece.bytes});
  }
  sealed_.clear();
  return ready;
}

WriteBuffer::Pieces::iterator WriteBuffer::find(PieceNumber number) {
  const auto found = std::lower_bound(pieces_.begin(), pieces_.end(), number,
                                      [](const Piece& piece, PieceNumber n) { return piece.number < n; });
  REELFS_ASSERT(found != pieces_.end() && found->number == number);
  return found;
}

void WriteBuffer::placed(PieceNumber number, SegmentId segment, std::uint32_t record_offset) {
  auto& piece = *find(number);
  REELFS_ASSERT(piece.stage == Stage::sending);
  piece.stage = Stage::placed;
  piece.segment = segment;
  piece.record_offset = record_offset;
  placed_bytes_ += piece.size;
  skip_placed();
}

void WriteBuffer::skip_placed() {
  while (placed_run_ < pieces_.size() && pieces_[placed_run_].stage == Stage::placed) ++placed_run_;
}

TimePoint WriteBuffer::failed(PieceNumber number) {
  const auto piece = find(number);
  const auto begun = piece->begun;
  REELFS_ASSERT(piece->stage == Stage::sending);
  forget(*piece);
  pieces_.erase(piece);
  skip_placed();
  return begun;
}

void WriteBuffer::forget(const Piece& piece) {
  held_bytes_ -= piece.capacity();
  if (piece.stage == Stage::placed) placed_bytes_ -= piece.size;
}

WriteBuffer::CommitBatch WriteBuffer::committable(std::size_t limit) const {
  CommitBatch batch;
  for (std::size_t i = 0; i < std::min(placed_run_, limit); ++i) {
    const auto& piece = pieces_[i];
    batch.through = piece.number;
    batch.extents.push_back({piece.offset, piece.size, piece.segment, piece.record_offset});
    batch.end = std::max(batch.end, piece.end());
    batch.mtime_ns = std::max(batch.mtime_ns, piece.mtime_ns);
  }
  return batch;
}

bool WriteBuffer::store_anew(PieceNumber through) {
  const auto end =
      std::find_if(pieces_.begin(), pieces_.end(), [&](const Piece& p) { return p.number > through; });
  if (std::any_of(pieces_.begin(), end, [](const Piece& p) { return p.tries >= kMaxTries; })) return false;
  for (auto piece = pieces_.begin(); piece != end; ++piece) {
    REELFS_ASSERT(piece->stage == Stage::placed);
    piece->stage = Stage::sealed;
    placed_bytes_ -= piece->size;
    sealed_.push_back(piece->number);
  }
  // Whatever is placed behind them waits for them.
  placed_run_ = 0;
  return true;
}

std::vector<TimePoint> WriteBuffer::committed(PieceNumber through) {
  std::vector<TimePoint> begun;
  while (!pieces_.empty() && pieces_.front().number <= through) {
    REELFS_ASSERT(pieces_.front().stage == Stage::placed);
    begun.push_back(pieces_.front().begun);
    forget(pieces_.front());
    pieces_.pop_front();
    --placed_run_;
  }
  return begun;
}

std::vector<OverlayPart> WriteBuffer::overlay(std::uint64_t offset, std::size_t length) const {
  std::vector<OverlayPart> parts;
  const auto end = offset + length;
  for (const auto& piece : pieces_) {
    if (piece.end() <= offset || piece.offset >= end) continue;
    OverlayPart part;
    part.offset = std::max(offset, piece.offset);
    part.length = static_cast<std::size_t>(std::min(end, piece.end()) - part.offset);
    const auto skip = static_cast<std::size_t>(part.offset - piece.offset);
    if (piece.bytes) {
      part.skip = skip;
      part.bytes = piece.bytes;
    } else {
      // Later writes may change these bytes while the caller looks at them: it gets its own.
      part.bytes =
          std::make_shared<const Buffer>(Buffer::copy_of(piece.collected.span().subspan(skip, part.length)));
    }
    parts.push_back(std::move(part));
  }
  return parts;
}

bool WriteBuffer::settled_through(PieceNumber number) const {
  return placed_run_ == pieces_.size() || pieces_[placed_run_].number > number;
}

WriteBuffer::PieceNumber WriteBuffer::first_after(PieceNumber number) const {
  const auto found = std::upper_bound(pieces_.begin(), pieces_.end(), number,
                                      [](PieceNumber n, const Piece& piece) { return n < piece.number; });
  return found == pieces_.end() ? 0 : found->number;
}

std::uint64_t WriteBuffer::end() const {
  std::uint64_t end = 0;
  for (const auto& piece : pieces_) end = std::max(end, piece.end());
  return end;
}

std::optional<TimePoint> WriteBuffer::oldest_write() const {
  if (pieces_.empty()) return std::nullopt;
  return pieces_.front().begun;
}

}  // namespace reelfs::client
