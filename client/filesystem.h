#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "client/attributes.h"
#include "client/cluster_config.h"
#include "client/locks/carried.h"
#include "client/node_path.h"
#include "client/recordings.h"
#include "common/async/task.h"
#include "common/base/buffer.h"
#include "common/base/clock.h"
#include "common/base/ids.h"

namespace boost::asio {
class io_context;
}

namespace reelfs::client {

class Locks;

struct CreateOptions {
  InodeId parent;
  std::string name;
  std::uint32_t mode = 0;  // S_IFMT says what: file, directory, symlink, fifo, socket, device
  std::uint32_t uid = 0;
  std::uint32_t gid = 0;
  std::uint64_t rdev = 0;
  std::uint32_t umask = 0;  // does not apply where the parent has a default access control list
  std::string symlink_target;
  bool exclusive = true;  // create_file alone: false opens an existing regular file instead
};

struct DirectoryEntry {
  std::string name;
  std::uint64_t cookie = 0;
  Attributes attributes;
};
struct DirectoryPage {
  std::vector<DirectoryEntry> entries;  // "." and ".." are not among them
  bool end = false;
  std::chrono::milliseconds lease{0};  // on the names
};

/// What a name leads to.
struct Found {
  std::optional<Attributes> attributes;  // none: there is no such name
  std::chrono::milliseconds lease{0};    // on the name, or its absence
};

/// What another mount has changed: it must be asked for anew.
struct Change {
  struct Name {
    InodeId parent;
    std::string name;
  };
  bool everything = false;      // also what is not listed
  std::vector<InodeId> inodes;  // attributes, extended attributes or data
  std::vector<Name> names;
};

struct XattrSetting {
  InodeId inode;
  std::string name;
  std::string value;
  std::uint32_t flags = 0;  // XATTR_CREATE, XATTR_REPLACE
  bool clear_sgid = false;  // an access control list is set by one who is not of the file's group
  std::uint32_t uid = 0;    // whose request it is
};
struct XattrRemoval {
  InodeId inode;
  std::string name;
  std::uint32_t uid = 0;  // whose request it is
};

struct Space {
  std::uint64_t total_bytes = 0;  // net of copies
  std::uint64_t free_bytes = 0;
  std::uint64_t available_bytes = 0;  // free, and what may be overwritten
  std::uint64_t files = 0;
};

/// A time in which a channel that is recorded to was not: docs/design/gaps.md
struct Gap {
  std::int64_t start_ns = 0;
  std::int64_t end_ns = 0;  // 0: it lasts
  std::string_view cause;   // "source_silent", "recorder_gone", "store_stalled"
  std::chrono::milliseconds longest_stall{0};
};

/// Who a client is to the index: what another process needs to go on in its place.
struct Standing {
  SessionId session;  // none: whoever starts with this opens one of its own
  std::uint64_t last_request = 0;
  // What it has been told of others' changes, as numbered by the index.
  std::uint64_t stream = 0;
  std::uint64_t confirmed = 0;
  // What is locked, and how often the index has been told so.
  std::uint64_t assertion = 0;
  std::vector<CarriedLocks> locks;
  std::vector<InodeId> removed;  // what the index keeps for it until FileSystem::let_go()
};

/// Of what a read sets the atime.
enum class Atime { of_all, of_files, of_none };

struct FileSystemOptions {
  std::string purpose = "client";             // shown by `reelctl status`
  std::chrono::milliseconds timeout{30'000};  // every call ends by then
  Atime atime = Atime::of_all;
  std::uint64_t max_dirty_bytes = 256u
                                  << 20;  // written, not yet acknowledged by nodes; above it writers wait
  /// What loses its last name through here stays in the index, though it be open nowhere, until let_go().
  bool keep_removed = false;
  Standing standing;  // of the process whose place this one takes, if any
};

/// An open file. Every open of one inode in one FileSystem shares the written data, so each reads what the
/// others wrote.
class FileHandle {
 public:
  virtual ~FileHandle() = default;
  virtual InodeId inode() const = 0;

