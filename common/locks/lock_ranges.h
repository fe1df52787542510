#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <vector>

namespace reelfs {

/// The values are on disk and on the wire: they keep their meaning for ever.
enum class LockType : std::uint8_t { read = 1, write = 2 };

/// Two owners cannot hold these on the same byte.
constexpr bool conflict(LockType a, LockType b) { return a == LockType::write || b == LockType::write; }

/// Bytes of a file, both ends included.
struct ByteRange {
  std::uint64_t first = 0;
  std::uint64_t last = 0;
  friend bool operator==(const ByteRange&, const ByteRange&) = default;
};
/// The last byte that a file can have: a range up to here goes on to the file's end, wherever that is.
inline constexpr std::uint64_t kLastByte = INT64_MAX;
inline constexpr ByteRange kWholeFile{0, kLastByte};

constexpr bool overlap(ByteRange a, ByteRange b) { return a.first <= b.last && b.first <= a.last; }

/// What one owner has locked in one file: pieces that do not overlap, and of which neighbours differ in type.
/// A new lock takes the place of what the same owner had on these bytes, as fcntl(2) says.
class LockRanges {
 public:
  struct Piece {
    ByteRange range;
    LockType type = LockType::read;
    std::uint32_t pid = 0;  // of who locked it last
    friend bool operator==(const Piece&, const Piece&) = default;
  };
  /// What became of the pieces, which are known by their first byte.
  struct Changes {
    std::vector<std::uint64_t> gone;
    std::vector<Piece> put;  // new, or changed
  };

  /// @pre piece.range.first <= piece.range.last <= kLastByte
  Changes lock(const Piece& piece);
  Changes unlock(ByteRange range);

  /// The first piece that keeps another owner from having `type` on the range.
  std::optional<Piece> blocking(ByteRange range, LockType type) const;
  std::vector<Piece> pieces() const;
  std::size_t size() const { return pieces_.size(); }
  bool empty() const { return pieces_.empty(); }

 private:
  using Map = std::map<std::uint64_t, Piece>;  // by first byte
  /// The first piece that ends at or after this byte.
  Map::const_iterator from(std::uint64_t byte) const;
  Changes replace(ByteRange range, std::optional<Piece> by);

  Map pieces_;
};

}  // namespace reelfs
