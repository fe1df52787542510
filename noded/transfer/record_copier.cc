#include "noded/transfer/record_copier.h"

#include <algorithm>
#include <chrono>
#include <string>
#include <utility>
#include <vector>

#include <boost/asio/io_context.hpp>

#include "common/async/condition.h"
#include "common/observe/log.h"
#include "common/wire/record.h"
#include "common/wire/unit.h"

namespace reelfs::noded {
namespace {

constexpr std::uint64_t kMaxUnitBytes = 4 * kMiB;  // of one order, whoever asks
constexpr int kMaxCopies = 4;
/// Kept of the caller's time for the answer, so that it hears which copy was silent.
constexpr Duration kAnswerMargin = std::chrono::milliseconds(300);

spdlog::logger& log() {
  static auto& instance = logger("noded.transfer");
  return instance;
}

Result<std::uint64_t> unit_bytes(const wire::CopyRecordsRequest& order) {
  std::uint64_t bytes = 0;
  for (const auto& piece : order.pieces()) {
    if (piece.length() == 0 || piece.length() > wire::kMaxRecordPayload ||
        piece.payload_offset() > wire::kMaxRecordPayload - piece.length()) {
      return Error(Errc::invalid, "a piece is a part of one record");
    }
    bytes += wire::record_bytes(piece.length());
    if (bytes > kMaxUnitBytes) return Error(Errc::invalid, "at most 4 MiB are copied at once");
  }
  if (bytes == 0 || order.offset() % kPageBytes != 0 || order.source() == order.target())
    return Error(Errc::invalid, "nothing is copied so");
  if (order.copies_size() == 0 || order.copies_size() > kMaxCopies)
    return Error(Errc::invalid, "a segment has 1 to 4 copies");
  return round_up(bytes, kPageBytes);
}

/// One piece as it was read and verified, and where in the buffer its payload begins.
struct Verified {
  SegmentStore::RecordPiece read;
  wire::RecordHeader header;
  std::size_t at = 0;
};

Result<Verified> verify(SegmentStore::RecordPiece read, const wire::CopyRecordsRequest::Piece& wanted) {
  const auto bytes = std::as_const(*read.bytes).span().subspan(read.begin, read.size);
  REELFS_TRY(const auto record, wire::decode_record_header(bytes));
  const auto& header = record.header;
  if (header.inode != wanted.inode() || header.file_offset != wanted.file_offset() ||
      header.payload_bytes < wanted.payload_offset() + wanted.length()) {
    return Error(Errc::corrupt, "another record stands at " + std::to_string(wanted.record_offset()) +
                                    " than is looked for");
  }
  auto at = std::size_t{header.header_bytes};
  const auto last = (wanted.payload_offset() + wanted.length() - 1) / header.chunk_bytes;
  for (auto chunk = read.first_chunk; chunk <= last; ++chunk) {
    const auto length = record.chunk_length(chunk);
    if (bytes.size() - at < length) return Error(Errc::corrupt, "the record is shorter than it says");
    REELFS_TRY(wire::verify_chunk(record, chunk, bytes.subspan(at, length)));
    at += length;
  }
  Verified verified;
  verified.header = header;
  verified.at = read.begin + header.header_bytes +
                (wanted.payload_offset() - std::size_t{read.first_chunk} * header.chunk_bytes);
  verified.read = std::move(read);
  return verified;
}

}  // namespace

/// Of one unit to all copies of its segment. Shared with the calls, which may outlive who waits.
struct RecordCopier::Appends {
  wire::AppendRequest request;
  SharedBuffer unit;
  std::vector<Result<std::uint64_t>> outcomes;
  std::size_t left = 0;
  Condition ended;
};

RecordCopier::RecordCopier(asio::io_context& context, const Clock& clock, SegmentStore& store,
                           rpc::ClientOptions client_options)
    : clock_(clock),
      store_(store),
      targets_(context, clock, std::move(client_options)),
      group_(context.get_executor()) {}

asio::awaitable<void> RecordCopier::stop() {
  co_await group_.stop();
  co_await targets_.stop();
}

Task<wire::CopyRecordsReply> RecordCopier::copy(wire::CopyRecordsRequest order, Epoch epoch,
                                                Deadline deadline) {
  if (std::exchange(copying_, true)) co_return Error(Errc::busy, "another copy is under way here");
  struct Copying {
    bool& copying;
    ~Copying() { copying = false; }
  };
  const Copying at_the_end{copying_};
  REELFS_CO_TRY(auto unit, co_await form(order));
  co_return co_await append(order, std::move(unit), epoch, deadline);
}

/// Reads the pieces and makes them one append unit.
Task<Buffer> RecordCopier::form(const wire::CopyRecordsRequest& order) {
  REELFS_CO_TRY(const auto bytes, unit_bytes(order));
  std::vector<Verified> pieces;
  pieces.reserve(static_cast<std::size_t>(order.pieces_size()));
  for (const auto& wanted : order.pieces()) {
    SegmentStore::RecordRange range;
    range.segment = SegmentId(order.source());
    range.record_offset = wanted.record_offset();
    range.payload_offset = wanted.payload_offset();
    range.length = wanted.length();
    REELFS_CO_TRY(auto read, co_await store_.read(range));
    auto verified = verify(std::move(read), wanted);
    if (!verified) {
      log().error("copy is bad segment={} record={} why=\"{}\"", order.source(), wanted.record_offset(),
                  verified.error().describe());
      co_return std::move(verified).error();
    }
    pieces.push_back(std::move(verified).value());
  }
  std::vector<wire::UnitRecord> records;
  auto at = order.offset();
  for (int i = 0; i < order.pieces_size(); ++i) {
    const auto& wanted = order.pieces(i);
    const auto& piece = pieces[static_cast<std::size_t>(i)];
    wire::UnitRecord record;
    record.info.segment = SegmentId(order.target());
    record.info.generation = Generation(order.generation());
    record.info.segment_offset = at;
    record.info.channel = InodeId(piece.header.channel);
    record.info.inode = InodeId(piece.header.inode);
    record.info.file_offset = piece.header.file_offset + wanted.payload_offset();
    record.info.sequence = piece.header.sequence;
    record.info.written_at_ns = piece.header.written_at_ns;
    record.payload = std::as_const(*piece.read.bytes).span().subspan(piece.at, wanted.length());
    at += wire::record_bytes(wanted.length());
    records.push_back(record);
  }
  co_return wire::form_unit(static_cast<std::uint32_t>(bytes), order.offset(), records);
}

Task<wire::CopyRecordsReply> RecordCopier::append(const wire::CopyRecordsRequest& order, Buffer unit,
                                                  Epoch epoch, Deadline deadline) {
  const auto appends = std::make_shared<Appends>();
  const auto copies = static_cast<std::size_t>(order.copies_size());
  appends->request.set_segment(order.target());
  appends->request.set_generation(order.generation());
  appends->request.set_offset(order.offset());
  appends->unit = std::make_shared<const Buffer>(std::move(unit));
  appends->left = copies;
  const Deadline limit{deadline.at - kAnswerMargin};
  for (std::size_t copy = 0; copy < copies; ++copy) {
    appends->outcomes.emplace_back(Error(Errc::timed_out, "no answer yet"));
    const auto client = targets_.client_of(order.copies(static_cast<int>(copy)));
    client->set_epoch(epoch);
    group_.spawn(append_to(client, appends, copy, limit));
  }
  while (appends->left > 0) {
    REELFS_CO_TRY(co_await appends->ended.wait(clock_, deadline));
  }
  wire::CopyRecordsReply reply;
  for (std::size_t copy = 0; copy < copies; ++copy) {
    const auto& outcome = appends->outcomes[copy];
    if (outcome) continue;
    auto& failure = *reply.add_failures();
    failure.set_node(order.copies(static_cast<int>(copy)).node());
    failure.set_code(static_cast<std::uint32_t>(outcome.error().code()));
    failure.set_message(outcome.error().describe());
  }
  if (reply.failures().empty()) reply.set_end(order.offset() + appends->unit->size());
  co_return std::move(reply);
}

asio::awaitable<void> RecordCopier::append_to(std::shared_ptr<rpc::Client> target,
                                              std::shared_ptr<Appends> appends, std::size_t copy,
                                              Deadline deadline) {
  const auto reply = co_await target->call(wire::Method::append, appends->request, deadline, appends->unit);
  auto& outcome = appends->outcomes[copy];
  wire::AppendReply message;
  if (!reply) {
    outcome = reply.error();
  } else if (!message.ParseFromString(reply.value().message)) {
    outcome = Error(Errc::protocol, "reply does not parse");
  } else {
    outcome = message.end();
  }
  --appends->left;
  appends->ended.notify_all();
}

}  // namespace reelfs::noded
