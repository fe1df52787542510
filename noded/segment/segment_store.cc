#include "noded/segment/segment_store.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <utility>

#include "common/async/timeout.h"
#include "common/base/assert.h"
#include "common/wire/record.h"
#include "noded/device/device_file.h"
#include "noded/segment/explain.h"

namespace reelfs::noded {
namespace {

using namespace std::chrono_literals;

constexpr std::size_t kListStep = 256;
constexpr Duration kDrainPause = 1ms;  // a write under way takes about as long
constexpr Duration kDrainPauseLimit = 20ms;
constexpr Duration kLookPause = 250ms;  // between looks at calls that may hang
constexpr double kBusyCalls = 8;        // calls waiting on a device that make it half as welcome
constexpr std::uint64_t kMaxFirstReadBytes = wire::kMaxRecordPayload + 4 * kPageBytes;

}  // namespace

SegmentStore::SegmentStore(asio::any_io_executor executor, const Clock& clock, Options options)
    : clock_(clock), options_(options), group_(executor) {}

SegmentStore::~SegmentStore() = default;

void SegmentStore::attach(ProcessTable& process, UnfilledTable& unfilled) {
  const bool first = process_ == nullptr;
  process_ = &process;
  unfilled_ = &unfilled;
  if (first) group_.spawn(look_after_devices());
}

Device& SegmentStore::add_device(std::unique_ptr<DeviceFile> file, std::unique_ptr<DeviceTable> table) {
  Device::Options device_options;
  device_options.worker = options_.worker;
  device_options.call_limit = options_.device_call_limit;
  dropped_.erase(table->device());
  devices_.push_back(
      std::make_shared<Device>(std::move(file), std::move(table), clock_, device_options, group_));
  return *devices_.back();
}

DevicePtr SegmentStore::find_device(DeviceId device) {
  for (const auto& candidate : devices_) {
    if (candidate->id() == device) return candidate;
  }
  return nullptr;
}

void SegmentStore::drop_device(DeviceId device) {
  const auto dropped = find_device(device);
  if (!dropped) return;
  dropped->look_after(false);  // who waits for it is answered
  if (const auto refused = dropped->usable(); !refused) dropped_[device] = refused.error().message();
  std::erase(devices_, dropped);
}

asio::awaitable<void> SegmentStore::look_after_devices() {
  auto before = clock_.now();
  for (;;) {
    co_await sleep_for(kLookPause);
    const auto now = clock_.now();
    // Where this process itself was stopped for a while, calls had no chance to end.
    const bool slept = now - before > 2 * kLookPause;
    before = now;
    const auto devices = devices_;
    for (const auto& device : devices) device->look_after(slept);
  }
}

// To be called just before the block becomes this process's.
void SegmentStore::note_work(BlockAddress address) {
  process_->add(address, [this](BlockAddress noted) {
    const auto device = find_device(noted.device);
    return device && noted.block < device->table().geometry().block_count &&
           device->table().slot(noted.block).owner == options_.worker.value;
  });
}

std::optional<SegmentStore::Located> SegmentStore::look(const DevicePtr& device, std::uint32_t block,
                                                        SegmentId segment) {
  Located located;
  located.device = device;
  located.found.segment = segment;
  located.found.address = {device->id(), block};
  located.found.slot = device->table().slot(block);
  if (located.found.slot.descriptor.segment != segment.value) return std::nullopt;
  return located;
}

Result<SegmentStore::Located> SegmentStore::locate(SegmentId segment) {
  for (const auto& device : devices_) {
    const auto block = device->table().find(segment);
    if (!block) continue;
    REELFS_TRY(device->usable());
    if (auto located = look(device, *block, segment)) return std::move(*located);
  }
  auto error = explain(Error(Errc::not_found), segment);
  if (dropped_.empty()) return error;
  auto text = error.message();
  for (const auto& [device, why] : dropped_) text += "; " + why;
  return Error(Errc::not_found, std::move(text));
}

/// As locate, for a segment that is to have a writer again: one look instead of one at each device.
Result<SegmentStore::Located> SegmentStore::locate_unfilled(SegmentId segment) {
  if (const auto noted = unfilled_->find(segment)) {
    const auto device = find_device(DeviceId(noted->device));
    if (device && device->usable()) {
      if (auto located = look(device, noted->block, segment)) return std::move(*located);
    }
  }
  return locate(segment);
}

Result<SegmentBlock> SegmentStore::find(SegmentId segment) {
  REELFS_TRY(const auto located, locate(segment));
  return located.found;
}

std::vector<SegmentBlock> SegmentStore::list(SegmentId from, std::size_t most) {
  std::vector<SegmentBlock> blocks;
  const auto keep_first = [&] {
    std::sort(blocks.begin(), blocks.end(),
              [](const auto& a, const auto& b) { return a.segment < b.segment; });
    if (blocks.size() > most) blocks.resize(most);
  };
  std::array<BlockSlot, kListStep> step;
  for (const auto& device : devices_) {
    if (!device->usable()) continue;
    std::uint32_t first = 0;
    while (const auto count = device->table().copy_slots(first, step)) {
      for (std::uint32_t i = 0; i < count; ++i) {
        if (step[i].descriptor.state == BlockState::free || step[i].descriptor.segment < from.value) continue;
        SegmentBlock found;
        found.segment = SegmentId(step[i].descriptor.segment);
        found.address = {device->id(), first + i};
        found.slot = step[i];
        blocks.push_back(found);
      }
      first += static_cast<std::uint32_t>(count);
      if (blocks.size() / 2 > most) keep_first();  // so that memory is bounded by what is wanted
    }
  }
  keep_first();
  return blocks;
}

Error SegmentStore::no_free_block() const {
  std::string text = "no free block on this node";
  if (devices_.empty() && dropped_.empty()) text += ": it has no device in service";
  for (const auto& device : devices_) {
    const auto usable = device->usable();
    text += usable ? "; device " + std::to_string(device->id().value) + " is full"
                   : "; " + usable.error().message();
  }
  for (const auto& [device, why] : dropped_) text += "; " + why;
  return Error(Errc::no_space, std::move(text));
}

/// Free blocks weigh less where calls wait.
DevicePtr SegmentStore::choose_device() const {
  DevicePtr best;
  double most = 0;
  for (const auto& device : devices_) {
    if (!device->usable()) continue;
    const auto free = static_cast<double>(device->table().counts().free);
    const auto welcome = free / (1 + static_cast<double>(device->queue_depth()) / kBusyCalls);
    if (welcome <= most) continue;
    most = welcome;
    best = device;
  }
  return best;
}

Task<BlockAddress> SegmentStore::allocate(SegmentId segment, Generation generation, InodeId channel) {
  if (!segment || !generation)
    co_return Error(Errc::invalid, "a segment and its generation are numbered from 1");
  DevicePtr device;
  Result<std::uint32_t> block = Error(Errc::no_space);
  const auto now_ns = clock_.wall().time_since_epoch().count();
  {
    const UnfilledTable::AllocationLock lock(*unfilled_);
    if (const auto present = locate_unfilled(segment)) {
      device = present.value().device;
      block = present.value().found.address.block;
    } else if (present.error().code() != Errc::not_found) {
      co_return present.error();
    } else {
      device = choose_device();
      if (device) block = device->table().allocate(segment, generation, channel, options_.worker, now_ns);
    }
  }
  if (!block) co_return no_free_block();
  REELFS_CO_TRY(device->usable());
  const auto known = device->table().slot(block.value()).descriptor.generation;
  if (generation.value < known) co_return explain(Error(Errc::stale_generation), segment);
  if (generation.value > known) {
    const auto end = device->table().slot(block.value()).end;
    if (auto reopened = device->table().reopen(block.value(), segment, generation, end); !reopened) {
      co_return explain(std::move(reopened).error(), segment);
    }
  }
  REELFS_CO_TRY(co_await device->persist(block.value()));
  co_return BlockAddress{device->id(), block.value()};
}

Task<void> SegmentStore::drain(Located located, Deadline deadline) {
  const auto& found = located.found;
  auto& table = located.device->table();
  auto pause = kDrainPause;
  for (;;) {
    const auto slot = table.slot(found.address.block);
    const bool idle = slot.in_flight == 0 && !table.is_rewritten(found.address.block);
    if (idle || slot.descriptor.segment != found.segment.value) co_return ok();
    REELFS_CO_TRY(located.device->usable());
    if (deadline.left(clock_) <= Duration::zero()) {
      co_return Error(Errc::timed_out,
                      "writes of segment " + std::to_string(found.segment.value) + " do not end");
    }
    co_await sleep_for(pause);
    pause = std::min(2 * pause, kDrainPauseLimit);
  }
}

// docs/design/node.md, "Fencing": refuse, drain, sync the data, then write down how much of it counts.
Task<SegmentStore::Fenced> SegmentStore::fence(SegmentId segment, Generation generation, Deadline deadline) {
  REELFS_CO_TRY(const auto located, locate_unfilled(segment));
  const auto& [found, device_ptr] = located;
  auto& device = *device_ptr;
  const auto block = found.address.block;
  if (auto fenced = device.table().fence(block, segment, generation); !fenced) {
    co_return explain(std::move(fenced).error(), segment);
  }
  REELFS_CO_TRY(co_await drain(located, deadline));
  REELFS_CO_TRY(co_await device.sync());
  auto length = device.table().settle_fence(block, segment, generation);
  if (!length) co_return explain(std::move(length).error(), segment);
  unfilled_->remove(segment);
  REELFS_CO_TRY(co_await device.persist(block));
  REELFS_CO_TRY(co_await device.sync());
  Fenced answer;
  answer.address = found.address;
  answer.length = length.value();
  answer.torn = device.table().torn(block);
  co_return answer;
}

Task<void> SegmentStore::cut(SegmentId segment, Generation generation, std::uint64_t length, After after,
                             Deadline deadline) {
  if (length % kPageBytes != 0)
    co_return Error(Errc::invalid, "a segment's length is a whole number of pages");
  REELFS_CO_TRY(const auto located, locate_unfilled(segment));
  const auto& [found, device_ptr] = located;
  auto& device = *device_ptr;
  const auto block = found.address.block;
  // A descriptor that calls bytes valid is written only behind those bytes.
  if (after == After::sealed) {
    REELFS_CO_TRY(co_await device.sync());
  }
  for (;;) {
    auto done = after == After::sealed ? device.table().seal(block, segment, generation, length)
                                       : device.table().reopen(block, segment, generation, length);
    if (done) break;
    if (done.error().code() != Errc::busy) co_return explain(std::move(done).error(), segment);
    if (auto fenced = device.table().fence(block, segment, generation); !fenced) {
      co_return explain(std::move(fenced).error(), segment);
    }
    REELFS_CO_TRY(co_await drain(located, deadline));
    REELFS_CO_TRY(co_await device.sync());
  }
  unfilled_->remove(segment);
  REELFS_CO_TRY(co_await device.persist(block));
  REELFS_CO_TRY(co_await device.sync());
  co_return ok();
}

Task<void> SegmentStore::free(SegmentId segment, Generation newest, Deadline deadline) {
  const auto present = locate(segment);
  if (!present) {
    if (present.error().code() == Errc::not_found) co_return ok();
    co_return present.error();
  }
  const auto located = present.value();
  const auto& [found, device_ptr] = located;
  auto& device = *device_ptr;
  const auto block = found.address.block;
  for (;;) {
    note_work(found.address);
    auto freed = device.table().begin_free(block, segment, options_.worker, newest);
    if (freed) break;
    if (freed.error().code() == Errc::stale_generation) co_return explain(std::move(freed).error(), segment);
    if (freed.error().code() != Errc::busy) co_return ok();  // another worker freed it meanwhile
    const auto known = Generation(device.table().slot(block).descriptor.generation);
    if (!device.table().fence(block, segment, known)) continue;  // a newer generation came: look again
    REELFS_CO_TRY(co_await drain(located, deadline));
  }
  unfilled_->remove(segment);
  group_.spawn(discard(device_ptr, block));
  REELFS_CO_TRY(co_await device.persist(block));
  co_return ok();
}

Result<void> SegmentStore::release(SegmentId segment, Generation generation) {
  REELFS_TRY(const auto located, locate(segment));
  const auto& [found, device] = located;
  auto released = device->table().release(found.address.block, segment, generation);
  if (!released) return explain(std::move(released).error(), segment);
  if (released.value().owner == options_.worker.value) process_->remove(found.address);
  UnfilledTable::Entry entry;
  entry.segment = segment.value;
  entry.length = released.value().end;
  entry.device = found.address.device.value;
  entry.block = found.address.block;
  unfilled_->put(entry);
  // Granted again meanwhile, through another worker that looked for the entry before it was there.
  if (device->table().slot(found.address.block).descriptor.generation != generation.value) {
    unfilled_->remove(segment);
  }
  return ok();
}

asio::awaitable<void> SegmentStore::discard(DevicePtr device, std::uint32_t block) {
  const auto geometry = device->table().geometry();
  // Advice: a device that cannot do it keeps the old bytes, which name another segment and so never count.
  (void)co_await device->discard(geometry.block_offset(block), geometry.block_bytes);
  device->table().finish_free(block);
  process_->remove({device->id(), block});
}

// A flush covers what was written before it began, hence the look before. A copy may be cut meanwhile, hence
// the one after. docs/design/seal-and-switch.md, "What the model found", 3.
Task<void> SegmentStore::sync(std::vector<Flushed> segments) {
  std::vector<DevicePtr> touched;
  for (const auto& wanted : segments) {
    REELFS_CO_TRY(const auto located, locate(wanted.segment));
    REELFS_CO_TRY(reaches(located, wanted));
    if (std::find(touched.begin(), touched.end(), located.device) == touched.end())
      touched.push_back(located.device);
  }
  for (const auto& device : touched) {
    REELFS_CO_TRY(co_await device->sync());
  }
  for (const auto& wanted : segments) {
    if (wanted.length == 0) continue;
    REELFS_CO_TRY(const auto located, locate(wanted.segment));
    REELFS_CO_TRY(reaches(located, wanted));
  }
  co_return ok();
}

Result<void> SegmentStore::reaches(const Located& located, const Flushed& wanted) {
  const auto end = located.found.slot.end;
  if (end >= wanted.length) return ok();
  return Error(Errc::not_found, "segment " + std::to_string(wanted.segment.value) + " ends at " +
                                    std::to_string(end) + " here, and not at " +
                                    std::to_string(wanted.length));
}

Task<SegmentStore::RecordPiece> SegmentStore::read(RecordRange range) {
  REELFS_CO_TRY(const auto located, locate(range.segment));
  auto piece = co_await read_at(located, range);
  // What was freed meanwhile may have been another segment's already when it was read.
  REELFS_CO_TRY(locate(range.segment));
  co_return std::move(piece);
}

Task<SegmentStore::RecordPiece> SegmentStore::read_at(Located located, RecordRange range) {
  const auto& [found, device_ptr] = located;
  auto& device = *device_ptr;
  const auto end = found.slot.end;
  const auto base = device.table().geometry().block_offset(found.address.block);
  const auto header_at = round_down(range.record_offset, kPageBytes);
  if (range.record_offset % wire::kRecordAlign != 0 || range.record_offset >= end || range.length == 0) {
    co_return Error(Errc::invalid, "no record begins at " + std::to_string(range.record_offset) +
                                       " of segment " + std::to_string(range.segment.value));
  }
  // One read brings it all where the wanted chunks are near the header, which is the usual case of a whole
  // record.
  const auto wanted = round_up(std::uint64_t{range.payload_offset} + range.length, wire::kChunkBytes);
  const bool near = range.payload_offset < 2 * wire::kChunkBytes;
  const auto want_end = range.record_offset + wire::kMaxHeaderBytes + (near ? wanted : 0);
  const auto first_end = std::min(end, round_up(want_end, kPageBytes));
  auto bytes = std::make_shared<Buffer>(std::min<std::uint64_t>(first_end - header_at, kMaxFirstReadBytes));
  REELFS_CO_TRY(co_await device.read(base + header_at, bytes));
  const auto in_buffer = range.record_offset - header_at;
  REELFS_CO_TRY(const auto record, wire::decode_record_header(bytes->span().subspan(in_buffer)));
  const auto& header = record.header;
  if (header.segment != range.segment.value || header.segment_offset != range.record_offset) {
    co_return Error(Errc::corrupt, "the record at " + std::to_string(range.record_offset) + " of segment " +
                                       std::to_string(range.segment.value) +
                                       " is addressed to another place");
  }
  if (range.payload_offset >= header.payload_bytes)
    co_return Error(Errc::invalid, "the range lies beyond the record");
  const auto last =
      std::min(std::uint64_t{range.payload_offset} + range.length, std::uint64_t{header.payload_bytes}) - 1;
  RecordPiece piece;
  piece.header_bytes = header.header_bytes;
  piece.first_chunk = range.payload_offset / header.chunk_bytes;
  const auto last_chunk = static_cast<std::uint32_t>(last / header.chunk_bytes);
  const auto chunks_begin = std::uint64_t{piece.first_chunk} * header.chunk_bytes;
  const auto chunks_end = std::uint64_t{last_chunk} * header.chunk_bytes + record.chunk_length(last_chunk);
  piece.size = header.header_bytes + (chunks_end - chunks_begin);
  const auto payload_at = std::uint64_t{range.record_offset} + header.header_bytes;
  if (payload_at + chunks_end > end)
    co_return Error(Errc::corrupt, "the record reaches beyond the segment's end");
  if (piece.first_chunk == 0 && payload_at + chunks_end <= header_at + bytes->size()) {
    piece.begin = in_buffer;
    piece.bytes = std::move(bytes);
    co_return piece;
  }
  // The chunks are read into their own buffer behind a page of room, and the header is put right before them.
  const auto chunk_at = payload_at + chunks_begin;
  const auto read_at = round_down(chunk_at, kPageBytes);
  const auto read_end = round_up(payload_at + chunks_end, kPageBytes);
  auto whole = std::make_shared<Buffer>(kPageBytes + (read_end - read_at));
  REELFS_CO_TRY(co_await device.read(base + read_at, whole, kPageBytes));
  piece.begin = kPageBytes + (chunk_at - read_at) - header.header_bytes;
  const auto header_bytes = bytes->span().subspan(in_buffer, header.header_bytes);
  std::copy(header_bytes.begin(), header_bytes.end(), whole->span().subspan(piece.begin).begin());
  piece.bytes = std::move(whole);
  co_return piece;
}

Task<void> SegmentStore::adopt_block(DevicePtr device, std::uint32_t block, WorkerId dead,
                                     std::size_t& released) {
  const auto slot = device->table().disown(block, dead);
  if (!slot) co_return ok();
  ++released;
  if (slot->descriptor.state != BlockState::open || slot->descriptor.fenced == 1) co_return ok();
  // The dead worker may have written more than it came to count. What is whole is kept: nobody was told of
  // it, and nobody is hurt.
  if (!device->usable()) co_return ok();  // it is looked through when it comes back
  auto known = slot->descriptor;
  known.length = slot->end;
  const auto file = device->as_file();
  REELFS_CO_TRY(const auto walked, co_await find_block_end(*file, device->table().geometry(), block, known));
  const SegmentId segment(slot->descriptor.segment);
  if (!device->table().extend_end(block, segment, slot->end, walked.end)) co_return ok();
  UnfilledTable::Entry entry;
  entry.segment = segment.value;
  entry.length = walked.end;
  entry.device = device->id().value;
  entry.block = block;
  unfilled_->put(entry);
  co_return ok();
}

std::vector<BlockAddress> SegmentStore::blocks_of(const ProcessTable& process) {
  auto blocks = process.blocks();
  if (!process.overflowed()) return blocks;
  for (const auto& device : devices_) {
    const auto owned = device->table().owned_by(process.worker());
    for (const auto block : owned) blocks.push_back({device->id(), block});
  }
  return blocks;
}

Task<SegmentStore::Adopted> SegmentStore::adopt(ProcessTable& dead) {
  const auto worker = dead.worker();
  const bool calls_hang = is_alive(dead.process());
  Adopted adopted;
  std::vector<DevicePtr> devices;
  for (const auto& device : devices_) {
    // One that is out of service is looked through when it comes back, which waits for those calls.
    const bool left_out = calls_hang && device->usable() && device->in_use_by(worker).value_or(true);
    (left_out ? adopted.left_out : devices).push_back(device);
  }
  const auto blocks = blocks_of(dead);
  for (const auto& device : devices) {
    const auto done = co_await adopt_on(device, worker, blocks, adopted.blocks);
    if (!done && device->usable()) co_return done.error();
  }
  co_return std::move(adopted);
}

Task<void> SegmentStore::adopt_on(DevicePtr device, WorkerId dead, const std::vector<BlockAddress>& blocks,
                                  std::size_t& released) {
  for (const auto address : blocks) {
    if (address.device != device->id() || address.block >= device->table().geometry().block_count) continue;
    REELFS_CO_TRY(co_await adopt_block(device, address.block, dead, released));
  }
  device->table().release_claims(dead);
  if (!device->usable()) co_return ok();
  co_return co_await device->persist_all();
}

asio::awaitable<void> SegmentStore::stop() { co_await group_.stop(); }

}  // namespace reelfs::noded
