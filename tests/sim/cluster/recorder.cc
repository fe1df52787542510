#include "tests/sim/cluster/recorder.h"

#include <algorithm>
#include <cstring>

#include <sys/stat.h>

#include "common/async/timeout.h"

namespace reelfs::sim {
namespace {

using namespace std::chrono_literals;

std::uint64_t mixed(std::uint64_t value) {
  value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9ULL;
  value = (value ^ (value >> 27)) * 0x94D049BB133111EBULL;
  return value ^ (value >> 31);
}

}  // namespace

void RecordedFile::fill(std::uint32_t write, std::uint64_t offset, std::span<std::byte> into) const {
  std::uint64_t word = UINT64_MAX, value = 0;
  for (std::size_t i = 0; i < into.size(); ++i) {
    const auto at = offset + i;
    if (at / 8 != word) {
      word = at / 8;
      value = mixed((std::uint64_t{write} << 40) ^ (inode.value << 24) ^ word);
    }
    into[i] = static_cast<std::byte>(value >> (8 * (at % 8)));
  }
}

void RecordedFile::acknowledge(std::uint32_t upto) {
  for (auto& cell : cells) {
    const auto behind = std::upper_bound(cell.writes.begin(), cell.writes.end(), upto);
    if (behind == cell.writes.begin()) continue;
    const auto last = std::prev(behind);
    if (*last <= forgiven) continue;  // may be lost; what was acknowledged before may be there as well
    cell.writes.erase(cell.writes.begin(), last);
    cell.acknowledged = true;
  }
}

std::string RecordedFile::check(std::uint64_t offset, std::span<const std::byte> bytes) const {
  std::vector<std::byte> expected;
  while (!bytes.empty()) {
    const auto number = offset / kCellBytes;
    const auto count = std::min<std::size_t>(bytes.size(), (number + 1) * kCellBytes - offset);
    const auto part = bytes.subspan(0, count);
    if (number < cells.size() && must_hold(cells[number])) {
      const auto& cell = cells[number];
      // Parts of one write may have been stored, and others not: each byte is to be of one of those.
      std::vector<bool> right(count, false);
      expected.resize(count);
      for (const auto write : cell.writes) {
        fill(write, offset, expected);
        for (std::size_t i = 0; i < count; ++i) right[i] = right[i] || part[i] == expected[i];
      }
      const auto wrong = std::find(right.begin(), right.end(), false);
      if (wrong != right.end()) {
        return fmt::format("byte {} of {} is not that of write {}, which an fsync has acknowledged",
                           offset + static_cast<std::uint64_t>(wrong - right.begin()), name,
                           cell.writes.front());
      }
    }
    bytes = bytes.subspan(count);
    offset += count;
  }
  return {};
}

std::uint64_t RecordedFile::acknowledged_bytes() const {
  return kCellBytes * static_cast<std::uint64_t>(std::count_if(
                          cells.begin(), cells.end(), [](const Cell& cell) { return cell.acknowledged; }));
}

bool RecordedFile::has_acknowledged(std::uint64_t offset, std::uint64_t length) const {
  for (auto cell = offset / kCellBytes; cell * kCellBytes < offset + length && cell < cells.size(); ++cell) {
    if (must_hold(cells[cell])) return true;
  }
  return false;
}

// ---- the recorder

asio::awaitable<bool> Recorder::begin_file() {
  client::CreateOptions options;
  options.parent = channel_;
  options.name = fmt::format("{}-{}", name_, files_.size() + 1);
  options.mode = S_IFREG | 0644;
  const auto name = options.name;
  auto opened = co_await fs_.create_file(std::move(options));
  if (!opened) {
    world_.note("{} not created: {}", name, opened.error().describe());
    // Whether it was created nobody knows: another name the next time.
    files_.push_back(std::make_unique<RecordedFile>());
    co_return false;
  }
  auto file = std::make_unique<RecordedFile>();
  file->name = name;
  file->channel = channel_;
  file->inode = opened.value().attributes.inode;
  files_.push_back(std::move(file));
  handle_ = opened.value().handle;
  handle_->will_write();
  co_return true;
}

asio::awaitable<void> Recorder::write(std::uint64_t first, std::uint64_t count) {
  auto& written = file();
  const auto number = ++written.last_write;
  if (written.cells.size() < first + count) written.cells.resize(first + count);
  for (auto cell = first; cell < first + count; ++cell) written.cells[cell].writes.push_back(number);
  Buffer bytes(count * RecordedFile::kCellBytes);
  written.fill(number, first * RecordedFile::kCellBytes, bytes.span());
  const auto done = co_await handle_->write(first * RecordedFile::kCellBytes, std::move(bytes));
  if (done) co_return;
  world_.note("write of {} failed: {}", written.name, done.error().describe());
  ++errors_;
  written.failed();
}

asio::awaitable<bool> Recorder::fsync() {
  auto& written = file();
  const auto upto = written.last_write;
  const auto done = co_await handle_->fsync();
  if (!done) {
    world_.note("fsync of {} failed: {}", written.name, done.error().describe());
    ++errors_;
    written.failed();
    // Nothing more comes of it where its creation was lost with the index's power, or what was not flushed
    // with that of all copies.
    const auto code = done.error().code();
    if (code == Errc::stale_handle || (code == Errc::io && may_be_lost_())) co_await end_file();
    co_return false;
  }
  written.acknowledge(upto);
  written.overwritten_may_be_lost = may_be_lost_();
  ++syncs_;
  world_.note("fsync of {} acknowledges {} bytes of {}", written.name, written.acknowledged_bytes(),
              written.size());
  synced_(written);
  co_return true;
}

asio::awaitable<void> Recorder::end_file() {
  if (!handle_) co_return;
  const auto flushed = co_await handle_->flush();
  if (!flushed) {
    ++errors_;
    file().failed();
  }
  (void)co_await fs_.release(std::exchange(handle_, nullptr));
}

asio::awaitable<void> Recorder::run() {
  while (!finishing_) {
    if (!handle_) {
      const bool begun = co_await begin_file();
      if (!begun) co_await sleep_for(200ms);
      continue;
    }
    const auto cells = file().cells.size();
    const auto what = world_.below(100);
    if (what < 62) {
      co_await write(cells, 1 + world_.below(16));
    } else if (what < 66) {
      co_await write(cells, 30 + world_.below(150));
    } else if (what < 78 && cells > 0) {
      const auto first = world_.below(cells);
      co_await write(first, 1 + world_.below(std::min<std::uint64_t>(cells - first, 20)));
    } else if (what < 94) {
      (void)co_await fsync();
    } else if (what < 97) {
      const auto flushed = co_await handle_->flush();
      if (!flushed) file().failed();
    } else {
      co_await end_file();
    }
    if (world_.one_in(3)) co_await sleep_for(world_.between(1ms, 150ms));
    if (world_.one_in(60)) co_await sleep_for(world_.between(500ms, 2500ms));
  }
  // Everything is well by now: it succeeds, though maybe only after an error of before was told.
  for (int tries = 0; handle_ && tries < 5; ++tries) {
    const bool synced = co_await fsync();
    if (synced) break;
    if (tries == 4) world_.violated(fmt::format("{} cannot be synced though all is well", file().name));
  }
  co_await end_file();
  finished_ = true;
}

}  // namespace reelfs::sim
