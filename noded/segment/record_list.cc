#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "common/base/units.h"
#include "noded/segment/segment_store.h"

namespace reelfs::noded {
namespace {

// A header lies within two pages, wherever it begins. Of small records one read brings many.
constexpr std::uint64_t kFirstRead = 2 * kPageBytes;
constexpr std::uint64_t kLargestRead = 256 * kKiB;
// Read for one answer at most, so that it comes within the caller's time on a slow disk.
constexpr std::uint64_t kReadAtOnce = 16 * kMiB;

/// The header that stands here and says so of itself.
std::optional<wire::RecordHeader> header_at(std::span<const std::byte> bytes, SegmentId segment,
                                            std::uint64_t offset, std::uint64_t end) {
  if (bytes.size() < sizeof(wire::RecordHeader)) return std::nullopt;
  const auto record = wire::decode_record_header(bytes);
  if (!record) return std::nullopt;
  const auto& header = record.value().header;
  const bool is_here = header.segment == segment.value && header.segment_offset == offset;
  if (!is_here || record.value().bytes() > end - offset) return std::nullopt;
  return header;
}

std::uint64_t bytes_of(const wire::RecordHeader& header) {
  return round_up(std::uint64_t{header.header_bytes} + header.payload_bytes, wire::kRecordAlign);
}

}  // namespace

Task<SegmentStore::RecordList> SegmentStore::list_records(SegmentId segment, std::uint64_t from,
                                                          std::size_t most) {
  REELFS_CO_TRY(const auto located, locate(segment));
  auto list = co_await list_at(located, from, most);
  // What was freed meanwhile may have been another segment's already when it was read.
  REELFS_CO_TRY(locate(segment));
  co_return std::move(list);
}

Task<SegmentStore::RecordList> SegmentStore::list_at(Located located, std::uint64_t from, std::size_t most) {
  const auto& [found, device_ptr] = located;
  auto& device = *device_ptr;
  const auto end = found.slot.end;
  const auto base = device.table().geometry().block_offset(found.address.block);
  if (from % wire::kRecordAlign != 0)
    co_return Error(Errc::invalid, "no record begins at " + std::to_string(from));
  RecordList list;
  auto bytes = std::make_shared<Buffer>();
  std::uint64_t read_from = 0, read_total = 0, want = kFirstRead;
  auto position = from;
  while (position < end) {
    const bool is_enough = list.records.size() >= most || read_total >= kReadAtOnce;
    const auto upto = std::min(end, position + wire::kMaxHeaderBytes);
    if (position < read_from || upto > read_from + bytes->size()) {
      if (is_enough) break;
      // Where the last read held more than one header, the records are small.
      const bool goes_on = read_from + bytes->size() > position;
      want = goes_on ? std::min(2 * want, kLargestRead) : kFirstRead;
      read_from = round_down(position, kPageBytes);
      bytes = std::make_shared<Buffer>(std::min(round_up(end, kPageBytes) - read_from, want));
      REELFS_CO_TRY(co_await device.read(base + read_from, bytes));
      read_total += bytes->size();
    }
    if (list.records.size() >= most) break;
    const auto here = std::as_const(*bytes).span().subspan(position - read_from);
    if (const auto header = header_at(here, found.segment, position, end)) {
      list.records.push_back({static_cast<std::uint32_t>(position), *header});
      position += bytes_of(*header);
    } else if (position % kPageBytes != 0) {
      position = round_up(position, kPageBytes);  // the unit's padding
    } else {
      list.unreadable += kPageBytes;  // a damaged header: its record's pages are passed over
      position += kPageBytes;
    }
  }
  list.next = position < end ? position : 0;
  co_return std::move(list);
}

}  // namespace reelfs::noded
