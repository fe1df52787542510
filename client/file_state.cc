#include "client/file_state.h"

#include <algorithm>

namespace reelfs::client {

namespace {

Error as_writers_know_it(const Error& error) {
  switch (error.code()) {
    case Errc::no_space:
    case Errc::quota_exceeded:
    case Errc::file_too_big:
    case Errc::not_permitted:
    case Errc::read_only:
    case Errc::stale_handle:
    case Errc::timed_out:
    case Errc::unavailable:
    case Errc::io:
      return error;
    default:
      return Error(Errc::io, error.describe());
  }
}

}  // namespace

void FileState::fail(const Error& error) {
  const std::lock_guard lock(mutex);
  ++errors;
  last_error = as_writers_know_it(error);
}

void FileState::note_hold(bool held, std::uint64_t size) {
  const std::lock_guard lock(mutex);
  held_below = held ? std::optional(size) : std::nullopt;
}

FileTable::FileTable(const Clock& clock)
    : clock_(clock),
      // Numbers go on where an earlier process of this recorder stopped, so that of two records the later one
      // has the greater.
      numbers_(std::make_shared<WriteBuffer::Numbers>(
          static_cast<std::uint64_t>(clock.wall().time_since_epoch().count()))) {}

std::shared_ptr<FileState> FileTable::find(InodeId inode) const {
  const auto found = files_.find(inode);
  return found == files_.end() ? nullptr : found->second;
}

std::shared_ptr<FileState> FileTable::obtain(InodeId inode) {
  auto& file = files_[inode];
  if (!file) file = std::make_shared<FileState>(inode, numbers_);
  return file;
}

void FileTable::forget_unused(const std::shared_ptr<FileState>& file) {
  if (file->uses > 0 || file->open_in_index || file->releasing || file->barriers > 0) return;
  if (!file->unsynced.empty() || !file->clean()) return;
  const auto found = files_.find(file->inode);
  if (found != files_.end() && found->second == file) files_.erase(found);
}

std::vector<std::shared_ptr<FileState>> FileTable::all() const {
  std::vector<std::shared_ptr<FileState>> files;
  files.reserve(files_.size());
  for (const auto& [inode, file] : files_) files.push_back(file);
  return files;
}

std::vector<InodeId> FileTable::open_inodes() const {
  std::vector<InodeId> inodes;
  for (const auto& [inode, file] : files_) {
    if (file->open_in_index) inodes.push_back(inode);
  }
  return inodes;
}

Attributes FileTable::note(const Attributes& told) {
  auto attributes = told;
  if (const auto file = find(told.inode)) {
    if (told.version >= file->attributes.version) {
      file->attributes = told;
      file->confirmed = clock_.now();
      file->leased_until = std::max(file->leased_until, file->confirmed + told.lease);
      file->extents.note_version(told.version);
    }
    attributes = current(*file);
    // What is written here changes without the index.
    if (file->clean() && told.version == attributes.version) attributes.lease = told.lease;
  }
  attributes.atime_ns = read_time(attributes);
  return attributes;
}

// As the index will see it (tree::note_reads): a change that came after a read makes the read old news.
std::int64_t FileTable::read_time(const Attributes& known) const {
  const auto read = reads_.find(known.inode);
  if (read == reads_.end() || read->second < known.ctime_ns) return known.atime_ns;
  return std::max(read->second, known.atime_ns);
}

bool FileTable::note_read(const Attributes& known, std::int64_t now_ns) {
  constexpr std::int64_t kDayNs = 24 * std::int64_t{3600} * 1'000'000'000;
  const auto atime_ns = read_time(known);
  const bool is_recent = now_ns - kDayNs < atime_ns;
  if (atime_ns > known.mtime_ns && atime_ns > known.ctime_ns && is_recent) return false;
  reads_[known.inode] = now_ns;
  return true;
}

FileTable::Reads FileTable::reads(std::size_t limit) const {
  Reads some;
  for (auto each = reads_.begin(); each != reads_.end() && some.size() < limit; ++each) some.push_back(*each);
  return some;
}

void FileTable::reads_told(const Reads& reads) {
  for (const auto& [inode, read_ns] : reads) {
    const auto read = reads_.find(inode);
    if (read == reads_.end() || read->second != read_ns) continue;
    if (const auto file = find(inode)) file->attributes.atime_ns = read_time(file->attributes);
    reads_.erase(read);
  }
}

void FileTable::distrust(InodeId inode) {
  if (const auto file = find(inode)) file->confirmed = file->leased_until = {};
}

Attributes FileTable::current(FileState& file) {
  auto attributes = file.attributes;
  attributes.lease = {};
  const std::lock_guard lock(file.mutex);
  if (file.buffer.empty()) return attributes;
  attributes.size = std::max(attributes.size, file.buffer.end());
  attributes.mtime_ns = file.buffer.mtime_ns();
  attributes.ctime_ns = std::max(attributes.ctime_ns, file.buffer.mtime_ns());
  return attributes;
}

}  // namespace reelfs::client
