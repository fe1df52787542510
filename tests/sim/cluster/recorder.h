#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "client/filesystem.h"
#include "tests/sim/cluster/world.h"

namespace reelfs::sim {

/// A file as the one who writes it may expect it: in cells of 1,000 bytes, each of which was written as a
/// whole, maybe several times.
struct RecordedFile {
  static constexpr std::uint64_t kCellBytes = 1000;
  struct Cell {
    std::vector<std::uint32_t> writes;  // by their numbers, since the one that was acknowledged, with that
    bool acknowledged = false;          // the first of these: by an fsync
  };
  std::string name;
  InodeId channel;
  InodeId inode;
  std::vector<Cell> cells;
  std::uint32_t last_write = 0;
  std::uint32_t forgiven = 0;  // writes up to this one may be lost: an error was told
  /// All copies may have lost what was not flushed: with a later write, which the index knew of, what an
  /// fsync had acknowledged in its place. docs/design/simulation.md, "Not mended"
  bool overwritten_may_be_lost = false;
  bool must_hold(const Cell& cell) const {
    return cell.acknowledged && !(overwritten_may_be_lost && cell.writes.size() > 1);
  }

  std::uint64_t size() const { return cells.size() * kCellBytes; }
  /// The bytes that write number `write` put at `offset` of this file.
  void fill(std::uint32_t write, std::uint64_t offset, std::span<std::byte> into) const;
  /// An fsync that began after write number `upto` has succeeded.
  void acknowledge(std::uint32_t upto);
  void failed() { forgiven = last_write; }
  /// Whether bytes that were read at `offset` may be there. @return what is wrong; empty: nothing
  std::string check(std::uint64_t offset, std::span<const std::byte> bytes) const;
  std::uint64_t acknowledged_bytes() const;
  bool has_acknowledged(std::uint64_t offset, std::uint64_t length) const;
};

/// Writes files through a mount, as recorders do, until it is told to stop; then it closes them.
class Recorder {
 public:
  /// Called when an fsync has succeeded, at that moment.
  using Synced = std::function<void(const RecordedFile& file)>;
  /// @param may_be_lost  whether what was not synced may be: then fsync of its file goes on failing
  Recorder(World& world, std::string name, client::FileSystem& fs, InodeId channel, Synced synced,
           std::function<bool()> may_be_lost)
      : world_(world),
        name_(std::move(name)),
        fs_(fs),
        channel_(channel),
        synced_(std::move(synced)),
        may_be_lost_(std::move(may_be_lost)) {}
  Recorder(const Recorder&) = delete;
  Recorder& operator=(const Recorder&) = delete;

  asio::awaitable<void> run();
  void finish() { finishing_ = true; }
  bool finished() const { return finished_; }
  const std::vector<std::unique_ptr<RecordedFile>>& files() const { return files_; }
  std::uint64_t syncs() const { return syncs_; }
  std::uint64_t errors() const { return errors_; }

 private:
  asio::awaitable<bool> begin_file();
  asio::awaitable<void> write(std::uint64_t cell, std::uint64_t cells);
  asio::awaitable<bool> fsync();
  asio::awaitable<void> end_file();
  RecordedFile& file() { return *files_.back(); }

  World& world_;
  const std::string name_;
  client::FileSystem& fs_;
  const InodeId channel_;
  const Synced synced_;
  const std::function<bool()> may_be_lost_;
  std::vector<std::unique_ptr<RecordedFile>> files_;
  std::shared_ptr<client::FileHandle> handle_;
  bool finishing_ = false;
  bool finished_ = false;
  std::uint64_t syncs_ = 0;
  std::uint64_t errors_ = 0;
};

}  // namespace reelfs::sim
