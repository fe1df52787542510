// SegmentStore's part in making copies whole: segment_store.h, docs/design/repair.md.
#include <algorithm>
#include <string>
#include <utility>

#include <boost/asio/any_io_executor.hpp>

#include "common/base/units.h"
#include "noded/device/record_walk.h"
#include "noded/segment/explain.h"
#include "noded/segment/segment_store.h"
#include "noded/shm/crash_point.h"

namespace reelfs::noded {
namespace {

constexpr std::uint32_t kMaxRawBytes = kMiB;

/// Nobody can append to it: what is there stays as it is until it is cut or freed.
bool is_closed(const BlockSlot& slot) {
  if (slot.descriptor.state == BlockState::sealed) return true;
  return slot.descriptor.fenced == 1 && slot.in_flight == 0;
}

}  // namespace

/// One write that is counted in the device table, and uncounted however its coroutine ends.
class SegmentStore::CopyWrite {
 public:
  /// @param from, to  where the copy ends before and after it
  CopyWrite(DevicePtr device, const DeviceTable::Append& append, std::uint64_t from, std::uint64_t to,
            Answer<void> answer)
      : device_(std::move(device)), append_(append), from_(from), to_(to), answer_(std::move(answer)) {}
  CopyWrite(CopyWrite&&) noexcept = default;
  CopyWrite& operator=(CopyWrite&&) = delete;
  ~CopyWrite() {
    if (device_) end(Error(Errc::cancelled, "the worker is stopping"));
  }

  void end(Result<void> written) {
    const auto device = std::exchange(device_, nullptr);
    const auto counted = device->table().end_append(append_, written ? to_ : from_);
    crash_point("copy.counted");
    if (written && !counted) written = explain(counted.error(), append_.segment);
    answer_.give(std::move(written));
  }
  DevicePtr device() const { return device_; }

 private:
  DevicePtr device_;  // null: it was uncounted
  const DeviceTable::Append append_;
  const std::uint64_t from_;
  const std::uint64_t to_;
  Answer<void> answer_;
};

Task<SegmentStore::CopyStart> SegmentStore::begin_copy(SegmentId segment, Generation generation,
                                                       InodeId channel, std::uint64_t length,
                                                       Deadline deadline) {
  REELFS_CO_TRY(const auto address, co_await allocate(segment, generation, channel));
  REELFS_CO_TRY(const auto located, locate(segment));
  const auto& device = located.device;
  auto& table = device->table();
  const auto block = address.block;
  if (located.found.address != address)
    co_return Error(Errc::busy, "segment " + std::to_string(segment.value) + " is being moved");
  if (length == 0 || length % kPageBytes != 0 || length > table.geometry().block_bytes)
    co_return Error(Errc::invalid, "no segment is of " + std::to_string(length) + " bytes");
  CopyStart start;
  start.address = address;
  for (;;) {
    const auto slot = table.slot(block);
    if (slot.descriptor.segment != segment.value) co_return explain(Error(Errc::not_found), segment);
    start.valid = std::min(slot.end, length);
    start.whole = slot.descriptor.state == BlockState::sealed && slot.end == length;
    if (start.whole) break;
    auto readied = table.reopen(block, segment, generation, start.valid);
    if (readied) break;
    if (readied.error().code() != Errc::busy) co_return explain(std::move(readied).error(), segment);
    // An order that was given before is under way still, maybe through another worker.
    if (auto fenced = table.fence(block, segment, generation); !fenced)
      co_return explain(std::move(fenced).error(), segment);
    REELFS_CO_TRY(co_await drain(located, deadline));
  }
  unfilled_->remove(segment);
  REELFS_CO_TRY(co_await device->persist(block));
  co_return start;
}

Task<std::uint64_t> SegmentStore::last_unit(SegmentId segment, std::uint64_t valid) {
  REELFS_CO_TRY(const auto located, locate(segment));
  const auto base = located.device->table().geometry().block_offset(located.found.address.block);
  RecordWalk::Rules rules;
  rules.segment = segment;
  rules.block_bytes = valid;
  RecordWalk walk(rules);
  while (!walk.done()) {
    const auto at = round_down(walk.position(), kPageBytes);
    auto bytes = std::make_shared<Buffer>(std::min(valid - at, RecordWalk::kLookahead + kMaxRawBytes));
    REELFS_CO_TRY(co_await located.device->read(base + at, bytes));
    walk.feed(at, std::as_const(*bytes).span());
  }
  co_return walk.boundary();
}

Task<void> SegmentStore::extend_copy(SegmentId segment, Generation generation, std::uint64_t offset,
                                     std::shared_ptr<const Buffer> bytes) {
  REELFS_CO_TRY(const auto located, locate(segment));
  const auto& [found, device] = located;
  REELFS_CO_TRY(device->usable());
  const auto from = found.slot.end;
  const auto to = offset + bytes->size();
  if (offset > from) co_return explain(Error(Errc::invalid), segment);
  if (to <= from) co_return ok();
  if (found.slot.owner != options_.worker.value) note_work(found.address);
  DeviceTable::Append append;
  append.block = found.address.block;
  append.segment = segment;
  append.generation = generation;
  append.worker = options_.worker;
  auto begun = device->table().begin_append(append, from, to - from, false);
  if (!begun) co_return explain(std::move(begun).error(), segment);
  if (begun.value() == DeviceTable::AppendStart::present) co_return ok();
  auto pending = std::make_shared<Pending<void>>();
  CopyWrite write(device, append, from, to, Answer<void>(pending));
  const auto place = device->table().geometry().block_offset(append.block) + offset;
  group_.spawn(write_copy(std::move(write), place, std::move(bytes)));
  co_return co_await Pending<void>::wait(std::move(pending));
}

/// Runs on though who asked for it is gone: the device has the memory until the write has ended.
asio::awaitable<void> SegmentStore::write_copy(CopyWrite write, std::uint64_t place,
                                               std::shared_ptr<const Buffer> bytes) {
  const auto device = write.device();
  auto written = co_await device->write(place, std::move(bytes));
  crash_point("copy.on_disk");
  write.end(std::move(written));
}

Task<SegmentStore::RawPiece> SegmentStore::read_raw(SegmentId segment, std::uint64_t offset,
                                                    std::uint32_t length) {
  REELFS_CO_TRY(const auto located, locate(segment));
  const auto& [found, device] = located;
  if (!is_closed(found.slot)) {
    co_return Error(Errc::busy,
                    "segment " + std::to_string(segment.value) + " is neither sealed nor fenced here");
  }
  if (offset % kPageBytes != 0 || offset >= found.slot.end || length == 0) {
    co_return Error(Errc::invalid, "segment " + std::to_string(segment.value) + " has " +
                                       std::to_string(found.slot.end) + " bytes here, and nothing at " +
                                       std::to_string(offset));
  }
  const auto wanted = std::min<std::uint64_t>(round_up(std::uint64_t{length}, kPageBytes), kMaxRawBytes);
  RawPiece piece;
  piece.valid = found.slot.end;
  piece.bytes = std::make_shared<Buffer>(std::min(wanted, found.slot.end - offset));
  const auto at = device->table().geometry().block_offset(found.address.block) + offset;
  REELFS_CO_TRY(co_await device->read(at, piece.bytes));
  // What was freed meanwhile may have been another segment's already when it was read.
  REELFS_CO_TRY(const auto after, locate(segment));
  if (after.found.address != found.address || after.found.slot.end < offset + piece.bytes->size())
    co_return Error(Errc::busy, "segment " + std::to_string(segment.value) + " was cut or moved meanwhile");
  co_return piece;
}

}  // namespace reelfs::noded
