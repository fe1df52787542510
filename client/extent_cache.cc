#include "client/extent_cache.h"

#include <algorithm>
#include <iterator>

namespace reelfs::client {
namespace {
// About 6 MiB. A file of more extents than this is asked for again in parts.
constexpr std::size_t kMaxExtents = 64 * 1024;
}  // namespace

Extent cut(Extent extent, std::uint64_t begin, std::uint64_t end) {
  if (extent.file_offset < begin) {
    const auto skip = begin - extent.file_offset;
    extent.file_offset = begin;
    extent.length -= skip;
    extent.payload_offset += static_cast<std::uint32_t>(skip);
  }
  extent.length = std::min(extent.length, end - extent.file_offset);
  return extent;
}

void ExtentCache::note_version(std::uint64_t version) {
  if (version <= version_) return;
  version_ = version;
  clear();
}

void ExtentCache::clear() {
  extents_.clear();
  known_.clear();
}

void ExtentCache::insert(std::uint64_t begin, std::uint64_t end, const std::vector<Extent>& extents) {
  if (begin >= end) return;
  if (extents_.size() + extents.size() > kMaxExtents) clear();
  for (const auto& extent : extents) extents_.insert_or_assign(extent.file_offset, extent);

  auto next = known_.lower_bound(begin);
  if (next != known_.begin() && std::prev(next)->second >= begin) --next;
  while (next != known_.end() && next->first <= end) {
    begin = std::min(begin, next->first);
    end = std::max(end, next->second);
    next = known_.erase(next);
  }
  known_.emplace(begin, end);
}

std::optional<std::uint64_t> ExtentCache::first_unknown(std::uint64_t begin, std::uint64_t end) const {
  if (begin >= end) return std::nullopt;
  const auto next = known_.upper_bound(begin);
  if (next == known_.begin() || std::prev(next)->second <= begin) return begin;
  const auto known_end = std::prev(next)->second;
  if (known_end >= end) return std::nullopt;
  return known_end;
}

std::optional<Extent> ExtentCache::next(std::uint64_t begin, std::uint64_t end) const {
  auto next = extents_.upper_bound(begin);
  if (next != extents_.begin() && std::prev(next)->second.end() > begin) --next;
  if (next == extents_.end() || next->first >= end) return std::nullopt;
  return next->second;
}

std::vector<Extent> ExtentCache::extents(std::uint64_t begin, std::uint64_t end) const {
  std::vector<Extent> found;
  auto next = extents_.upper_bound(begin);
  if (next != extents_.begin() && std::prev(next)->second.end() > begin) --next;
  for (; next != extents_.end() && next->first < end; ++next) found.push_back(next->second);
  return found;
}

}  // namespace reelfs::client
