#include "client/reader.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <span>
#include <utility>

#include "client/index_client.h"
#include "client/wire_attributes.h"
#include "common/base/units.h"
#include "common/observe/log.h"
#include "common/wire/common.pb.h"
#include "common/wire/index.pb.h"
#include "common/wire/record.h"

namespace reelfs::client {
namespace {

using namespace std::chrono_literals;

// How long extents are trusted without asking the index whether the file has changed elsewhere. Opening a
// file and asking for its attributes confirm them too.
constexpr Duration kTrust = 250ms;
constexpr Duration kAheadPatience = 10s;
constexpr std::uint64_t kExtentsRange = 64 * kMiB;
constexpr std::uint32_t kExtentsLimit = 1024;
constexpr std::uint64_t kFirstAhead = 1 * kMiB;
constexpr std::uint64_t kMostAhead = 4 * kMiB;
// Data and holes are told in blocks, as local file systems do: programs take them for multiples of some size.
constexpr std::uint64_t kSeekBlock = 4 * kKiB;
// Reads of this size or more are not random: the rest of their records is wanted as well.
constexpr std::size_t kLargeRead = 128 * kKiB;
// Extents are asked for anew where their segment is gone: what lived in it was moved, or overwritten. It can
// hardly happen twice to one read.
constexpr int kStaleTries = 4;

bool covers(const std::vector<OverlayPart>& parts, std::uint64_t offset, std::size_t length) {
  // Enough for the case that matters, reading what has just been written: pieces that lie side by side.
  std::vector<std::pair<std::uint64_t, std::uint64_t>> ranges;
  for (const auto& part : parts) ranges.emplace_back(part.offset, part.offset + part.length);
  std::sort(ranges.begin(), ranges.end());
  auto covered = offset;
  for (const auto& [begin, end] : ranges) {
    if (begin > covered) return false;
    covered = std::max(covered, end);
  }
  return covered >= offset + length;
}

}  // namespace

Reader::Reader(const asio::any_io_executor& executor, const Clock& clock, IndexClient& index,
               FileTable& files, RecordReader& records)
    : clock_(clock), index_(index), files_(files), records_(records), background_(executor) {}

asio::awaitable<void> Reader::stop() { co_await background_.stop(); }

Task<Buffer> Reader::read(File file, std::shared_ptr<ReadAhead> ahead, std::uint64_t offset,
                          std::size_t length, Deadline deadline) {
  if (offset > kMaxFileBytes) co_return Buffer();
  length = static_cast<std::size_t>(std::min<std::uint64_t>(length, kMaxFileBytes - offset));
  // Taken before the extents: a piece that is committed in between is seen in both, not in neither.
  struct Written {
    std::vector<OverlayPart> parts;
    std::uint64_t end;
  };
  const auto written = file->locked([&] {
    return Written{file->buffer.overlay(offset, length), file->buffer.end()};
  });
  const bool sequential = offset == ahead->expected;
  Buffer bytes;
  if (covers(written.parts, offset, length)) {
    bytes = Buffer(length);
  } else {
    const bool beyond = offset + length > file->attributes.size;
    const bool trusted = clock_.now() - file->confirmed < kTrust;
    if (!trusted || beyond) {
      const auto asked_at = clock_.now();
      // Where something of the range is not known this asks the index, which confirms the attributes by the
      // way.
      auto known = co_await extents(file, offset, offset + length, deadline);
      if (!known) co_return std::move(known.error());
      if (file->confirmed < asked_at) {
        REELFS_CO_TRY(co_await confirm(file, deadline));
      }
    }
    const auto end = std::max(file->attributes.size, written.end);
    if (offset >= end) co_return Buffer();
    length = static_cast<std::size_t>(std::min<std::uint64_t>(length, end - offset));
    bytes = Buffer(length);
    std::memset(bytes.data(), 0, length);
    const bool whole_records = sequential || length >= kLargeRead;
    REELFS_CO_TRY(co_await read_committed(file, offset, bytes.span(), whole_records, deadline));
  }
  for (const auto& part : written.parts) {
    if (part.offset >= offset + length) continue;
    const auto size = std::min<std::uint64_t>(part.length, offset + length - part.offset);
    std::memcpy(bytes.data() + (part.offset - offset), part.bytes->data() + part.skip, size);
  }
  ahead->in_sequence = sequential ? ahead->in_sequence + 1 : 0;
  ahead->expected = offset + length;
  if (!sequential) ahead->fetched_to = 0;
  if (ahead->in_sequence >= 2) read_ahead(file, ahead, offset + length);
  co_return std::move(bytes);
}

Task<void> Reader::read_committed(File file, std::uint64_t offset, std::span<std::byte> into,
                                  bool whole_records, Deadline deadline) {
  for (int tries = 1;; ++tries) {
    REELFS_CO_TRY(const auto found, co_await extents(file, offset, offset + into.size(), deadline));
    auto result = co_await read_extents(file, found, offset, into, whole_records, deadline);
    if (result || result.error().code() != Errc::not_found || tries == kStaleTries) {
      if (!result && result.error().code() == Errc::not_found) {
        co_return Error(Errc::io,
                        result.error().message());  // not ENOENT: the file is there, its bytes are not
      }
      co_return std::move(result);
    }
    // Moved, or overwritten elsewhere, and its segment freed: the extents are out of date.
    file->extents.clear();
    std::memset(into.data(), 0, into.size());
  }
}

Task<void> Reader::read_extents(File file, const std::vector<Extent>& extents, std::uint64_t offset,
                                std::span<std::byte> into, bool whole_records, Deadline deadline) {
  const auto end = offset + into.size();
  struct Part {
    Extent extent;
    std::shared_ptr<RecordRead> read;
  };
  std::vector<Part> parts;
  for (const auto& extent : extents) {
    const auto wanted = cut(extent, offset, end);
    parts.push_back({wanted, records_.start(file->inode, whole_records ? extent : wanted)});
  }
  for (const auto& part : parts) {
    const auto at = static_cast<std::size_t>(part.extent.file_offset - offset);
    const auto place = into.subspan(at, part.extent.length);
    const auto waited = co_await records_.wait(part.read, deadline);
    if (!waited && waited.error().code() == Errc::corrupt) {
      REELFS_CO_TRY(co_await read_by_chunks(file, part.extent, place, deadline));
      continue;
    }
    if (!waited) co_return waited.error();
    REELFS_CO_TRY(RecordReader::copy(*part.read, part.extent.payload_offset, place));
  }
  co_return ok();
}

// Where no copy has all of what was asked for at once: one copy may have what the other has not, and what is
// damaged in all of them costs no more than itself.
Task<void> Reader::read_by_chunks(File file, Extent part, std::span<std::byte> into, Deadline deadline) {
  const auto end = part.file_offset + part.length;
  for (auto at = part.file_offset; at < end;) {
    const auto in_chunk = (part.payload_offset + (at - part.file_offset)) % wire::kChunkBytes;
    const auto chunk_end = std::min<std::uint64_t>(end, at + wire::kChunkBytes - in_chunk);
    const auto piece = cut(part, at, chunk_end);
    const auto read = records_.start(file->inode, piece);
    REELFS_CO_TRY(co_await records_.wait(read, deadline));
    REELFS_CO_TRY(
        RecordReader::copy(*read, piece.payload_offset, into.subspan(at - part.file_offset, piece.length)));
    at = chunk_end;
  }
  co_return ok();
}

// The extents that overlap [begin, end), whole.
Task<std::vector<Extent>> Reader::extents(File file, std::uint64_t begin, std::uint64_t end,
                                          Deadline deadline) {
  std::vector<Extent> found;
  while (begin < end) {
    const auto unknown = file->extents.first_unknown(begin, end);
    const auto known_end = unknown.value_or(end);
    for (const auto& extent : file->extents.extents(begin, known_end)) {
      if (found.empty() || found.back().file_offset < extent.file_offset) found.push_back(extent);
    }
    begin = known_end;
    if (unknown) {
      REELFS_CO_TRY(co_await fetch_extents(file, begin, end, deadline));
    }
  }
  co_return std::move(found);
}

Task<void> Reader::fetch_extents(File file, std::uint64_t begin, std::uint64_t end, Deadline deadline) {
  while (true) {
    wire::GetExtentsRequest request;
    request.set_inode(file->inode.value);
    request.set_offset(begin);
    request.set_length(std::max(end - begin, kExtentsRange));
    request.set_limit(kExtentsLimit);
    const auto asked_end = begin + request.length();
    REELFS_CO_TRY(const auto reply, co_await index_.call<wire::GetExtentsReply>(
                                        wire::Method::get_extents, std::move(request), deadline));
    const auto attributes = from_wire(reply.attributes());
    files_.note(attributes);
    for (const auto& location : reply.locations()) records_.learn(location);
    std::vector<Extent> extents;
    extents.reserve(static_cast<std::size_t>(reply.extents_size()));
    for (const auto& message : reply.extents()) {
      const auto extent = from_wire(message);
      if (extent.length == 0 || extent.length > UINT32_MAX ||
          (!extents.empty() && extent.file_offset < extents.back().end())) {
        co_return Error(Errc::protocol, "the index answered extents that contradict each other");
      }
      extents.push_back(extent);
    }
    if (reply.more() && (extents.empty() || extents.back().end() <= begin)) {
      co_return Error(Errc::protocol, "the index answered no extents and says there are more");
    }
    // Overtaken by a commit of ours: ask again, or what was just written would be missing.
    if (attributes.version < file->extents.version()) continue;
    file->extents.insert(begin, reply.more() ? extents.back().end() : asked_end, extents);
    co_return ok();
  }
}

Task<void> Reader::confirm(File file, Deadline deadline) {
  wire::GetAttributesRequest request;
  request.set_inode(file->inode.value);
  REELFS_CO_TRY(const auto reply, co_await index_.call<wire::AttributesReply>(wire::Method::get_attributes,
                                                                              std::move(request), deadline));
  files_.note(from_wire(reply.attributes()));
  co_return ok();
}

// ---- ahead

void Reader::read_ahead(const File& file, const std::shared_ptr<ReadAhead>& ahead, std::uint64_t end) {
  const auto window = std::min(kMostAhead, kFirstAhead << std::min(ahead->in_sequence - 2, 4u));
  const auto target = std::min(end + window, file->attributes.size);
  const auto begin = std::max(end, ahead->fetched_to);
  // In steps of half a window, so that not every small read looks for records.
  if (begin >= target || (target - begin < window / 2 && target < file->attributes.size)) return;
  ahead->fetched_to = target;
  background_.spawn(fetch_ahead(file, begin, target));
}

asio::awaitable<void> Reader::fetch_ahead(File file, std::uint64_t begin, std::uint64_t end) {
  const auto found = co_await extents(file, begin, end, Deadline::after(clock_, kAheadPatience));
  if (!found) {
    logger("client.reader")
        .debug("not read ahead inode={} error={}", file->inode.value, found.error().describe());
    co_return;
  }
  for (const auto& extent : found.value()) records_.start(file->inode, extent);
}

// ---- seek

Task<std::uint64_t> Reader::seek(File file, std::uint64_t offset, bool hole, Deadline deadline) {
  REELFS_CO_TRY(co_await confirm(file, deadline));
  const auto size = file->attributes.size;
  if (offset >= size) co_return Error(Errc::not_found, "beyond the end of the file");
  auto at = offset / kSeekBlock * kSeekBlock;
  while (at < size) {
    // Up to where the index has answered: a hole may be of any size, and one answer covers all of it.
    const auto known_end = file->extents.first_unknown(at, size).value_or(size);
    if (known_end < std::min(at + kSeekBlock, size)) {
      REELFS_CO_TRY(co_await fetch_extents(file, known_end, size, deadline));
      continue;
    }
    const auto next = file->extents.next(at, known_end);
    if (hole && (!next || next->file_offset >= at + kSeekBlock)) co_return std::max(at, offset);
    if (!hole && next) co_return std::max(offset, next->file_offset / kSeekBlock * kSeekBlock);
    at = next ? (next->end() + kSeekBlock - 1) / kSeekBlock * kSeekBlock : known_end;
  }
  if (hole) co_return size;
  co_return Error(Errc::not_found, "no data up to the end of the file");
}

}  // namespace reelfs::client
