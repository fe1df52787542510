// SegmentStore's appends: segment_store.h, append_queue.h.
#include <unordered_map>
#include <utility>

#include <boost/asio/any_io_executor.hpp>

#include "common/base/assert.h"
#include "common/wire/record.h"
#include "noded/segment/explain.h"
#include "noded/segment/segment_store.h"
#include "noded/shm/crash_point.h"

namespace reelfs::noded {

/// Appends under way on one segment; exists while there are any.
struct SegmentStore::Queue {
  struct Waiting {
    std::shared_ptr<Pending<std::uint64_t>> pending;
    std::shared_ptr<Buffer> unit;
    Generation generation;
  };

  Queue(const Located& located, std::size_t window)
      : found(located.found), device(located.device), order(found.slot.end, window) {}

  const SegmentBlock found;
  const DevicePtr device;
  AppendQueue order;
  std::unordered_map<AppendQueue::Ticket, Waiting> waiting;
  std::optional<Error> failure;  // of the write that broke the order
};

/// One write that is counted in the device table. However its coroutine ends, it is uncounted and the queue
/// goes on.
class SegmentStore::UnderWay {
 public:
  UnderWay(SegmentStore& store, QueuePtr queue, const DeviceTable::Append& append, std::uint64_t offset)
      : store_(&store), queue_(std::move(queue)), append_(append), offset_(offset) {}
  UnderWay(UnderWay&& other) noexcept
      : store_(std::exchange(other.store_, nullptr)),
        queue_(std::move(other.queue_)),
        append_(other.append_),
        offset_(other.offset_),
        outcome_(std::move(other.outcome_)) {}
  UnderWay& operator=(UnderWay&&) = delete;
  ~UnderWay() {
    if (store_ != nullptr) store_->finish_write(queue_, append_, offset_, std::move(outcome_));
  }

  void end(Result<void> outcome) { outcome_ = std::move(outcome); }
  const DeviceTable::Append& append() const { return append_; }
  std::uint64_t offset() const { return offset_; }
  DevicePtr device() const { return queue_->device; }

