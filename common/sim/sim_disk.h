#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <random>
#include <span>
#include <vector>

#include "common/base/units.h"
#include "common/io/disk_file.h"

namespace reelfs::sim {

/// What a loss of power does to the writes that no sync has covered.
enum class CrashFault {
  lose_unsynced,     // none of them happened
  reorder_unsynced,  // any of them happened, whole
  tear_unsynced,     // any 512-byte sectors of any of them happened
};

/// A disk in memory that forgets, fails and lies on request. Calls end at once.
class SimDisk final : public io::DiskFile {
 public:
  /// @param bytes  a multiple of kPageBytes; memory is used for what is written alone
  /// @param seed   of the choices a crash makes
  SimDisk(std::uint64_t bytes, std::uint64_t seed);

  Task<void> read(std::uint64_t offset, std::span<std::byte> into) override;
  Task<void> write(std::uint64_t offset, std::span<const std::byte> from) override;
  Task<void> sync() override;
  Task<void> discard(std::uint64_t offset, std::uint64_t bytes) override;
  std::uint64_t size() const override { return bytes_; }

  /// So many writes and discards were made. sync_upto() of it covers these, and not those that came while the
  /// sync was under way.
  std::uint64_t mark() const { return settled_ + unsynced_.size(); }
  Result<void> sync_upto(std::uint64_t mark);

  enum class Image { seen, durable };
  /// What is stored, now or after a loss of power. Of whole pages.
  void peek(Image image, std::uint64_t offset, std::span<std::byte> into) const;

  /// Power fails and comes back: what can be read from now on is what the medium holds.
  void crash(CrashFault fault);
  /// Reads, writes, syncs end with `io` from now on, or no longer do.
  void fail_reads(bool failing) { reads_fail_ = failing; }
  void fail_writes(bool failing) { writes_fail_ = failing; }
  /// What a failed sync should have made durable stays as unsynced as it was.
  void fail_syncs(bool failing) { syncs_fail_ = failing; }
  /// Turns over one bit of what is stored. @pre something was written to that page
  void flip_bit(std::uint64_t offset, unsigned bit);
  /// The next write lands here instead of where it was addressed, and reports success.
  void misdirect_next_write(std::uint64_t offset) { misdirect_to_ = offset; }

  std::uint64_t writes() const { return writes_; }
  std::uint64_t syncs() const { return syncs_; }

 private:
  using Page = std::array<std::byte, kPageBytes>;
  using Pages = std::map<std::uint64_t, Page>;  // by offset; absent ones are zero
  struct Write {
    std::uint64_t offset;
    std::vector<std::byte> bytes;  // empty: a discard
    std::uint64_t discarded;
  };

  Result<void> check_range(std::uint64_t offset, std::uint64_t bytes) const;
  static void store(Pages& pages, std::uint64_t offset, std::span<const std::byte> bytes);
  static void apply(Pages& pages, const Write& write);
  static void load(const Pages& pages, std::uint64_t offset, std::span<std::byte> into);

  const std::uint64_t bytes_;
  std::mt19937_64 random_;
  Pages seen_;     // what reads see
  Pages durable_;  // what a crash leaves at least
  std::vector<Write> unsynced_;
  std::uint64_t settled_ = 0;  // writes that are not among them any more
  std::optional<std::uint64_t> misdirect_to_;
  bool reads_fail_ = false;
  bool writes_fail_ = false;
  bool syncs_fail_ = false;
  std::uint64_t writes_ = 0;
  std::uint64_t syncs_ = 0;
};

}  // namespace reelfs::sim
