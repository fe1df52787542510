#include "common/base/byte_ranges.h"

#include <algorithm>

#include "common/base/assert.h"
#include "common/base/units.h"

namespace reelfs {

void ByteRanges::add(std::uint64_t begin, std::uint64_t end) {
  if (end <= begin) return;
  const auto first = std::lower_bound(ranges_.begin(), ranges_.end(), begin,
                                      [](const ByteSpan& range, std::uint64_t at) { return range.end < at; });
  auto last = first;
  for (; last != ranges_.end() && last->begin <= end; ++last) {
    begin = std::min(begin, last->begin);
    end = std::max(end, last->end);
  }
  ranges_.insert(ranges_.erase(first, last), ByteSpan{begin, end});
}

void ByteRanges::add(const ByteRanges& others) {
  for (const auto& range : others) add(range.begin, range.end);
}

void ByteRanges::remove(std::uint64_t begin, std::uint64_t end) {
  if (end <= begin) return;
  std::vector<ByteSpan> left;
  left.reserve(ranges_.size() + 1);
  for (const auto& range : ranges_) {
    if (range.end <= begin || range.begin >= end) {
      left.push_back(range);
      continue;
    }
    if (range.begin < begin) left.push_back({range.begin, begin});
    if (range.end > end) left.push_back({end, range.end});
  }
  ranges_ = std::move(left);
}

void ByteRanges::remove(const ByteRanges& others) {
  for (const auto& range : others) remove(range.begin, range.end);
}

ByteRanges ByteRanges::within(std::uint64_t begin, std::uint64_t end) const {
  ByteRanges found;
  for (const auto& range : ranges_) found.add(std::max(range.begin, begin), std::min(range.end, end));
  return found;
}

ByteRanges ByteRanges::common(const ByteRanges& others) const {
  ByteRanges found;
  for (const auto& range : others) found.add(within(range.begin, range.end));
  return found;
}

ByteRanges ByteRanges::aligned(std::uint64_t unit, std::uint64_t upto) const {
  ByteRanges found;
  for (const auto& range : ranges_) {
    found.add(round_down(range.begin, unit), std::min(round_up(range.end, unit), upto));
  }
  return found;
}

ByteRanges ByteRanges::coarser(std::size_t most) const {
  REELFS_ASSERT(most > 0);
  if (ranges_.size() <= most) return *this;
  std::vector<std::uint64_t> gaps;
  for (std::size_t i = 1; i < ranges_.size(); ++i) gaps.push_back(ranges_[i].begin - ranges_[i - 1].end);
  auto sorted = gaps;
  const auto closed = ranges_.size() - most;  // so many of them, the smallest
  std::nth_element(sorted.begin(), sorted.begin() + static_cast<std::ptrdiff_t>(closed - 1), sorted.end());
  const auto widest = sorted[closed - 1];
  ByteRanges found = *this;
  auto left = closed;
  for (std::size_t i = 0; i < gaps.size(); ++i) {
    if (gaps[i] < widest) found.add(ranges_[i].end, ranges_[i + 1].begin), --left;
  }
  for (std::size_t i = 0; i < gaps.size() && left > 0; ++i) {
    if (gaps[i] == widest) found.add(ranges_[i].end, ranges_[i + 1].begin), --left;
  }
  return found;
}

std::uint64_t ByteRanges::bytes() const {
  std::uint64_t bytes = 0;
  for (const auto& range : ranges_) bytes += range.length();
  return bytes;
}

}  // namespace reelfs
