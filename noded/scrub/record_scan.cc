#include "noded/scrub/record_scan.h"

#include <algorithm>
#include <cstring>

#include "common/base/assert.h"

namespace reelfs::noded {
namespace {

bool all_zero(std::span<const std::byte> bytes) {
  return std::all_of(bytes.begin(), bytes.end(), [](std::byte b) { return b == std::byte{0}; });
}

/// Whether it may be worth a look: what is lost is searched at every place where a record may begin.
bool begins_like_one(std::span<const std::byte> bytes) {
  static constexpr auto kMagic = wire::RecordHeader{}.magic;
  return bytes.size() >= sizeof kMagic && std::memcmp(bytes.data(), kMagic.data(), sizeof kMagic) == 0;
}

}  // namespace

RecordScan::RecordScan(Rules rules) : rules_(rules), position_(rules.start) {
  REELFS_ASSERT(rules.length % kPageBytes == 0 && rules.start % kPageBytes == 0);
  if (rules.in_midst) gap_at_ = rules.start;
  done_ = position_ >= rules_.length;
}

void RecordScan::feed(std::uint64_t base, std::span<const std::byte> bytes) {
  REELFS_ASSERT(base % kPageBytes == 0 && base <= position_);
  const auto limit = std::min(base + bytes.size(), rules_.length);
  const bool reaches_end = limit == rules_.length;
  while (!done_) {
    if (position_ >= limit && reaches_end) {
      end_gap(rules_.length, true);
      done_ = true;
      return;
    }
    if (!reaches_end && round_down(position_, kPageBytes) + kLookahead > base + bytes.size()) return;
    const auto here = bytes.subspan(position_ - base, limit - position_);
    if (begins_like_one(here)) {
      const auto record = wire::decode_record_header(here);
      const bool whole = record && record.value().header.segment == rules_.segment.value &&
                         record.value().header.segment_offset == position_ &&
                         record.value().bytes() <= here.size();
      if (whole && overwritten(record.value(), here)) {
        if (!gap_at_) gap_at_ = position_;
        padding_at_.reset();
        position_ = round_up(position_, kPageBytes);
        continue;
      }
      if (whole) {
        take(record.value(), here);
        continue;
      }
    }
    const auto page_end = round_up(position_, kPageBytes);
    const bool may_be_padding = !gap_at_ && position_ != page_end;
    if (may_be_padding && all_zero(here.first(std::min<std::uint64_t>(here.size(), page_end - position_)))) {
      padding_at_ = position_;
      position_ = page_end;
      continue;
    }
    if (!gap_at_) gap_at_ = padding_at_.value_or(position_);
    padding_at_.reset();
    position_ += wire::kRecordAlign;
  }
}

/// Whether it was torn, and a writer of a later generation went on at the next page, so that its begin is all
/// there is of it.
bool RecordScan::overwritten(const wire::Record& record, std::span<const std::byte> bytes) const {
  const auto page_end = round_up(position_, kPageBytes);
  const auto in_page = page_end - position_;
  if (in_page == 0 || in_page >= record.bytes() || !begins_like_one(bytes.subspan(in_page))) return false;
  const auto next = wire::decode_record_header(bytes.subspan(in_page));
  if (!next) return false;
  const auto& header = next.value().header;
  return header.segment == rules_.segment.value && header.segment_offset == page_end &&
         header.generation > record.header.generation;
}

void RecordScan::take(const wire::Record& record, std::span<const std::byte> bytes) {
  const auto& header = record.header;
  end_gap(position_, header.generation > generation_);
  padding_at_.reset();
  auto at = position_ + header.header_bytes;
  records_.add(position_, at);
  for (std::uint32_t chunk = 0; chunk < header.chunk_count; ++chunk) {
    const auto length = record.chunk_length(chunk);
    const bool good = wire::verify_chunk(record, chunk, bytes.subspan(at - position_, length)).has_value();
    (good ? records_ : bad_).add(at, at + length);
    at += length;
  }
  generation_ = header.generation;
  position_ += record.bytes();
}

/// Ends what had no records. Where a copy ends, or ended when another writer went on, the rest of the last
/// page may be what a write that was torn left.
void RecordScan::end_gap(std::uint64_t upto, bool before_later_generation) {
  if (!gap_at_) return;
  const auto begin = *gap_at_;
  gap_at_.reset();
  const bool rest_of_page = begin % kPageBytes != 0 && upto == round_up(begin, kPageBytes);
  if (rest_of_page && before_later_generation) return;
  bad_.add(begin, upto);
}

}  // namespace reelfs::noded