 private:
  SegmentStore* store_;
  QueuePtr queue_;
  const DeviceTable::Append append_;
  const std::uint64_t offset_;
  Result<void> outcome_ = Error(Errc::cancelled, "the worker is stopping");
};

Task<std::uint64_t> SegmentStore::append(SegmentId segment, Generation generation, std::uint64_t offset,
                                         Buffer unit) {
  if (unit.empty() || unit.size() % kPageBytes != 0 || offset % kPageBytes != 0) {
    co_return Error(Errc::invalid, "an append is a whole number of pages at a page boundary");
  }
  const auto size = unit.size();
  QueuePtr queue;
  if (const auto at = queues_.find(segment); at != queues_.end()) {
    queue = at->second;
  } else {
    REELFS_CO_TRY(const auto located, locate(segment));
    queue = std::make_shared<Queue>(located, options_.window);
  }
  REELFS_CO_TRY(may_append(*queue, generation, offset, size));
  const auto ticket = ++last_ticket_;
  const auto arrival = queue->order.arrive(ticket, offset, size);
  if (arrival == AppendQueue::Arrival::waiting) {
    auto pending = std::make_shared<Pending<std::uint64_t>>();
    Queue::Waiting waiting;
    waiting.pending = pending;
    waiting.unit = std::make_shared<Buffer>(std::move(unit));
    waiting.generation = generation;
    queue->waiting.emplace(ticket, std::move(waiting));
    queues_.emplace(segment, queue);
    pump(queue);
    co_return co_await Pending<std::uint64_t>::wait(std::move(pending));
  }
  if (arrival == AppendQueue::Arrival::overlap) {
    co_return Error(Errc::invalid,
                    "the append covers part of another one of segment " + std::to_string(segment.value));
  }
  co_return offset + size;
}

// Before it takes a place in the order: one that is refused there takes those behind it along.
Result<void> SegmentStore::may_append(const Queue& queue, Generation generation, std::uint64_t offset,
                                      std::uint64_t bytes) {
  REELFS_TRY(queue.device->usable());
  auto& table = queue.device->table();
  const auto segment = queue.found.segment;
  const auto block_bytes = table.geometry().block_bytes;
  if (offset > block_bytes || bytes > block_bytes - offset) return explain(Error(Errc::no_space), segment);
  const auto slot = table.slot(queue.found.address.block);
  if (slot.descriptor.segment != segment.value || generation.value < slot.descriptor.generation)
    return explain(Error(Errc::stale_generation), segment);
  return ok();
}

void SegmentStore::pump(const QueuePtr& queue) {
  auto& device = *queue->device;
  const auto address = queue->found.address;
  while (const auto next = queue->order.start()) {
    const auto& waiting = queue->waiting.at(next->ticket);
    if (!next->follows && device.table().slot(address.block).owner != options_.worker.value) {
      note_work(address);  // before the table says so: the leader looks here after our death
      unfilled_->remove(queue->found.segment);
    }
    DeviceTable::Append append;
    append.block = address.block;
    append.segment = queue->found.segment;
    append.generation = waiting.generation;
    append.worker = options_.worker;
    Result<DeviceTable::AppendStart> begun = Error(Errc::io);
    if (auto usable = device.usable(); !usable) {
      begun = std::move(usable).error();
    } else {
      begun = device.table().begin_append(append, next->offset, next->bytes, next->follows);
    }
    if (begun && begun.value() == DeviceTable::AppendStart::begun) {
      ++appends_under_way_;
      group_.spawn(write(UnderWay(*this, queue, append, next->offset), waiting.unit));
      continue;
    }
    if (!begun && !queue->failure) queue->failure = explain(std::move(begun).error(), queue->found.segment);
    decide(queue, queue->order.finish(next->offset, begun.has_value()), std::nullopt);
  }
  decide(queue, queue->order.refuse_gaps(), std::nullopt);
  if (!queue->order.idle()) return;
  const auto at = queues_.find(queue->found.segment);
  if (at != queues_.end() && at->second == queue) queues_.erase(at);
}

void SegmentStore::decide(const QueuePtr& queue, const std::vector<AppendQueue::Decision>& decisions,
                          const std::optional<Error>& error) {
  for (const auto& decision : decisions) {
    const auto at = queue->waiting.find(decision.ticket);
    REELFS_ASSERT(at != queue->waiting.end());
    const auto pending = at->second.pending;
    queue->waiting.erase(at);
    if (error) {
      pending->answer(*error);
    } else if (decision.outcome == AppendQueue::Outcome::written) {
      pending->answer(decision.end);
    } else if (decision.outcome == AppendQueue::Outcome::gap) {
      pending->answer(Error(Errc::invalid, "the append leaves a gap: segment " +
                                               std::to_string(queue->found.segment.value) + " ends at " +
                                               std::to_string(queue->order.end()) + " here"));
    } else {
      pending->answer(queue->failure.value_or(Error(Errc::io, "an append before this one failed")));
    }
  }
  if (queue->order.idle()) queue->failure.reset();
}

asio::awaitable<void> SegmentStore::write(UnderWay under_way, std::shared_ptr<Buffer> unit) {
  const auto append = under_way.append();
  const auto offset = under_way.offset();
  // Here and not on a thread: a MiB takes some 60 us, and the way there and back costs more.
  auto done = wire::verify_append_unit(unit->span(), append.segment, append.generation, offset);
  if (done) {
    const auto device = under_way.device();
    const auto at = device->table().geometry().block_offset(append.block) + offset;
    done = co_await device->write(at, unit);
    crash_point("append.on_disk");
  }
  under_way.end(std::move(done));
}

void SegmentStore::finish_write(const QueuePtr& queue, const DeviceTable::Append& append,
                                std::uint64_t offset, Result<void> outcome) {
  --appends_under_way_;
  const bool written = outcome.has_value();
  if (!written && !queue->failure) queue->failure = std::move(outcome).error();
  const auto decisions = queue->order.finish(offset, written);
  const auto counted = queue->device->table().end_append(append, queue->order.end());
  crash_point("append.counted");
  std::optional<Error> refused;
  if (written && !counted) refused = explain(counted.error(), queue->found.segment);
  decide(queue, decisions, refused);
  pump(queue);
}

}  // namespace reelfs::noded
