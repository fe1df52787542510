#include "noded/device/device_file.h"

#include <algorithm>
#include <cstring>

#include "common/base/buffer.h"
#include "noded/device/record_walk.h"

namespace reelfs::noded {
namespace {

constexpr std::uint64_t kProbeBytes = kMiB;
constexpr std::uint64_t kTableStepBytes = kMiB;
constexpr std::uint64_t kWalkStepBytes = 4 * kMiB;

bool all_zero(std::span<const std::byte> bytes) {
  return std::all_of(bytes.begin(), bytes.end(), [](std::byte b) { return b == std::byte{0}; });
}

/// Whether a damaged first page is still mostly our superblock. A file system that someone made over it is
/// not, and is left alone.
bool resembles(std::span<const std::byte> damaged, std::span<const std::byte> copy) {
  constexpr auto kFields = offsetof(SuperblockPage, node_name);
  std::size_t equal = 0;
  for (std::size_t i = 0; i < kFields; ++i) equal += damaged[i] == copy[i] ? 1 : 0;
  return equal >= kFields * 2 / 3;
}

bool begins_a_table(std::span<const std::byte> bytes) {
  const auto magic = DescriptorEntry{}.magic;
  return std::memcmp(bytes.data(), magic.data(), magic.size()) == 0;
}

}  // namespace

Task<DeviceProbe> probe_device(io::DiskFile& file) {
  const auto size = round_down(file.size(), kPageBytes);
  if (size < 2 * kProbeBytes) co_return Error(Errc::invalid, "too small to be a device");
  Buffer head(kProbeBytes);
  REELFS_CO_TRY(co_await file.read(0, head.span()));
  Buffer tail(kPageBytes);
  REELFS_CO_TRY(co_await file.read(size - kPageBytes, tail.span()));
  const auto primary = decode_superblock(head.span().first(kPageBytes));
  DeviceProbe probe;
  if (primary) {
    probe.kind = DeviceProbe::Kind::reelfs;
    probe.superblock = primary.value();
    const auto copy_offset = primary.value().geometry.copy_offset;
    if (copy_offset + kPageBytes > size) {
      probe.kind = DeviceProbe::Kind::foreign;
      probe.reason = "the device is smaller than its superblock says";
      co_return probe;
    }
    // A file or volume that has grown keeps its copy where it was.
    if (copy_offset != size - kPageBytes) {
      REELFS_CO_TRY(co_await file.read(copy_offset, tail.span()));
    }
    const auto copy = decode_superblock(tail.span());
    probe.copy_damaged = !copy || copy.value() != primary.value();
    co_return probe;
  }
  if (const auto copy = decode_superblock(tail.span())) {
    const auto damaged = head.span().first(kPageBytes);
    if (all_zero(damaged) || resembles(damaged, tail.span())) {
      probe.kind = DeviceProbe::Kind::reelfs;
      probe.superblock = copy.value();
      probe.primary_damaged = true;
      co_return probe;
    }
    probe.reason = "the first page was overwritten by something else, the superblock's copy is ours";
    co_return probe;
  }
  if (all_zero(head.span())) {
    probe.kind = DeviceProbe::Kind::blank;
    co_return probe;
  }
  probe.reason = "it holds data that is not a reelfs device";
  if (primary.error().code() == Errc::unsupported) {
    probe.reason = primary.error().message();
  } else if (begins_a_table(head.span().subspan(kPageBytes))) {
    probe.reason = "both its superblocks are damaged: it was a reelfs device, but whose cannot be told";
  }
  co_return probe;
}

Task<void> repair_superblocks(io::DiskFile& file, DeviceProbe probe) {
  const auto page = encode_superblock(probe.superblock);
  if (probe.primary_damaged) {
    REELFS_CO_TRY(co_await file.write(0, page.span()));
  }
  if (probe.copy_damaged) {
    REELFS_CO_TRY(co_await file.write(probe.superblock.geometry.copy_offset, page.span()));
  }
  if (probe.primary_damaged || probe.copy_damaged) {
    REELFS_CO_TRY(co_await file.sync());
  }
  co_return ok();
}

Task<void> format_device(io::DiskFile& file, Superblock superblock) {
  const auto geometry = superblock.geometry;
  const auto pages = table_pages(geometry.block_count);
  Buffer table(std::min(pages * kPageBytes, kTableStepBytes));
  constexpr auto kStepDescriptors = kTableStepBytes / sizeof(DescriptorEntry);
  for (std::uint64_t first = 0; first < geometry.block_count; first += kStepDescriptors) {
    const auto count = std::min<std::uint64_t>(kStepDescriptors, geometry.block_count - first);
    const auto bytes = table_pages(count) * kPageBytes;
    std::memset(table.data(), 0, bytes);
    for (std::uint64_t i = 0; i < count; ++i) {
      const BlockAddress address{superblock.device, static_cast<std::uint32_t>(first + i)};
      encode_descriptor(address, BlockDescriptor{},
                        table.span().subspan(i * sizeof(DescriptorEntry), sizeof(DescriptorEntry)));
    }
    const auto offset = geometry.table_offset + first * sizeof(DescriptorEntry);
    REELFS_CO_TRY(co_await file.write(offset, table.span().first(bytes)));
  }
  const auto page = encode_superblock(superblock);
  REELFS_CO_TRY(co_await file.write(geometry.copy_offset, page.span()));
  REELFS_CO_TRY(co_await file.sync());
  REELFS_CO_TRY(co_await file.write(0, page.span()));
  REELFS_CO_TRY(co_await file.sync());
  co_return ok();
}

Task<std::vector<std::optional<BlockDescriptor>>> load_table(io::DiskFile& file, DeviceId device,
                                                             Geometry geometry) {
  std::vector<std::optional<BlockDescriptor>> descriptors(geometry.block_count);
  const auto table_bytes = table_pages(geometry.block_count) * kPageBytes;
  Buffer bytes(std::min(table_bytes, kTableStepBytes));
  constexpr auto kStepDescriptors = kTableStepBytes / sizeof(DescriptorEntry);
  for (std::uint64_t first = 0; first < geometry.block_count; first += kStepDescriptors) {
    const auto count = std::min<std::uint64_t>(kStepDescriptors, geometry.block_count - first);
    const auto offset = geometry.table_offset + first * sizeof(DescriptorEntry);
    REELFS_CO_TRY(co_await file.read(offset, bytes.span().first(table_pages(count) * kPageBytes)));
    for (std::uint64_t i = 0; i < count; ++i) {
      const BlockAddress address{device, static_cast<std::uint32_t>(first + i)};
      const auto entry = bytes.span().subspan(i * sizeof(DescriptorEntry), sizeof(DescriptorEntry));
      if (auto descriptor = decode_descriptor(address, geometry.block_bytes, entry)) {
        descriptors[first + i] = descriptor.value();
      }
    }
  }
  co_return std::move(descriptors);
}

Task<BlockEnd> find_block_end(io::DiskFile& file, Geometry geometry, std::uint32_t block,
                              BlockDescriptor descriptor) {
  RecordWalk::Rules rules;
  rules.segment = SegmentId(descriptor.segment);
  rules.block_bytes = geometry.block_bytes;
  rules.start = descriptor.length;
  rules.fence_generation = Generation(descriptor.fence_generation);
  rules.fence_length = descriptor.fence_length;
  RecordWalk walk(rules);
  Buffer bytes(std::min(kWalkStepBytes, geometry.block_bytes));
  while (!walk.done() && walk.position() < geometry.block_bytes) {
    const auto base = round_down(walk.position(), kPageBytes);
    const auto piece = bytes.span().first(std::min<std::uint64_t>(bytes.size(), geometry.block_bytes - base));
    REELFS_CO_TRY(co_await file.read(geometry.block_offset(block) + base, piece));
    walk.feed(base, piece);
  }
  BlockEnd found;
  found.end = walk.end();
  found.generation = walk.generation();
  found.channel = walk.channel();
  found.records = walk.records();
  co_return found;
}

Task<std::optional<BlockDescriptor>> recover_descriptor(io::DiskFile& file, Geometry geometry,
                                                        std::uint32_t block) {
  Buffer page(kPageBytes);
  REELFS_CO_TRY(co_await file.read(geometry.block_offset(block), page.span()));
  std::optional<BlockDescriptor> recovered;
  const auto record = wire::decode_record_header(page.span());
  if (!record || record.value().header.segment_offset != 0) co_return recovered;
  BlockDescriptor descriptor;
  descriptor.segment = record.value().header.segment;
  descriptor.state = BlockState::open;
  REELFS_CO_TRY(const auto found, co_await find_block_end(file, geometry, block, descriptor));
  if (found.records == 0) co_return recovered;
  descriptor.generation = found.generation.value;
  descriptor.channel = found.channel;
  recovered = descriptor;
  co_return recovered;
}

}  // namespace reelfs::noded