  /// Takes the bytes at once where there is room and they overwrite nothing that is held. The only call that
  /// any thread may make; all others are the loop's.
  /// @return false: nothing was taken, use write()   @errors those of earlier writes (io, unavailable, …),
  /// file_too_big
  virtual Result<bool> try_write(std::uint64_t offset, std::span<const std::byte> bytes) = 0;
  /// Waits for room. @return bytes.size()   @errors also not_permitted (the bytes there are held)
  virtual Task<std::size_t> write(std::uint64_t offset, Buffer bytes) = 0;
  /// At most `length` bytes; fewer at the end of the file alone. Holes read as zeros.
  virtual Task<Buffer> read(std::uint64_t offset, std::size_t length) = 0;
  /// Sends what is collected, commits extents and size. @errors those of earlier writes that no fsync has
  /// told
  virtual Task<void> flush() = 0;
  /// flush, and all of it on stable storage of every copy and in the index's synced journal. @errors once per
  /// handle, those of earlier writes
  virtual Task<void> fsync() = 0;
  /// lseek's SEEK_DATA (hole = false) and SEEK_HOLE: a block with any data is data. @errors not_found stands
  /// for ENXIO
  virtual Task<std::uint64_t> seek(std::uint64_t offset, bool hole) = 0;
  /// Makes the range from `offset` on share the bytes of a range of `source`, which may be the same file,
  /// where both are in one channel. @return bytes done, fewer than `length` at the source's end or where it
  /// takes long
  /// @errors cross_channel, invalid (ranges of one file that overlap), those of earlier writes to the source
  virtual Task<std::uint64_t> clone_from(FileHandle& source, std::uint64_t source_offset,
                                         std::uint64_t offset, std::uint64_t length) = 0;
  /// Deallocates; the size stays.
  virtual Task<void> punch_hole(std::uint64_t offset, std::uint64_t length) = 0;
  /// Grows the size to at least offset + length unless keep_size; space itself is not set aside.
  virtual Task<void> allocate(std::uint64_t offset, std::uint64_t length, bool keep_size) = 0;

  /// It was opened for writing: somebody means to record to the file's channel until the handle is given
  /// back.
  virtual void will_write() = 0;

  /// What FileSystem::adopt() of another process makes an equal handle of. @pre FileSystem::pause()
  struct Carried {
    Attributes attributes;
    std::optional<Error> untold;  // failure of earlier writes that no fsync has told
  };
  virtual Carried carry() = 0;
};

/// A cluster as a filesystem. Lives on one io_context; all calls from its thread, except
/// FileHandle::try_write. Every call ends within FileSystemOptions::timeout, and at once when its coroutine
/// is cancelled (Errc::cancelled). Attributes answered include what is written here and not yet committed.
class FileSystem {
 public:
  FileSystem(asio::io_context& context, const Clock& clock, ClusterConfig config, FileSystemOptions options);
  ~FileSystem();
  FileSystem(const FileSystem&) = delete;
  FileSystem& operator=(const FileSystem&) = delete;

  /// Wants leases: attributes and names may then be believed for as long as their `lease` says, because
  /// `forget` is called, one change after the other, with what another mount has changed before that. The
  /// other mount's call is answered when the coroutine has ended, or a little later without it. Before
  /// start(); without it every lease is 0.
  void on_change(std::function<asio::awaitable<void>(Change)> forget);
  /// All that may be believed at present.
  Change leased() const;

  /// Opens the session. @errors unavailable, timed_out, bad_config
  Task<void> start();
  /// Writes back what is collected, closes segments and the session (within the timeout), joins.
  asio::awaitable<void> stop();

