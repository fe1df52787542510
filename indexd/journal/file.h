#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "indexd/journal/core.h"

namespace reelfs::indexd {

/// What to do where the journal ends before the state in RocksDB, so that what came after the state may be
/// lost.
enum class LostJournal { refuse, go_on_without };

/// A journal's files, "journal-<first index>.log" in one directory, and all that is done with them.
/// docs/formats/journal.md, "Procedures"
class JournalFile {
 public:
  explicit JournalFile(std::filesystem::path directory);
  ~JournalFile();
  JournalFile(const JournalFile&) = delete;
  JournalFile& operator=(const JournalFile&) = delete;

  /// Reads what is there, cuts a torn tail, and puts the rest on stable storage; then calls replay for every
  /// entry above `applied`. Once, before anything else.
  /// @return where the journal ends; not before `applied`, whatever the files say
  /// @errors corrupt (an entry is bad that had been synced, or some are missing), io, those of replay
  Result<JournalCore::End> recover(const JournalPosition& applied,
                                   const std::function<Result<void>(const Entry&)>& replay,
                                   LostJournal lost = LostJournal::refuse);

  /// Carries out writes. One thread. @errors io, no_space
  Result<void> write(std::span<const JournalCore::Write> writes);
  /// What was written before is on stable storage when this returns. One thread, which may be another.
  /// @errors io
  Result<void> sync();
  /// Removes the files that hold only entries up to this one, except the newest. @errors io
  Result<void> remove_upto(std::uint64_t index);
  /// Of all files but the newest.
  std::uint64_t older_bytes() const;

 private:
  struct Open;
  struct Recovery;
  Result<std::vector<std::uint64_t>> list() const;
  std::filesystem::path path_of(std::uint64_t first_index) const;
  Result<std::shared_ptr<Open>> begin_file(std::uint64_t first_index);
  Result<void> sync_directory() const;

  const std::filesystem::path directory_;
  mutable std::mutex mutex_;
  std::shared_ptr<Open> newest_;                  // guarded by mutex_
  std::vector<std::shared_ptr<Open>> unsynced_;   // guarded by mutex_: written since the last sync began
  std::map<std::uint64_t, std::uint64_t> files_;  // guarded by mutex_: first index to bytes
};

}  // namespace reelfs::indexd
