#include "client/write_back.h"

#include <algorithm>
#include <map>
#include <utility>

#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>

#include "client/index_client.h"
#include "client/wire_attributes.h"
#include "client/writer.h"
#include "common/async/timeout.h"
#include "common/base/assert.h"
#include "common/observe/log.h"
#include "common/wire/common.pb.h"
#include "common/wire/index.pb.h"

namespace reelfs::client {
namespace {

// Keep a request well below wire::kMaxMessageBytes: an extent takes up to 40 bytes.
constexpr std::size_t kMaxExtentsPerFile = 4096;
constexpr std::size_t kMaxExtentsPerCommit = 32 * 1024;

spdlog::logger& log() { return logger("client.write_back"); }

// True where the index does not know the segment a piece was placed in, or knows it as shorter: it was given
// up and freed before the commit came. The bytes are still here.
bool is_lost_place(Errc code) { return code == Errc::stale_generation || code == Errc::invalid; }

}  // namespace

template <class F>
auto WriteBack::change(FileState& file, F&& body) {
  const std::lock_guard lock(file.mutex);
  struct Account {
    std::atomic<std::uint64_t>& total;
    const WriteBuffer& buffer;
    std::size_t before;
    ~Account() { total += buffer.held_bytes() - before; }  // unsigned arithmetic also subtracts
  };
  const Account account{held_bytes_, file.buffer, file.buffer.held_bytes()};
  return std::forward<F>(body)(file.buffer);
}

WriteBack::WriteBack(asio::io_context& context, const Clock& clock, IndexClient& index, Writer& writer,
                     FileTable& files, WriteBackOptions options)
    : context_(context),
      clock_(clock),
      index_(index),
      writer_(writer),
      files_(files),
      options_(options),
      background_(context.get_executor()) {}

WriteBack::~WriteBack() = default;

void WriteBack::start() {
  background_.spawn(watch_dirty());
  background_.spawn(run_batches());
}

// ---- collecting

Result<bool> WriteBack::try_write(const File& file, std::uint64_t offset, std::span<const std::byte> bytes) {
  if (stopped_) return Error(Errc::cancelled, "the filesystem is being unmounted");
  if (bytes.size() > kMaxFileBytes || offset > kMaxFileBytes - bytes.size()) return Error(Errc::file_too_big);
  if (bytes.empty()) return true;
  const auto held = held_bytes_.load();
  if (held > 0 && held + bytes.size() > options_.max_dirty_bytes) return false;
  const auto mtime_ns = clock_.wall().time_since_epoch().count();
  const auto now = clock_.now();
  const bool tell = change(*file, [&](WriteBuffer& buffer) {
    const bool was_empty = buffer.empty();
    const auto begun = buffer.write(offset, bytes, now, mtime_ns);
    if (file->arrivals) file->arrivals->wrote(now, begun);
    return (was_empty || buffer.has_ready()) && !std::exchange(file->posted, true);
  });
  if (tell) {
    asio::post(context_, [weak = weak_from_this(), file] {
      const auto self = weak.lock();
      if (self && !self->stopped_) self->touched(file);
    });
  }
  return true;
}

Task<void> WriteBack::wait_for_room(std::size_t bytes, Deadline deadline) {
  while (held_bytes_ > 0 && held_bytes_ + bytes > options_.max_dirty_bytes) {
    relieve();
    REELFS_CO_TRY(co_await room_.wait(clock_, deadline));
  }
  co_return ok();
}

void WriteBack::touched(const File& file) {
  dirty_.insert(file);
  became_dirty_.set();
  send_ready(file);
  if (held_bytes_ > options_.max_dirty_bytes / 2) relieve();
}

// ---- storing

void WriteBack::send_ready(const File& file) {
  auto ready = change(*file, [&](WriteBuffer& buffer) {
    file->posted = false;
    return buffer.take_ready();
  });
  for (auto& piece : ready) background_.spawn(store(file, std::move(piece)));
}

void WriteBack::seal_and_send(const File& file) {
  change(*file, [](WriteBuffer& buffer) { buffer.seal(); });
  send_ready(file);
}

asio::awaitable<void> WriteBack::store(File file, WriteBuffer::Ready ready) {
  Piece number = ready.number;
  client::Piece piece;
  piece.inode = file->inode;
  piece.file_offset = ready.offset;
  piece.sequence = number;
  piece.bytes = std::move(ready.bytes);
  const auto result = co_await writer_.append(file->attributes.channel, std::move(piece));
  const auto placed_bytes = change(*file, [&](WriteBuffer& buffer) {
    if (result) {
      buffer.placed(number, result.value().segment, result.value().record_offset);
    } else {
      const auto begun = buffer.failed(number);
      if (file->arrivals) file->arrivals->settled({&begun, 1}, Fate::lost);
    }
    return buffer.placed_bytes();
  });
  if (result) {
    file->failing = false;
    file->unsynced[result.value().segment] = ++placements_;
    dirty_.insert(file);
    if (placed_bytes >= options_.commit_placed_bytes && !file->committing) join(file, false);
  } else {
    // A full cluster refuses hundreds of pieces at once.
    log().log(std::exchange(file->failing, true) ? spdlog::level::debug : spdlog::level::err,
              "written bytes could not be stored inode={} offset={} error={}", file->inode.value,
              ready.offset, result.error().describe());
    file->fail(result.error());
    room_.notify_all();
  }
  file->changed.notify_all();
}

// Old bytes are sent and committed also when nobody asks.
asio::awaitable<void> WriteBack::watch_dirty() {
  while (true) {
    while (dirty_.empty()) {
      const bool woken = co_await became_dirty_.wait();
      if (!woken) co_return;
      last_sync_ = clock_.now();
    }
    co_await sleep_for(options_.tick);
    const auto now = clock_.now();
    const std::vector<File> files(dirty_.begin(), dirty_.end());
    for (const auto& file : files) look_after(file, now);
    if (!syncing_old_ && now - last_sync_ >= options_.sync_after) background_.spawn(sync_old(files));
  }
}

asio::awaitable<void> WriteBack::sync_old(std::vector<File> files) {
  last_sync_ = clock_.now();
  syncing_old_ = true;
  const auto synced = co_await sync_segments(std::move(files));
  syncing_old_ = false;
  if (!synced)
    log().warn("written bytes could not be brought to stable storage error={}", synced.error().describe());
}

void WriteBack::look_after(const File& file, TimePoint now) {
  struct Seen {
    bool empty;
    bool old_enough;
  };
  const auto seen = change(*file, [&](WriteBuffer& buffer) {
    buffer.seal(now - options_.collect_for);
    const auto oldest = buffer.oldest_write();
    const bool old = oldest && (now - *oldest >= options_.commit_after ||
                                buffer.placed_bytes() >= options_.commit_placed_bytes);
    return Seen{buffer.empty(), old && buffer.committable(1).through != 0};
  });
  if (seen.empty) {
    if (file->unsynced.empty()) dirty_.erase(file);
    if (clean_callback_) clean_callback_(file);
    return;
  }
  send_ready(file);
  if (seen.old_enough && !file->committing && file->barriers == 0) join(file, false);
}

// Memory is short: everything goes out now.
void WriteBack::relieve() {
  for (const auto& file : dirty_) {
    seal_and_send(file);
    const bool placed = file->locked([&] { return file->buffer.committable(1).through != 0; });
    if (placed && !file->committing && file->barriers == 0) join(file, false);
  }
}

// ---- waiting

Task<void> WriteBack::settle(File file, Piece through, Deadline deadline) {
  while (!file->locked([&] { return file->buffer.settled_through(through); })) {
    REELFS_CO_TRY(co_await file->changed.wait(clock_, deadline));
  }
  co_return ok();
}

Task<void> WriteBack::commit(File file, Piece through, bool sync, Deadline deadline) {
  bool synced = !sync;
  while (true) {
    const bool committed = file->locked([&] { return file->buffer.committed_through(through); });
    const bool settled = file->locked([&] { return file->buffer.settled_through(through); });
    if (committed && synced) co_return ok();
    if (!committed && (file->barriers > 0 || !settled)) {
      REELFS_CO_TRY(co_await file->changed.wait(clock_, deadline));
      continue;
    }
    const auto batch = join(file, sync);
    while (!batch->ended) {
      REELFS_CO_TRY(co_await batch->end.wait(clock_, deadline));
    }
    const bool gone = file->locked([&] { return file->buffer.committed_through(through); });
    if (!batch->result && (sync || !gone)) co_return batch->result.error();
    synced = !sync || (batch->sync && gone);
  }
}

Task<void> WriteBack::flush(File file, Deadline deadline) {
  seal_and_send(file);
  const auto through = file->locked([&] { return file->buffer.newest(); });
  REELFS_CO_TRY(co_await settle(file, through, deadline));
  co_return co_await commit(file, through, false, deadline);
}

Task<void> WriteBack::fsync(File file, Deadline deadline) {
  seal_and_send(file);
  const auto through = file->locked([&] { return file->buffer.newest(); });
  while (true) {
    const auto stored_anew = file->stored_anew;
    REELFS_CO_TRY(co_await settle(file, through, deadline));
    std::vector<File> files(1, file);
    REELFS_CO_TRY(co_await sync_segments(std::move(files)));
    REELFS_CO_TRY(co_await commit(file, through, true, deadline));
    // Else it was committed to other segments than those that were synced.
    if (stored_anew == file->stored_anew) co_return ok();
  }
}

void WriteBack::share_unsynced(const FileState& source, const File& target) {
  if (source.unsynced.empty() || source.inode == target->inode) return;
  for (const auto& [segment, placement] : source.unsynced) target->unsynced[segment] = ++placements_;
  dirty_.insert(target);
  became_dirty_.set();
}

Task<void> WriteBack::sync_segments(std::vector<File> files) {
  std::set<SegmentId> segments;
  for (const auto& file : files) {
    for (const auto& [segment, placement] : file->unsynced) segments.insert(segment);
  }
  if (segments.empty()) co_return ok();
  const auto placed_before = placements_;
  std::vector<SegmentId> list(segments.begin(), segments.end());
  auto synced = co_await writer_.sync(std::move(list));
  // Where it may still succeed later the segments stay on the list. A device that failed stays failed: it is
  // told once, as fsync(2) does.
  if (!synced && (is_retryable(synced.error().code()) || synced.error().code() == Errc::cancelled)) {
    co_return std::move(synced);
  }
  for (const auto& file : files) {
    const auto erased =
        std::erase_if(file->unsynced, [&](const auto& each) { return each.second <= placed_before; });
    if (!synced && erased > 0) file->fail(synced.error());
  }
  co_return std::move(synced);
}

// Stores all that the files hold now. @return up to where, for commit_all
Task<std::vector<WriteBack::Upto>> WriteBack::settle_all(Deadline deadline) {
  std::vector<Upto> all;
  for (const auto& file : files_.all()) {
    seal_and_send(file);
    all.push_back({file, file->locked([&] { return file->buffer.newest(); })});
  }
  for (const auto& [file, piece] : all) {
    REELFS_CO_TRY(co_await settle(file, piece, deadline));
  }
  co_return std::move(all);
}

Task<void> WriteBack::commit_all(std::vector<Upto> all, Deadline deadline) {
  // All join one batch before the first is waited for.
  for (const auto& one : all) {
    const auto& file = one.file;
    const bool committed = file->locked([&] { return file->buffer.committed_through(one.piece); });
    if (!committed) join(file, false);
  }
  for (const auto& [file, piece] : all) {
    REELFS_CO_TRY(co_await commit(file, piece, false, deadline));
  }
  co_return ok();
}

Task<void> WriteBack::sync_all(Deadline deadline) {
  REELFS_CO_TRY(auto all, co_await settle_all(deadline));
  std::vector<File> files;
  for (const auto& [file, piece] : all) files.push_back(file);
  REELFS_CO_TRY(co_await sync_segments(files));
  REELFS_CO_TRY(co_await commit_all(std::move(all), deadline));
  // Once more for what had to be stored in another segment before it could be committed.
  REELFS_CO_TRY(co_await sync_segments(std::move(files)));
  co_return co_await sync_journal(deadline);
}

Task<void> WriteBack::sync_journal(Deadline deadline) {
  const auto batch = join(nullptr, true);
  while (!batch->ended) {
    REELFS_CO_TRY(co_await batch->end.wait(clock_, deadline));
  }
  co_return batch->result;
}

Task<void> WriteBack::wait_for_commit(File file, Deadline deadline) {
  while (file->committing) {
    REELFS_CO_TRY(co_await file->changed.wait(clock_, deadline));
  }
  co_return ok();
}

WriteBack::Barrier::Barrier(WriteBack& owner, File file) : owner_(owner), file_(std::move(file)) {
  ++file_->barriers;
}

WriteBack::Barrier::~Barrier() {
  --file_->barriers;
  file_->changed.notify_all();
  owner_.files_.forget_unused(file_);
}

// ---- committing

std::shared_ptr<WriteBack::Batch> WriteBack::join(const File& file, bool sync) {
  if (!next_batch_) next_batch_ = std::make_shared<Batch>();
  if (file) next_batch_->files.insert(file);
  next_batch_->sync |= sync;
  batch_waits_.set();
  return next_batch_;
}

asio::awaitable<void> WriteBack::run_batches() {
  while (true) {
    while (!next_batch_) {
      const bool woken = co_await batch_waits_.wait();
      if (!woken) co_return;
    }
    const auto batch = std::exchange(next_batch_, nullptr);
    // Also where stop() cancels it halfway.
    struct End {
      Batch& batch;
      explicit End(Batch& b) : batch(b) {}
      ~End() {
        batch.ended = true;
        batch.end.notify_all();
      }
    };
    const End end(*batch);
    batch->result = Error(Errc::cancelled, "stopping");
    co_await run(*batch);
  }
}

// Leaves the outcome in batch.result.
asio::awaitable<void> WriteBack::run(Batch& batch) {
  std::vector<Committing> files;
  std::size_t extents = 0;
  for (const auto& file : batch.files) {
    if (file->barriers > 0 || extents >= kMaxExtentsPerCommit) continue;
    auto pieces = file->locked([&] { return file->buffer.committable(kMaxExtentsPerFile); });
    if (pieces.through == 0) continue;
    extents += pieces.extents.size();
    file->committing = true;
    files.push_back({file, std::move(pieces), std::nullopt});
  }
  if (!files.empty()) {
    batch.result = co_await send(files, batch.sync);
    if (batch.result || is_retryable(batch.result.error().code()) || files.size() == 1) {
      finish(files, batch.result);
      // One file's refusal is that file's alone; it has been told.
      if (batch.result || is_retryable(batch.result.error().code())) co_return;
    } else {
      // Find out which file the index refuses.
      for (auto& each : files) {
        std::vector<Committing> one;
        one.push_back(std::move(each));
        const auto result = co_await send(one, false);
        finish(one, result);
      }
    }
  }
  batch.result = ok();
  if (batch.sync) {
    auto synced = co_await index_.call<wire::Empty>(wire::Method::sync, wire::SyncRequest());
    if (!synced) batch.result = std::move(synced.error());
  }
}

// Up to where no piece of any file is left when these are committed.
WriteBack::Piece WriteBack::settled_with(const std::vector<Committing>& files) const {
  // First this: whoever gets a number does so with its file locked, and has the piece there when that is
  // unlocked.
  auto settled = files_.newest_piece();
  std::map<const FileState*, Piece> through;
  for (const auto& each : files) through[each.file.get()] = each.pieces.through;
  for (const auto& file : files_.all()) {
    const auto found = through.find(file.get());
    const auto from = found == through.end() ? 0 : found->second;
    const auto left = file->locked([&] { return file->buffer.first_after(from); });
    if (left != 0) settled = std::min(settled, left - 1);
  }
  return settled;
}

// Commits the pieces and takes in the resulting attributes.
Task<void> WriteBack::send(std::vector<Committing>& files, bool sync) {
  wire::CommitRequest request;
  request.set_sync(sync);
  request.set_per_file(true);
  request.set_settled(settled_with(files));
  for (auto& [file, pieces, refused] : files) {
    refused.reset();
    auto& message = *request.add_files();
    message.set_inode(file->inode.value);
    message.set_size(pieces.end);
    message.set_mtime_ns(pieces.mtime_ns);
    message.set_sequence(pieces.through);
    auto& state = *file;
    message.set_more(
        state.locked([&state, through = pieces.through] { return state.buffer.first_after(through) != 0; }));
    for (const auto& piece : pieces.extents) {
      auto& extent = *message.add_extents();
      extent.set_file_offset(piece.offset);
      extent.set_length(piece.length);
      extent.set_segment(piece.segment.value);
      extent.set_record_offset(piece.record_offset);
    }
  }
  REELFS_CO_TRY(const auto reply,
                co_await index_.call<wire::CommitReply>(wire::Method::commit, std::move(request)));
  if (static_cast<std::size_t>(reply.attributes_size()) != files.size()) {
    co_return Error(Errc::protocol, "the index answered for another number of files");
  }
  for (std::size_t i = 0; i < files.size(); ++i) {
    const auto& attributes = reply.attributes(static_cast<int>(i));
    if (attributes.inode() != 0) {
      files_.note(from_wire(attributes));
    } else if (files[i].file->attributes.nlink > 0) {
      // Nobody removed it that we know of: the index's machine lost power before its creation was on stable
      // storage, or our session ended, and another mount removed it.
      files[i].refused = Error(Errc::stale_handle, "the file is gone");
    }
  }
  for (const auto& refused : reply.refused()) {
    if (refused.file() >= files.size())
      co_return Error(Errc::protocol, "the index refuses a file it was not asked for");
    files[refused.file()].refused = from_wire(refused.error());
  }
  co_return ok();
}

void WriteBack::finish(const std::vector<Committing>& files, const Result<void>& outcome) {
  for (const auto& one : files) {
    const auto& file = one.file;
    const auto through = one.pieces.through;
    const auto result = outcome && one.refused ? Result<void>(*one.refused) : outcome;
    file->committing = false;
    if (!result && is_lost_place(result.error().code()) &&
        change(*file, [&](WriteBuffer& buffer) { return buffer.store_anew(through); })) {
      log().warn("written bytes are stored anew inode={} error={}", file->inode.value,
                 result.error().describe());
      ++file->stored_anew;
      send_ready(file);
      file->changed.notify_all();
      continue;
    }
    if (!result) {
      log().error("written bytes could not be committed inode={} error={}", file->inode.value,
                  result.error().describe());
      file->fail(result.error());
      file->extents.clear();  // it may have happened all the same
    }
    const bool is_held = result ? file->locked([&] { return file->held_below.has_value(); })
                                : result.error().code() == Errc::not_permitted;
    if (is_held) file->note_hold(true, file->attributes.size);
    change(*file, [&](WriteBuffer& buffer) {
      const auto begun = buffer.committed(through);
      if (file->arrivals) file->arrivals->settled(begun, result ? Fate::stored : Fate::lost);
    });
    file->changed.notify_all();
  }
  room_.notify_all();
}

// ---- ending

Task<void> WriteBack::drain(Deadline deadline) {
  REELFS_CO_TRY(auto all, co_await settle_all(deadline));
  co_return co_await commit_all(std::move(all), deadline);
}

asio::awaitable<void> WriteBack::stop() {
  stopped_ = true;
  co_await background_.stop();
  // Nobody ends these batches any more.
  if (next_batch_ && !next_batch_->ended) {
    next_batch_->result = Error(Errc::cancelled, "stopping");
    next_batch_->ended = true;
    next_batch_->end.notify_all();
  }
  room_.notify_all();
}

}  // namespace reelfs::client