  /// For another process to go on in this one's place: what was written is on stable storage, and nothing is
  /// on its way that changes what the index knows of this session. Of no effect until the other starts; where
  /// it does not, resume() and go on.
  /// @pre no other call is under way but reads and lookups, nor begins   @errors as sync()
  Task<Standing> pause(std::chrono::milliseconds limit);
  void resume();
  /// Instead of stop(), after pause(), when the other has started: gives segments back, leaves the session.
  asio::awaitable<void> leave();
  /// Before start() with a Standing: a handle that the other process had.
  std::shared_ptr<FileHandle> adopt(const FileHandle::Carried& carried);

  /// @errors not_found
  Task<Attributes> lookup(InodeId parent, std::string name);
  Task<Found> find(InodeId parent, std::string name);
  Task<Attributes> get_attributes(InodeId inode);
  Task<Attributes> set_attributes(InodeId inode, AttributeChanges changes);
  /// mkdir, mknod, symlink. @errors exists, not_permitted (a file at the root), …
  Task<Attributes> create(CreateOptions options);
  Task<Attributes> link(InodeId inode, InodeId parent, std::string name);
  /// @return of what lost the name, after that
  Task<Attributes> unlink(InodeId parent, std::string name);
  Task<Attributes> remove_directory(InodeId parent, std::string name);
  /// @param flags  RENAME_NOREPLACE, RENAME_EXCHANGE
  /// @return of what lost the new name, after that, where it was taken
  Task<std::optional<Attributes>> rename(InodeId parent, std::string name, InodeId new_parent,
                                         std::string new_name, std::uint32_t flags);
  /// It was removed through here, with FileSystemOptions::keep_removed, and nobody will come back to it.
  void let_go(InodeId inode);
  Task<std::string> read_link(InodeId inode);
  Task<DirectoryPage> read_directory(InodeId inode, std::uint64_t after, std::uint32_t limit);
  /// Names and attributes of this directory on stable storage.
  Task<void> sync_directory(InodeId inode);
  Task<std::string> get_xattr(InodeId inode, std::string name);
  Task<std::vector<std::string>> list_xattr(InodeId inode);
  Task<void> set_xattr(XattrSetting setting);
  Task<void> remove_xattr(XattrRemoval removal);
  Task<Space> statfs(InodeId inode);
  /// Of a channel, since its oldest recording, by start. @errors not_found
  Task<std::vector<Gap>> list_gaps(InodeId channel);
  /// The ways to the nodes that were used. One that has not been used yet is not known.
  std::vector<NodePath> paths() const;
  /// In the order in which their newest bytes came; one that is being written may be there twice.
  Task<std::vector<Recording>> find_recordings(RecordingsWanted wanted);
  /// Whether the channel has bytes of a time.
  Task<bool> has_recordings(InodeId channel, TimeRange bytes_in);
  /// @errors stale_handle, not_found (it has no name, or is no file of a channel)
  Task<Recording> get_recording(InodeId inode);
  /// When bytes of the channel came: whole quarters of an hour of UTC, ascending, not touching.
  /// @param bytes_in  only those of recordings that have bytes of this time; none: all
  Task<std::vector<TimeRange>> find_times(InodeId channel, std::optional<TimeRange> bytes_in);
  /// What has these attributes was read: its atime is set in a while, where relatime says so.
  void note_read(const Attributes& attributes);
  /// The same for a file that is open here.
  void note_read(const FileHandle& handle);

  struct Opened {
    Attributes attributes;
    std::shared_ptr<FileHandle> handle;
  };
  Task<Opened> open(InodeId inode);
  Task<Opened> create_file(CreateOptions options);
  /// Writes at the end of the file, where other mounts have put it by what they synced or closed.
  /// @pre no other write to the file is under way here   @return bytes.size()   @errors those of write()
  Task<std::size_t> append(std::shared_ptr<FileHandle> handle, Buffer bytes);
  /// After the last use of the handle: gives it back to the index.
  Task<void> release(std::shared_ptr<FileHandle> handle);
  /// All files: as fsync.
  Task<void> sync();

  Locks& locks();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace reelfs::client
