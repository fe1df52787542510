#pragma once

#include <cstring>
#include <vector>

#include "common/base/buffer.h"
#include "common/wire/record.h"

namespace reelfs::noded {

/// An append unit of one record, as a client would form it.
struct UnitOptions {
  SegmentId segment{1};
  Generation generation{1};
  std::uint64_t offset = 0;
  std::uint32_t payload_bytes = 5000;
  InodeId inode{42};
  std::uint64_t file_offset = 0;
};

inline std::vector<std::byte> payload_of(const UnitOptions& options) {
  std::vector<std::byte> payload(options.payload_bytes);
  for (std::size_t i = 0; i < payload.size(); ++i) {
    payload[i] =
        static_cast<std::byte>((i * 31 + options.offset / 4096 + options.generation.value * 7) & 0xff);
  }
  return payload;
}

inline Buffer make_unit(const UnitOptions& options) {
  const auto payload = payload_of(options);
  const auto header_bytes = wire::record_header_bytes(options.payload_bytes);
  Buffer unit(round_up(wire::record_bytes(options.payload_bytes), kPageBytes));
  std::memset(unit.data(), 0, unit.size());
  wire::RecordInfo info;
  info.segment = options.segment;
  info.generation = options.generation;
  info.segment_offset = options.offset;
  info.channel = InodeId(2);
  info.inode = options.inode;
  info.file_offset = options.file_offset;
  wire::encode_record_header(info, payload, unit.span().first(header_bytes));
  std::memcpy(unit.data() + header_bytes, payload.data(), payload.size());
  return unit;
}

/// A unit of two records: the second begins behind the first, within its last page.
inline Buffer make_double_unit(const UnitOptions& options) {
  auto second = options;
  second.offset = options.offset + wire::record_bytes(options.payload_bytes);
  Buffer unit(round_up(2 * wire::record_bytes(options.payload_bytes), kPageBytes));
  std::memset(unit.data(), 0, unit.size());
  const auto one = make_unit(options);
  const auto two = make_unit(second);
  const auto bytes = wire::record_bytes(options.payload_bytes);
  std::memcpy(unit.data(), one.data(), bytes);
  std::memcpy(unit.data() + bytes, two.data(), bytes);
  return unit;
}

}  // namespace reelfs::noded
