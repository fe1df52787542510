#include "client/record_reader.h"

#include <algorithm>
#include <cstring>

#include "client/index_client.h"
#include "common/async/timeout.h"
#include "common/base/assert.h"
#include "common/observe/log.h"
#include "common/wire/common.pb.h"
#include "common/wire/index.pb.h"
#include "common/wire/node.pb.h"
#include "common/wire/record.h"

namespace reelfs::client {
namespace {

using namespace std::chrono_literals;

constexpr Duration kFirstBackoff = 20ms;
constexpr Duration kLongestBackoff = 500ms;
// How long a segment that the index knows may be unknown to its nodes.
constexpr Duration kStartingPatience = 5s;

spdlog::logger& log() { return logger("client.reader"); }

std::string describe(InodeId inode, const Extent& extent) {
  return "reading inode " + std::to_string(inode.value) + " at offset " + std::to_string(extent.file_offset) +
         " from segment " + std::to_string(extent.segment.value) + " record " +
         std::to_string(extent.record_offset);
}

// Compares a reply with what was asked for. @return where the first chunk begins in the payload
template <class Name>
Result<std::size_t> verify(const Name& name, const Extent& extent, std::uint32_t first_chunk,
                           std::uint32_t last_chunk, const wire::ReadRecordReply& reply,
                           std::span<const std::byte> payload) {
  REELFS_TRY(const auto record, wire::decode_record_header(payload));
  const auto& header = record.header;
  if (header.segment != extent.segment.value || header.segment_offset != extent.record_offset ||
      header.inode != name.inode.value || header.file_offset != name.file_offset ||
      header.payload_bytes < extent.payload_offset + extent.length) {
    return Error(Errc::corrupt, "another record stands there");
  }
  if (reply.first_chunk() != first_chunk || last_chunk >= header.chunk_count) {
    return Error(Errc::protocol, "other chunks were answered than asked for");
  }
  std::size_t at = header.header_bytes;
  for (auto chunk = first_chunk; chunk <= last_chunk; ++chunk) {
    const auto length = record.chunk_length(chunk);
    if (payload.size() - at < length)
      return Error(Errc::protocol, "fewer chunks were answered than asked for");
    REELFS_TRY(wire::verify_chunk(record, chunk, payload.subspan(at, length)));
    at += length;
  }
  return std::size_t{header.header_bytes};
}

// The error that says most: a bad copy before a missing one before silence.
const Error& most_telling(const std::vector<Error>& errors) {
  const auto weight = [](const Error& error) {
    if (error.code() == Errc::corrupt) return 3;
    if (error.code() == Errc::not_found) return 1;
    return is_retryable(error.code()) ? 0 : 2;
  };
  return *std::max_element(errors.begin(), errors.end(),
                           [&](const Error& a, const Error& b) { return weight(a) < weight(b); });
}

}  // namespace

RecordReader::RecordReader(const asio::any_io_executor& executor, const Clock& clock, IndexClient& index,
                           NodePool& nodes, RecordReaderOptions options)
    : clock_(clock),
      index_(index),
      nodes_(nodes),
      options_(options),
      damage_(executor, clock, index),
      background_(executor) {}

void RecordReader::learn(const wire::SegmentLocation& location) {
  std::vector<WorkerAddress> workers;
  for (const auto& copy : location.copies()) {
    WorkerAddress worker;
    worker.node = NodeId(copy.node());
    worker.worker = WorkerId(copy.worker());
    worker.endpoint = rpc::Endpoint::from(copy.endpoint());
    workers.push_back(std::move(worker));
  }
  locations_.learn(SegmentId(location.segment()), std::move(workers));
}

std::shared_ptr<RecordRead> RecordReader::start(InodeId inode, const Extent& part) {
  const Key key(part.segment, part.record_offset);
  RecordRead::Name name;
  name.inode = part.origin ? part.origin : inode;
  name.file_offset = part.origin ? part.origin_offset : part.file_offset - part.payload_offset;
  const auto first = part.payload_offset / wire::kChunkBytes;
  const auto last = static_cast<std::uint32_t>((part.payload_offset + part.length - 1) / wire::kChunkBytes);
  const auto [begin, end] = reads_.equal_range(key);
  for (auto each = begin; each != end; ++each) {
    const auto& read = each->second;
    if (read->name_ != name || read->first_chunk_ > first || read->last_chunk_ < last) continue;
    if (read->cached_) cache_.splice(cache_.begin(), cache_, read->place_);
    return read;
  }
  auto read = std::make_shared<RecordRead>();
  read->inode_ = inode;
  read->extent_ = part;
  read->name_ = name;
  read->first_chunk_ = first;
  read->last_chunk_ = last;
  reads_.emplace(key, read);
  background_.spawn(fetch(read));
  return read;
}

Task<void> RecordReader::wait(const std::shared_ptr<RecordRead>& read, Deadline deadline) {
  const auto held = read;
  while (!held->ended()) {
    REELFS_CO_TRY(co_await held->progress_.wait(clock_, deadline));
  }
  if (!*held->result_) co_return held->result_->error();
  co_return ok();
}

Result<void> RecordReader::copy(const RecordRead& read, std::uint32_t payload_offset,
                                std::span<std::byte> into) {
  REELFS_ASSERT(read.result_ && *read.result_);
  const auto& chunks = read.result_->value();
  const auto first_byte = read.first_chunk_ * wire::kChunkBytes;
  REELFS_ASSERT(payload_offset >= first_byte);
  const auto at = chunks.data_at + (payload_offset - first_byte);
  if (at + into.size() > chunks.reply.size()) {
    return Error(Errc::corrupt,
                 describe(read.inode_, read.extent_) + ": the record is shorter than its extent");
  }
  std::memcpy(into.data(), chunks.reply.data() + at, into.size());
  return ok();
}

asio::awaitable<void> RecordReader::stop() {
  co_await background_.stop();
  co_await damage_.stop();
  const auto reads = reads_;
  for (const auto& [key, read] : reads) end(read, Error(Errc::cancelled, "stopping"));
}

void RecordReader::drop(const Read& read) {
  const auto [begin, end] = reads_.equal_range(Key(read->extent_.segment, read->extent_.record_offset));
  const auto found = std::find_if(begin, end, [&](const auto& each) { return each.second == read; });
  if (found != end) reads_.erase(found);
}

void RecordReader::end(const Read& read, Result<RecordRead::Chunks> result) {
  if (read->ended()) return;
  const bool good = result.has_value();
  read->result_.emplace(std::move(result));
  if (good) {
    cache_.push_front(read);
    read->place_ = cache_.begin();
    read->cached_ = true;
    cached_bytes_ += read->result_->value().reply.capacity();
    while (cached_bytes_ > options_.cache_bytes && cache_.size() > 1) {
      const auto oldest = cache_.back();
      cache_.pop_back();
      oldest->cached_ = false;
      cached_bytes_ -= oldest->result_->value().reply.capacity();
      drop(oldest);
    }
  } else {
    drop(read);
  }
  read->progress_.notify_all();
}

asio::awaitable<void> RecordReader::fetch(Read read) {
  const auto began = clock_.now();
  const auto deadline = Deadline::after(clock_, options_.timeout);
  const auto segment = read->extent_.segment;
  auto backoff = kFirstBackoff;
  bool located_anew = false;
  while (true) {
    if (!locations_.known(segment)) {
      located_anew = true;
      auto located = co_await locate(segment, deadline);
      if (!located) {
        end(read, std::move(located.error()).within(describe(read->inode_, read->extent_)));
        co_return;
      }
    }
    const auto asked = co_await ask_all(read, deadline);
    if (read->ended()) co_return;
    if (!asked) {
      end(read, asked.error());
      co_return;
    }
    auto error = most_telling(read->failures_);
    // A copy that was not heard may come back, and a node that has just begun may not know its segments yet.
    // Otherwise only news of other copies would help.
    const bool starting = clock_.now() - began < kStartingPatience;
    const bool all_heard =
        std::none_of(read->failures_.begin(), read->failures_.end(), [&](const Error& each) {
          return is_retryable(each.code()) || (each.code() == Errc::not_found && starting);
        });
    locations_.forget(segment);
    if ((all_heard && located_anew) || deadline.left(clock_) <= backoff) {
      log().warn("no copy could be read inode={} segment={} record={} error={}", read->inode_.value,
                 segment.value, read->extent_.record_offset, error.describe());
      end(read, std::move(error).within(describe(read->inode_, read->extent_)));
      co_return;
    }
    read->failures_.clear();
    if (!all_heard) {
      co_await sleep_for(backoff);
      backoff = std::min(2 * backoff, kLongestBackoff);
    }
  }
}

// Asks one worker after the other; the next as soon as one has failed or been silent for a while.
Task<void> RecordReader::ask_all(const Read& read, Deadline deadline) {
  const auto held = read;
  const auto workers = locations_.order(held->extent_.segment, clock_.now());
  if (workers.empty()) held->failures_.emplace_back(Errc::unavailable, "no copy is reachable");
  for (const auto& worker : workers) {
    ++held->attempts_;
    const auto attempt_deadline = Deadline{std::min(deadline.at, clock_.now() + options_.attempt_timeout)};
    background_.spawn(attempt(held, worker, attempt_deadline));
    const auto patience = Deadline::after(clock_, options_.hedge_after);
    while (!held->ended() && held->attempts_ > 0) {
      const auto waited = co_await held->progress_.wait(clock_, patience);
      if (!waited && waited.error().code() == Errc::cancelled) co_return waited.error();
      if (!waited) break;
    }
    if (held->ended()) co_return ok();
  }
  while (!held->ended() && held->attempts_ > 0) {
    const auto waited = co_await held->progress_.wait(clock_, {clock_.now() + 2 * options_.attempt_timeout});
    if (!waited && waited.error().code() == Errc::cancelled) co_return waited.error();
  }
  co_return ok();
}

Task<void> RecordReader::locate(SegmentId segment, Deadline deadline) {
  wire::LocateSegmentsRequest request;
  request.add_segments(segment.value);
  REELFS_CO_TRY(const auto reply, co_await index_.call<wire::LocateSegmentsReply>(
                                      wire::Method::locate_segments, std::move(request), deadline));
  for (const auto& location : reply.locations()) learn(location);
  const bool there = std::any_of(reply.locations().begin(), reply.locations().end(),
                                 [&](const auto& location) { return location.segment() == segment.value; });
  if (!there) co_return Error(Errc::not_found, "the segment is no more");
  co_return ok();
}

// All of the record as far as it was wanted: which bytes of it are bad the node finds out.
void RecordReader::report(const Read& read, const WorkerAddress& worker, const Error& error) {
  const auto& extent = read->extent_;
  DamageReporter::Place place;
  place.segment = extent.segment;
  place.node = worker.node;
  place.offset = extent.record_offset;
  place.length = wire::record_bytes(static_cast<std::uint32_t>(extent.payload_offset + extent.length));
  damage_.report(place, "read by a client: " + error.describe());
}

asio::awaitable<void> RecordReader::attempt(Read read, WorkerAddress worker, Deadline deadline) {
  struct Attempt {
    Read read;
    explicit Attempt(const Read& r) : read(r) {}
    ~Attempt() {
      --read->attempts_;
      read->progress_.notify_all();
    }
  };
  const Attempt guard(read);
  auto chunks = co_await ask(*read, worker, deadline);
  if (chunks) {
    locations_.succeeded(read->extent_.segment, worker.node);
    end(read, std::move(chunks));
    co_return;
  }
  auto error = std::move(chunks.error());
  if (error.code() == Errc::unavailable || error.code() == Errc::timed_out)
    locations_.failed(worker.node, clock_.now());
  if (error.code() == Errc::corrupt) {
    log().error("copy is bad node={} worker={} {}: {}", worker.node.value, worker.worker.value,
                describe(read->inode_, read->extent_), error.describe());
  }
  if (error.code() == Errc::corrupt || error.code() == Errc::io) report(read, worker, error);
  // The copy ends before the record, or the node cannot make sense of its bytes: either way it is not there.
  if (error.code() == Errc::invalid || error.code() == Errc::out_of_range) {
    error = Error(Errc::not_found, error.message());
  }
  read->failures_.push_back(std::move(error).within("node " + std::to_string(worker.node.value) + " worker " +
                                                    std::to_string(worker.worker.value)));
}

Task<RecordRead::Chunks> RecordReader::ask(const RecordRead& read, const WorkerAddress& worker,
                                           Deadline deadline) {
  const auto first_byte = read.first_chunk_ * wire::kChunkBytes;
  const auto end_byte = static_cast<std::uint32_t>(read.extent_.payload_offset + read.extent_.length);
  wire::ReadRecordRequest request;
  request.set_segment(read.extent_.segment.value);
  request.set_record_offset(read.extent_.record_offset);
  request.set_payload_offset(first_byte);
  request.set_length(end_byte - first_byte);
  REELFS_CO_TRY(auto reply,
                co_await nodes_.for_reads(worker).call(wire::Method::read_record, request, deadline));
  wire::ReadRecordReply message;
  if (!message.ParseFromString(reply.message)) co_return Error(Errc::protocol, "reply does not parse");
  RecordRead::Chunks chunks;
  REELFS_CO_TRY(chunks.data_at, verify(read.name_, read.extent_, read.first_chunk_, read.last_chunk_, message,
                                       reply.payload.span()));
  chunks.reply = std::move(reply.payload);
  co_return std::move(chunks);
}

}  // namespace reelfs::client
