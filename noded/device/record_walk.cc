#include "noded/device/record_walk.h"

#include <algorithm>

#include "common/base/assert.h"

namespace reelfs::noded {

void RecordWalk::feed(std::uint64_t base, std::span<const std::byte> bytes) {
  REELFS_ASSERT(base % kPageBytes == 0 && base <= position_);
  const auto limit = base + bytes.size();
  const bool reaches_end = limit >= rules_.block_bytes;
  while (!done_) {
    if (position_ >= rules_.block_bytes) {
      done_ = true;
      return;
    }
    if (!reaches_end && round_down(position_, kPageBytes) + kLookahead > limit) return;
    const auto length =
        valid_record_at(bytes.first(std::min<std::uint64_t>(bytes.size(), rules_.block_bytes - base))
                            .subspan(position_ - base));
    if (length > 0) {
      if (position_ % kPageBytes == 0) boundary_ = position_;
      position_ += length;
      end_ = round_up(position_, kPageBytes);
    } else if (position_ % kPageBytes != 0) {
      position_ =
          round_up(position_, kPageBytes);  // the unit's padding: the next unit begins at the next page
    } else {
      done_ = true;
    }
  }
}

/// Bytes of the record that begins here, or 0 if none does that counts.
std::uint64_t RecordWalk::valid_record_at(std::span<const std::byte> bytes) {
  const auto record = wire::decode_record_header(bytes);
  if (!record) return 0;
  const auto& header = record.value().header;
  if (header.segment != rules_.segment.value || header.segment_offset != position_) return 0;
  if (header.generation < generation_.value) return 0;
  if (position_ >= rules_.fence_length && header.generation < rules_.fence_generation.value) return 0;
  const auto length = record.value().bytes();
  if (length > bytes.size()) return 0;
  for (std::uint32_t chunk = 0; chunk < header.chunk_count; ++chunk) {
    const auto start = header.header_bytes + std::size_t{chunk} * header.chunk_bytes;
    if (!wire::verify_chunk(record.value(), chunk, bytes.subspan(start, record.value().chunk_length(chunk))))
      return 0;
  }
  generation_ = Generation(header.generation);
  channel_ = header.channel;
  ++records_;
  return length;
}

}  // namespace reelfs::noded
