#include "client/open_file.h"

#include <algorithm>
#include <utility>

#include "client/index_client.h"
#include "client/wire_attributes.h"
#include "common/wire/common.pb.h"
#include "common/wire/index.pb.h"

namespace reelfs::client {
OpenFile::OpenFile(Parts parts, std::shared_ptr<FileState> file)
    : parts_(std::move(parts)), file_(std::move(file)), ahead_(std::make_shared<ReadAhead>()) {
  const auto arrivals = parts_.arrivals.of(file_->attributes.channel);
  const std::lock_guard lock(file_->mutex);
  told_by_write_ = told_by_fsync_ = file_->errors;
  if (!file_->arrivals) file_->arrivals = arrivals;
}

void OpenFile::will_write() {
  if (given_back_ || std::exchange(will_write_, true)) return;
  parts_.arrivals.writer_opened(file_->attributes.channel);
}

bool OpenFile::give_back() {
  if (std::exchange(given_back_, true)) return false;
  if (will_write_) parts_.arrivals.writer_closed(file_->attributes.channel);
  return true;
}

Result<void> OpenFile::failed_before_write() {
  const std::lock_guard lock(file_->mutex);
  if (file_->errors == told_by_write_) return ok();
  told_by_write_ = file_->errors;
  return file_->last_error;
}

bool OpenFile::would_overwrite_held(std::uint64_t offset) {
  return file_->locked([&] { return file_->held_below && offset < *file_->held_below; });
}

// Where there is nothing, holes included, a held file may be written.
Task<void> OpenFile::check_hold(std::uint64_t offset, std::uint64_t length, Deadline until) {
  wire::GetExtentsRequest request;
  request.set_inode(file_->inode.value);
  request.set_offset(offset);
  request.set_length(length);
  request.set_limit(1);
  REELFS_CO_TRY(const auto reply, co_await parts_.index.call<wire::GetExtentsReply>(
                                      wire::Method::get_extents, std::move(request), until));
  file_->note_hold(reply.held(), reply.attributes().size());
  if (reply.held() && reply.extents_size() > 0) co_return Error(Errc::not_permitted, "the file is held");
  co_return ok();
}

Result<bool> OpenFile::try_write(std::uint64_t offset, std::span<const std::byte> bytes) {
  REELFS_TRY(failed_before_write());
  if (would_overwrite_held(offset)) return false;
  return parts_.write_back->try_write(file_, offset, bytes);
}

Task<std::size_t> OpenFile::write(std::uint64_t offset, Buffer bytes) {
  const auto until = deadline();
  const Arrivals::Waiting waiting(parts_.arrivals, file_->attributes.channel);
  if (would_overwrite_held(offset)) {
    REELFS_CO_TRY(co_await check_hold(offset, bytes.size(), until));
  }
  while (true) {
    REELFS_CO_TRY(failed_before_write());
    REELFS_CO_TRY(const bool taken, parts_.write_back->try_write(file_, offset, bytes.span()));
    if (taken) co_return bytes.size();
    REELFS_CO_TRY(co_await parts_.write_back->wait_for_room(bytes.size(), until));
  }
}

Task<Buffer> OpenFile::read(std::uint64_t offset, std::size_t length) {
  if (length == 0) co_return Buffer();
  co_return co_await parts_.reader.read(file_, ahead_, offset, length, deadline());
}

// The failures that no fsync of this handle has told yet.
Result<void> OpenFile::unreported() {
  const std::lock_guard lock(file_->mutex);
  if (file_->errors == told_by_fsync_) return ok();
  return file_->last_error;
}

Result<void> OpenFile::tell_unreported() {
  const std::lock_guard lock(file_->mutex);
  if (file_->errors == told_by_fsync_) return ok();
  told_by_fsync_ = told_by_write_ = file_->errors;
  return file_->last_error;
}

Task<void> OpenFile::flush() {
  const Arrivals::Waiting waiting(parts_.arrivals, file_->attributes.channel);
  auto flushed = co_await parts_.write_back->flush(file_, deadline());
  REELFS_CO_TRY(unreported());
  co_return std::move(flushed);
}

Task<void> OpenFile::fsync() {
  const Arrivals::Waiting waiting(parts_.arrivals, file_->attributes.channel);
  auto synced = co_await parts_.write_back->fsync(file_, deadline());
  REELFS_CO_TRY(tell_unreported());
  co_return std::move(synced);
}

FileHandle::Carried OpenFile::carry() {
  Carried carried;
  carried.attributes = FileTable::current(*file_);
  if (auto failed = unreported(); !failed) carried.untold = std::move(failed.error());
  return carried;
}

void OpenFile::owe_failures() {
  const std::lock_guard lock(file_->mutex);
  told_by_write_ = told_by_fsync_ = 0;
}

Task<std::uint64_t> OpenFile::seek(std::uint64_t offset, bool hole) {
  const auto until = deadline();
  REELFS_CO_TRY(co_await parts_.write_back->flush(file_, until));
  co_return co_await parts_.reader.seek(file_, offset, hole, until);
}

Task<std::uint64_t> OpenFile::clone_from(FileHandle& source, std::uint64_t source_offset,
                                         std::uint64_t offset, std::uint64_t length) {
  const auto until = deadline();
  const auto source_inode = source.inode();
  REELFS_CO_TRY(co_await source.flush());
  REELFS_CO_TRY(co_await parts_.write_back->flush(file_, until));
  const WriteBack::Barrier barrier(*parts_.write_back, file_);
  REELFS_CO_TRY(co_await parts_.write_back->wait_for_commit(file_, until));
  if (const auto source_file = parts_.files.find(source_inode))
    parts_.write_back->share_unsynced(*source_file, file_);
  std::uint64_t done = 0;
  while (done < length) {
    wire::CloneRangeRequest request;
    request.set_source(source_inode.value);
    request.set_source_offset(source_offset + done);
    request.set_target(file_->inode.value);
    request.set_target_offset(offset + done);
    request.set_length(length - done);
    const auto reply = co_await parts_.index.call<wire::CloneRangeReply>(wire::Method::clone_range,
                                                                         std::move(request), until);
    if (!reply && done > 0) break;  // the caller asks for the rest, and is told then
    if (!reply) co_return reply.error();
    parts_.files.note(from_wire(reply.value().attributes()));
    if (reply.value().length() == 0) break;
    done += std::min(reply.value().length(), length - done);
  }
  co_return done;
}

Task<void> OpenFile::punch_hole(std::uint64_t offset, std::uint64_t length) {
  if (length == 0 || offset > kMaxFileBytes - length) co_return Error(Errc::invalid);
  const auto until = deadline();
  REELFS_CO_TRY(co_await parts_.write_back->flush(file_, until));
  const WriteBack::Barrier barrier(*parts_.write_back, file_);
  REELFS_CO_TRY(co_await parts_.write_back->wait_for_commit(file_, until));
  wire::PunchHoleRequest request;
  request.set_inode(file_->inode.value);
  request.set_offset(offset);
  request.set_length(length);
  REELFS_CO_TRY(const auto reply, co_await parts_.index.call<wire::AttributesReply>(
                                      wire::Method::punch_hole, std::move(request), until));
  parts_.files.note(from_wire(reply.attributes()));
  co_return ok();
}

Task<void> OpenFile::allocate(std::uint64_t offset, std::uint64_t length, bool keep_size) {
  if (length == 0) co_return Error(Errc::invalid);
  if (offset > kMaxFileBytes - length) co_return Error(Errc::file_too_big);
  const auto until = deadline();
  REELFS_CO_TRY(co_await parts_.write_back->flush(file_, until));
  const WriteBack::Barrier barrier(*parts_.write_back, file_);
  REELFS_CO_TRY(co_await parts_.write_back->wait_for_commit(file_, until));
  // A commit grows the file where setting the size might cut what another mount has appended meanwhile. The
  // file counts as modified even where it does not grow.
  wire::CommitRequest request;
  request.set_per_file(true);
  auto& message = *request.add_files();
  message.set_inode(file_->inode.value);
  if (!keep_size) message.set_size(offset + length);
  message.set_mtime_ns(parts_.clock.wall().time_since_epoch().count());
  REELFS_CO_TRY(const auto reply, co_await parts_.index.call<wire::CommitReply>(wire::Method::commit,
                                                                                std::move(request), until));
  for (const auto& attributes : reply.attributes()) {
    if (attributes.inode() != 0) parts_.files.note(from_wire(attributes));
  }
  for (const auto& refused : reply.refused()) co_return from_wire(refused.error());
  co_return ok();
}

}  // namespace reelfs::client
