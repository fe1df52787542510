#pragma once

#include <cstdint>
#include <vector>

namespace reelfs {

/// A range of bytes, of a segment say.
struct ByteSpan {
  std::uint64_t begin = 0;
  std::uint64_t end = 0;  // behind the last
  std::uint64_t length() const { return end - begin; }
  friend bool operator==(const ByteSpan&, const ByteSpan&) = default;
};

/// A set of bytes: ranges in ascending order that neither overlap nor touch, none of them empty.
class ByteRanges {
 public:
  ByteRanges() = default;
  ByteRanges(std::uint64_t begin, std::uint64_t end) { add(begin, end); }

  /// Empty where end <= begin.
  void add(std::uint64_t begin, std::uint64_t end);
  void add(const ByteRanges& others);
  void remove(std::uint64_t begin, std::uint64_t end);
  void remove(const ByteRanges& others);

  /// What is in [begin, end).
  ByteRanges within(std::uint64_t begin, std::uint64_t end) const;
  /// What is in both.
  ByteRanges common(const ByteRanges& others) const;
  /// Every byte, and those that share a unit of this many bytes with one. @param upto  and no further
  ByteRanges aligned(std::uint64_t unit, std::uint64_t upto = UINT64_MAX) const;
  /// The same bytes and more in at most so many ranges: those go together that are nearest. @pre most > 0
  ByteRanges coarser(std::size_t most) const;

  bool empty() const { return ranges_.empty(); }
  std::size_t size() const { return ranges_.size(); }
  std::uint64_t bytes() const;
  const std::vector<ByteSpan>& list() const { return ranges_; }
  auto begin() const { return ranges_.begin(); }
  auto end() const { return ranges_.end(); }
  friend bool operator==(const ByteRanges&, const ByteRanges&) = default;

 private:
  std::vector<ByteSpan> ranges_;
};

}  // namespace reelfs
