#include "common/wire/unit.h"

#include <cstring>

#include "common/base/assert.h"

namespace reelfs::wire {

Buffer form_unit(std::uint32_t bytes, std::uint64_t offset, std::span<const UnitRecord> records) {
  Buffer unit(bytes);
  std::size_t filled = 0;
  // What lies between records is stored: it must be zeros, not what the memory held before.
  const auto fill_to = [&](std::size_t end) {
    REELFS_ASSERT(filled <= end && end <= bytes);
    std::memset(unit.data() + filled, 0, end - filled);
    filled = end;
  };
  for (const auto& record : records) {
    const auto header_bytes = record_header_bytes(static_cast<std::uint32_t>(record.payload.size()));
    fill_to(record.info.segment_offset - offset);
    REELFS_ASSERT(filled + header_bytes + record.payload.size() <= bytes);
    encode_record_header(record.info, record.payload, unit.span().subspan(filled, header_bytes));
    filled += header_bytes;
    std::memcpy(unit.data() + filled, record.payload.data(), record.payload.size());
    filled += record.payload.size();
  }
  fill_to(bytes);
  return unit;
}

}  // namespace reelfs::wire
