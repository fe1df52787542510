#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

#include "client/arrivals/channel_arrivals.h"
#include "client/attributes.h"
#include "client/extent_cache.h"
#include "client/write_buffer.h"
#include "common/async/condition.h"
#include "common/base/clock.h"
#include "common/base/error.h"
#include "common/base/ids.h"

namespace reelfs::client {

/// What one FileSystem knows of an inode that is open in it or has bytes to be committed; shared by all its
/// handles.
struct FileState {
  FileState(InodeId id, std::shared_ptr<WriteBuffer::Numbers> numbers)
      : inode(id), buffer(std::move(numbers)) {}
  FileState(const FileState&) = delete;
  FileState& operator=(const FileState&) = delete;

  const InodeId inode;

  // The loop's.
  Attributes attributes;       // the newest the index has told
  TimePoint confirmed;         // when it last told them
  TimePoint leased_until;      // until then others' changes to them are told here
  ExtentCache extents;         // of attributes.version
  std::uint32_t uses = 0;      // handles, and opens under way
  bool open_in_index = false;  // or may be: the answer was not heard
  bool releasing = false;      // the index is being told that uses is 0
  bool committing = false;     // a commit of its pieces is under way
  std::uint32_t barriers = 0;  // attribute changes under way, which commits must not overtake
  /// Segments with pieces that may not be on stable storage, and when (as WriteBack counts) the last was
  /// placed there.
  std::map<SegmentId, std::uint64_t> unsynced;
  bool failing = false;           // pieces fail since one was last placed: the first has been logged
  std::uint64_t stored_anew = 0;  // times that placed pieces had to be
  Condition changed;              // something of the above, or a piece settled or went

  // Any thread's.
  std::mutex mutex;
  WriteBuffer buffer;  // guarded by mutex
  /// Guarded by mutex; of its channel, once a handle was made.
  std::shared_ptr<ChannelArrivals> arrivals;
  bool posted = false;         // guarded by mutex: the loop has been told to look at the buffer
  std::uint64_t errors = 0;    // guarded by mutex: failures so far
  Error last_error{Errc::io};  // guarded by mutex
  /// Guarded by mutex. The file is held, as far as is known here: bytes below this place are asked about
  /// before they are overwritten, so that whoever tries is told at once. A hold put later is met at the
  /// commit.
  std::optional<std::uint64_t> held_below;

  template <class F>
  auto locked(F&& body) {
    const std::lock_guard lock(mutex);
    return std::forward<F>(body)();
  }
  /// Written bytes are lost. Where write(2) and close(2) know no such error, they are told of an I/O error.
  void fail(const Error& error);
  /// The index has told whether the file is held, and up to where it has bytes.
  void note_hold(bool held, std::uint64_t size);
  bool clean() {
    return locked([this] { return buffer.empty(); });
  }
};

/// The file states of one FileSystem, and the attributes that result from them. The loop's.
class FileTable {
 public:
  explicit FileTable(const Clock& clock);

  std::shared_ptr<FileState> find(InodeId inode) const;
  std::shared_ptr<FileState> obtain(InodeId inode);
  /// Forgets the state where nobody needs it any more.
  void forget_unused(const std::shared_ptr<FileState>& file);
  std::vector<std::shared_ptr<FileState>> all() const;
  std::vector<InodeId> open_inodes() const;
  /// The last number that was given to a piece of any file.
  WriteBuffer::PieceNumber newest_piece() const { return *numbers_; }

  /// Takes in what the index has told of an inode, and answers with what is true here: never older than what
  /// was told before, and with what was written here and is not yet committed.
  Attributes note(const Attributes& told);
  /// Another mount has changed it: what is known of it is to be asked for anew.
  void distrust(InodeId inode);
  /// What is known of it is leased: no other mount has changed it since it was told.
  bool is_leased(const FileState& file) const { return clock_.now() < file.leased_until; }
  /// What is known of the file, with what was written here. Without a lease.
  static Attributes current(FileState& file);

  /// Notes that what has these attributes was read, where relatime says so: not since it was changed, or not
  /// for a day. @return true: that is news
  bool note_read(const Attributes& known, std::int64_t now_ns);
  using Reads = std::vector<std::pair<InodeId, std::int64_t>>;
  /// What the index has not been told, at most so many.
  Reads reads(std::size_t limit) const;
  void reads_told(const Reads& reads);
  void drop_reads() { reads_.clear(); }
  /// Its atime is being set.
  void forget_read(InodeId inode) { reads_.erase(inode); }

 private:
  std::int64_t read_time(const Attributes& known) const;

  const Clock& clock_;
  const std::shared_ptr<WriteBuffer::Numbers> numbers_;
  std::map<InodeId, std::shared_ptr<FileState>> files_;
  std::map<InodeId, std::int64_t> reads_;  // when; not known to the index
};

}  // namespace reelfs::client
