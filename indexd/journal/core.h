#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/base/clock.h"
#include "indexd/journal/entry.h"
#include "indexd/schema/rows.h"

namespace reelfs::indexd {

/// Decides what the journal's files get, when they are synced and who may go on: events in, actions out, and
/// neither files, threads nor clocks inside.
///
///     index = core.append(type, payload, now);  ...        // a group of operations
///     for (write : core.take_writes()) do it; core.written(index)
///     core.want_sync(index, waiter);
///     if (upto = core.take_sync(now)) { fdatasync; core.synced(*upto); }
///     for (waiter : core.take_released()) tell it
class JournalCore {
 public:
  using WaiterId = std::uint64_t;
  struct Options {
    std::uint64_t file_bytes = 64 * kMiB;  // a new file begins when one has reached this
    Duration sync_interval =
        std::chrono::milliseconds(100);  // longest that a written entry stays unsynced by itself
  };
  /// Where the journal ends: everything up to there is on stable storage.
  struct End {
    JournalPosition position;
    std::uint32_t crc32c = 0;  // of the last entry
    std::uint32_t salt = 0;
    std::uint64_t file_bytes = 0;  // in the newest file; 0: there is none, begin one
  };
  /// Bytes for the end of the newest file, or of a new one.
  struct Write {
    std::optional<std::uint64_t> new_file;  // its first index
    std::string bytes;
  };

  JournalCore(Options options, const End& end, Epoch epoch);

  /// Adds an entry. @return its index. @pre not failed
  std::uint64_t append(EntryType type, std::string_view payload, TimePoint now);
  /// What to write, in order, since the last call.
  std::vector<Write> take_writes();
  /// The writes of the entries up to this one have been done.
  void written(std::uint64_t index);

  /// Asks for the entries up to `index` to be synced soon, and for the waiter to be released then.
  /// @pre index <= newest_index()
  void want_sync(std::uint64_t index, std::optional<WaiterId> waiter);
  /// A sync that is due and not under way: begin it, and report with synced(). Entries up to the value are
  /// covered.
  std::optional<std::uint64_t> take_sync(TimePoint now);
  /// When take_sync() will have one though nothing else happens.
  std::optional<TimePoint> sync_due() const;
  void synced(std::uint64_t index);

  /// A write or sync did not succeed: it is unknown what the files hold, so nothing is accepted or promised
  /// any more.
  void fail();
  bool has_failed() const { return failed_; }

  /// Waiters that may go on: synced, or in vain where has_failed().
  std::vector<WaiterId> take_released();

  JournalPosition position() const { return {.epoch = epoch_, .index = newest_}; }
  std::uint64_t newest_index() const { return newest_; }
  std::uint64_t written_index() const { return written_; }
  std::uint64_t synced_index() const { return synced_; }
  std::uint32_t salt() const { return salt_; }

 private:
  const Options options_;
  const Epoch epoch_;
  const std::uint32_t salt_;
  std::uint64_t newest_;
  std::uint64_t written_;
  std::uint64_t synced_;
  std::uint32_t last_crc32c_;
  std::uint64_t file_bytes_;
  std::vector<Write> writes_;
  std::uint64_t wanted_ = 0;              // highest index somebody waits for
  std::optional<std::uint64_t> syncing_;  // under way
  std::optional<TimePoint>
      oldest_unsynced_at_;  // when the oldest entry was added that no sync has begun to cover
  std::multimap<std::uint64_t, WaiterId> waiters_;
  std::vector<WaiterId> released_;
  bool failed_ = false;
};

}  // namespace reelfs::indexd
