#include "indexd/service/restore.h"

#include <algorithm>
#include <cerrno>
#include <fstream>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include <boost/asio/io_context.hpp>
#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include "common/async/task_group.h"
#include "common/base/clock.h"
#include "common/base/descriptor.h"
#include "common/base/units.h"
#include "common/observe/log.h"
#include "common/wire/rebuild.pb.h"
#include "indexd/journal/executor.h"
#include "indexd/nodelog/assembly.h"
#include "indexd/nodelog/piece_file.h"
#include "indexd/nodelog/replay.h"
#include "indexd/schema/change.h"
#include "indexd/schema/store.h"
#include "indexd/tree/names.h"

namespace reelfs::indexd {

namespace {

/// Numbers are left out behind the last that is known, so that none is given twice: of what was made after
/// the last entry nothing may be known here.
constexpr std::uint64_t kNumbersLeftOut = 1 << 20;
constexpr std::size_t kChangesAtOnce = kMiB;   // in one entry of the new journal
constexpr std::size_t kSegmentsAtOnce = 1024;  // the same
constexpr std::uint64_t kGenerationsLookedAt =
    16;  // of one segment: it is granted and fenced once a reign at most
constexpr int kMostLostFiles = 1000;

spdlog::logger& log() {
  static auto& instance = logger("indexd.rebuild");
  return instance;
}

Result<void> sync_directory(const std::filesystem::path& directory) {
  const Descriptor fd(::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (fd.get() < 0 || ::fsync(fd.get()) != 0) return from_errno(errno, "syncing " + directory.string());
  return ok();
}

Result<void> remove_tree(const std::filesystem::path& path) {
  std::error_code failure;
  std::filesystem::remove_all(path, failure);
  if (failure) return from_errno(failure.value(), "removing " + path.string());
  return ok();
}

/// A copy as its node listed it.
struct Listed {
  SegmentCopy copy;
  Generation generation;
  std::uint64_t length = 0;
  bool sealed = false;
  InodeId channel;
};

/// The work, on an index that has nothing yet.
class Restoring {
 public:
  Restoring(Executor& index, const PieceFile& pieces, const RebuildPlan& plan, wire::Collected& collected)
      : index_(index),
        pieces_(pieces),
        plan_(plan),
        collected_(collected),
        report_(*collected.mutable_report()) {}

  Task<void> run() {
    REELFS_CO_TRY(co_await put_rows());
    REELFS_CO_TRY(co_await know_nodes());
    REELFS_CO_TRY(co_await leave_out_numbers());
    REELFS_CO_TRY(co_await compare_segments());
    REELFS_CO_TRY(co_await note_losses());
    co_return co_await index_.sync_here();
  }

 private:
  using Rows = std::vector<std::pair<SegmentId, SegmentRow>>;

  /// The checkpoint's rows and what the entries changed, as entries of the new journal.
  Task<void> put_rows() {
    std::string gathered;
    std::vector<std::string> batches;
    const auto visit = [&](std::string_view changes) -> Result<void> {
      return for_each_change(changes, [&](std::string_view key, std::optional<std::string_view> value) {
        append_change(gathered, key, value);
        if (gathered.size() < kChangesAtOnce) return;
        batches.push_back(std::exchange(gathered, {}));
      });
    };
    // Each part of the plan by itself, so that not all of it is in memory at a time.
    RebuildPlan part = plan_;
    Replayed last;
    last.last = plan_.checkpoint;
    part.entries.clear();
    part.needed_index = 0;
    for (const auto piece : plan_.rows) {
      part.rows = {piece};
      REELFS_CO_TRY(replay(part, pieces_, visit));
      REELFS_CO_TRY(co_await apply(batches));
    }
    // Entries are looked at together: each is to follow upon the one before.
    part = plan_;
    part.rows.clear();
    REELFS_CO_TRY(last, replay(part, pieces_, visit));
    batches.push_back(std::exchange(gathered, {}));
    REELFS_CO_TRY(co_await apply(batches));
    report_.set_checkpoint_epoch(plan_.checkpoint.epoch.value);
    report_.set_checkpoint_index(plan_.checkpoint.index);
    report_.set_last_epoch(last.last.epoch.value);
    report_.set_last_index(last.last.index);
    report_.set_entries(last.entries);
    co_return ok();
  }

  Task<void> apply(std::vector<std::string>& batches) {
    for (const auto& changes : std::exchange(batches, {})) {
      if (changes.empty()) continue;
      auto put = [&changes](Transaction& txn) -> Result<void> {
        return for_each_change(changes, [&txn](std::string_view key, std::optional<std::string_view> value) {
          Store::repeat(txn, key, value);
        });
      };
      REELFS_CO_TRY(co_await index_.run(std::move(put)));
    }
    co_return ok();
  }

  /// Nodes and devices that came after the last entry, and the numbers of all.
  Task<void> know_nodes() {
    auto know = [this](Transaction& txn) -> Result<std::map<std::string, NodeId>> {
      std::map<std::string, NodeId> numbers;
      std::uint64_t last_node = 0, last_device = 0;
      REELFS_TRY(txn.scan_table<NodeKey>([&](NodeKey key, const NodeRow& row) {
        numbers[row.name] = key.node;
        last_node = std::max<std::uint64_t>(last_node, key.node.value);
        return true;
      }));
      for (const auto& [counter, last] :
           {std::pair(Counter::node, &last_node), std::pair(Counter::device, &last_device)}) {
        REELFS_TRY(const auto row, txn.find(CounterKey{counter}));
        if (row) *last = std::max(*last, row->value);
      }
      for (const auto& node : collected_.nodes()) {
        auto& number = numbers[node.name()];
        if (!number) {
          number = NodeId{static_cast<std::uint32_t>(++last_node)};
          txn.put(NodeKey{number}, NodeRow{node.name(), node.rack(), NodeService::in_service});
        }
        for (const auto& device : node.devices()) {
          const auto uuid = Uuid::from_bytes(device.uuid());
          if (device.device() == 0 || !uuid || device.blocks() == 0) continue;
          last_device = std::max<std::uint64_t>(last_device, device.device());
          const DeviceKey key{DeviceId{device.device()}};
          REELFS_TRY(const auto known, txn.find(key));
          if (known && known->uuid != uuid.value()) continue;  // refused when the node registers
          txn.put(key, DeviceRow{uuid.value(), number, device.path(), device.block_bytes(), device.blocks()});
        }
      }
      txn.put(CounterKey{Counter::node}, CounterRow{last_node});
      txn.put(CounterKey{Counter::device}, CounterRow{last_device});
      return numbers;
    };
    REELFS_CO_TRY(const auto numbers, co_await index_.run(std::move(know)));
    for (const auto& node : collected_.nodes()) {
      const auto number = numbers.at(node.name());
      there_.insert(number);
      for (const auto& block : node.blocks()) {
        Listed listed;
        listed.copy = {number, WorkerId{1}, DeviceId{block.device()}, block.block()};
        listed.generation = Generation{block.generation()};
        listed.length = block.length();
        listed.sealed = block.sealed();
        listed.channel = InodeId{block.channel()};
        listed_[SegmentId{block.segment()}].push_back(listed);
      }
    }
    co_return ok();
  }

  Task<void> leave_out_numbers() {
    auto leave_out = [this](Transaction& txn) -> Result<std::uint64_t> {
      std::uint64_t sessions = 0;
      for (const auto counter : {Counter::inode, Counter::segment, Counter::session}) {
        REELFS_TRY(const auto row, txn.find(CounterKey{counter}));
        auto last = row ? row->value : 0;
        if (counter == Counter::segment && !listed_.empty())
          last = std::max(last, listed_.rbegin()->first.value);
        last += kNumbersLeftOut;
        if (counter == Counter::session) {
          sessions = last;
          last += listed_.size();  // at most one for each channel
        }
        txn.put(CounterKey{counter}, CounterRow{last});
      }
      return sessions;
    };
    REELFS_CO_TRY(last_session_, co_await index_.run(std::move(leave_out)));
    co_return ok();
  }

  /// The rows of segments after what nodes have of them.
  Task<void> compare_segments() {
    for (SegmentId from;;) {
      auto read = [from](const View& view) -> Result<Rows> {
        Rows rows;
        REELFS_TRY(view.scan(SegmentKey{from}, SegmentKey{SegmentId{UINT64_MAX}},
                             [&](SegmentKey key, SegmentRow row) {
                               rows.emplace_back(key.segment, std::move(row));
                               return rows.size() < kSegmentsAtOnce;
                             }));
        return rows;
      };
      REELFS_CO_TRY(const auto rows, co_await index_.read(std::move(read)));
      auto change = [this, &rows](Transaction& txn) -> Result<void> {
        for (const auto& [segment, row] : rows) compare(txn, segment, row);
        return ok();
      };
      REELFS_CO_TRY(co_await index_.run(std::move(change)));
      if (rows.size() < kSegmentsAtOnce) break;
      from = SegmentId{rows.back().first.value + 1};
    }
    REELFS_CO_TRY(const auto cluster, co_await cluster_row());
    auto unknown = listed_.begin();
    while (unknown != listed_.end()) {
      auto adopt_some = [&](Transaction& txn) -> Result<void> {
        for (std::size_t done = 0; unknown != listed_.end() && done < kSegmentsAtOnce; ++unknown) {
          if (known_.contains(unknown->first)) continue;
          adopt(txn, unknown->first, unknown->second, cluster.block_bytes);
          ++done;
        }
        return ok();
      };
      REELFS_CO_TRY(co_await index_.run(std::move(adopt_some)));
    }
    co_return ok();
  }

  Task<ClusterRow> cluster_row() {
    auto read = [](const View& view) { return view.get(ClusterKey{}); };
    co_return co_await index_.read(std::move(read));
  }

  void compare(Transaction& txn, SegmentId segment, const SegmentRow& stored) {
    known_.insert(segment);
    if (stored.state == SegmentState::allocating || stored.state == SegmentState::freeing)
      return;  // it is freed
    const auto found = listed_.find(segment);
    if (found == listed_.end()) {
      // A node that is not there may have it.
      const bool is_away = std::any_of(stored.copies.begin(), stored.copies.end(),
                                       [this](const auto& copy) { return !there_.contains(copy.node); });
      if (!is_away && stored.live_bytes > 0) lost_.insert(segment);
      return;
    }
    auto row = stored;
    const auto& listed = found->second;
    // What was repaired after the last entry lies elsewhere.
    std::erase_if(row.copies, [&](const SegmentCopy& copy) {
      const bool is_listed = std::any_of(listed.begin(), listed.end(), [&](const Listed& each) {
        return each.copy.node == copy.node && (!copy.device || each.copy.device == copy.device);
      });
      return there_.contains(copy.node) && !is_listed;
    });
    for (const auto& each : listed) {
      const bool is_known = std::any_of(row.copies.begin(), row.copies.end(),
                                        [&](const SegmentCopy& copy) { return copy.node == each.copy.node; });
      if (!is_known && each.length >= row.length) row.copies.push_back(each.copy);
    }
    if (row.copies.empty()) row.copies = stored.copies;
    Generation newest = row.generation;
    for (const auto& each : listed) newest = std::max(newest, each.generation);
    if (newest > row.generation) {
      if (row.state != SegmentState::sealed) {
        // It was granted or fenced after the last entry: nobody goes on with it.
        note_grants(txn, segment, row.channel, row.generation, newest);
        row.state = SegmentState::open;
        row.session = {};
        report_.set_fenced_segments(report_.fenced_segments() + 1);
      }
      row.generation = newest;
    }
    if (row != stored) txn.put(SegmentKey{segment}, row);
  }

  /// A row for what nodes have and no entry names: of a session that is gone, so that it is fenced and
  /// sealed.
  void adopt(Transaction& txn, SegmentId segment, const std::vector<Listed>& listed,
             std::uint64_t block_bytes) {
    SegmentRow row;
    row.state = SegmentState::open;
    row.channel = listed.front().channel;
    row.block_bytes = block_bytes;
    row.created_ns = report_.began_ns();
    for (const auto& each : listed) {
      row.generation = std::max(row.generation, each.generation);
      const bool is_known = std::any_of(row.copies.begin(), row.copies.end(),
                                        [&](const SegmentCopy& copy) { return copy.node == each.copy.node; });
      if (!is_known) row.copies.push_back(each.copy);
    }
    note_grants(txn, segment, row.channel, Generation{0}, row.generation);
    txn.put(SegmentKey{segment}, row);
    report_.set_adopted_segments(report_.adopted_segments() + 1);
  }

  /// What stands in it under later grants than are known is committed as that of a recorder that is gone:
  /// docs/design/roll-forward.md
  void note_grants(Transaction& txn, SegmentId segment, InodeId channel, Generation known,
                   Generation newest) {
    if (channel == kNodeLogChannel) return;
    auto& session = sessions_[channel];
    if (!session) session = SessionId{++last_session_};
    const auto first = std::max(known.value + 1, newest.value - std::min(newest.value, kGenerationsLookedAt));
    for (auto generation = first; generation <= newest.value; ++generation)
      txn.put(GrantKey{session, segment, Generation{generation}}, GrantRow{});
  }

  Task<void> note_losses() {
    auto look = [this](const View& view) -> Result<void> {
      std::uint64_t rows = 0;
      REELFS_TRY(view.scan_all([&rows](std::string_view, std::string_view) {
        ++rows;
        return true;
      }));
      report_.set_rows(rows);
      report_.set_lost_segments(lost_.size());
      std::map<InodeId, std::uint64_t> files;
      for (const auto segment : lost_) {
        const SegmentFileKey from{segment, InodeId{}}, upto{SegmentId{segment.value + 1}, InodeId{}};
        REELFS_TRY(view.scan(from, upto, [&](const SegmentFileKey& key, const SegmentFileRow& row) {
          files[key.inode] += row.live_bytes;
          return true;
        }));
      }
      report_.set_lost_file_count(files.size());
      for (const auto& [inode, bytes] : files) {
        if (report_.lost_files_size() == kMostLostFiles) break;
        auto& file = *report_.add_lost_files();
        file.set_inode(inode.value);
        file.set_bytes(bytes);
        const auto path = tree::path_of(view, inode);
        if (path) file.set_path(path.value());
      }
      return ok();
    };
    co_return co_await index_.read(std::move(look));
  }

  Executor& index_;
  const PieceFile& pieces_;
  const RebuildPlan& plan_;
  wire::Collected& collected_;
  wire::RebuildReport& report_;
  std::set<NodeId> there_;
  std::map<SegmentId, std::vector<Listed>> listed_;
  std::set<SegmentId> known_;
  std::set<SegmentId> lost_;
  std::uint64_t last_session_ = 0;
  std::map<InodeId, SessionId> sessions_;  // that the adopted segments of a channel are said to be of
};

Result<void> restore(boost::asio::io_context& context, const std::filesystem::path& data_dir,
                     wire::Collected& collected) {
  const RebuildFiles files(data_dir);
  REELFS_TRY(const auto pieces, PieceFile::open(files.pieces, collected.pieces_bytes()));
  const auto plan = plan_rebuild(pieces.headers());
  if (!plan) return Error(Errc::corrupt, "what was collected has no whole checkpoint any more");
  std::uint64_t epoch = 0;
  for (const auto& header : pieces.headers()) epoch = std::max(epoch, header.epoch);
  for (const auto& node : collected.nodes()) epoch = std::max(epoch, node.epoch());
  REELFS_TRY(remove_tree(data_dir / "rocksdb"));
  REELFS_TRY(remove_tree(data_dir / "journal"));
  Executor::Options options;
  options.directory = data_dir;
  options.epoch = Epoch{epoch + 1};
  REELFS_TRY(const auto index, Executor::open(std::move(options)));
  Restoring restoring(*index, pieces, *plan, collected);
  std::optional<Result<void>> outcome;
  auto work = [&]() -> asio::awaitable<void> { outcome.emplace(co_await restoring.run()); };
  TaskGroup group(context.get_executor());
  group.spawn(work());
  context.run();
  context.restart();
  return std::move(*outcome);
}

}  // namespace

Result<void> replace_file(const std::filesystem::path& path, const std::string& bytes) {
  auto temporary = path;
  temporary += ".new";
  {
    const Descriptor file(::open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0640));
    if (file.get() < 0) return from_errno(errno, "creating " + temporary.string());
    for (std::size_t done = 0; done < bytes.size();) {
      const auto written = ::write(file.get(), bytes.data() + done, bytes.size() - done);
      if (written < 0 && errno != EINTR) return from_errno(errno, "writing " + temporary.string());
      if (written > 0) done += static_cast<std::size_t>(written);
    }
    if (::fsync(file.get()) != 0) return from_errno(errno, "syncing " + temporary.string());
  }
  std::error_code failure;
  std::filesystem::rename(temporary, path, failure);
  if (failure) return from_errno(failure.value(), "renaming " + temporary.string());
  return sync_directory(path.parent_path());
}

Result<std::string> read_file(const std::filesystem::path& path) {
  std::error_code failure;
  if (!std::filesystem::exists(path, failure)) return std::string();
  std::ifstream file(path, std::ios::binary);
  std::string bytes((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  if (file.bad() || !file.is_open()) return Error(Errc::io, "reading " + path.string());
  return bytes;
}

Result<void> restore_collected(boost::asio::io_context& context, const std::filesystem::path& data_dir) {
  const RebuildFiles files(data_dir);
  REELFS_TRY(const auto bytes, read_file(files.collected));
  if (bytes.empty()) return ok();
  wire::Collected collected;
  if (!collected.ParseFromString(bytes))
    return Error(Errc::corrupt, files.collected.string() + " does not parse");
  auto done = restore(context, data_dir, collected);
  if (!done) {
    return std::move(done).error().within(
        fmt::format("making the index of what was collected in {}", files.directory.string()));
  }
  auto& report = *collected.mutable_report();
  report.set_state(wire::RebuildReport::DONE);
  report.set_ended_ns(SystemClock().wall().time_since_epoch().count());
  REELFS_TRY(replace_file(files.report, report.SerializeAsString()));
  REELFS_TRY(remove_tree(files.collected));  // first: without it the rest means nothing
  REELFS_TRY(sync_directory(files.directory));
  REELFS_TRY(remove_tree(files.directory));
  REELFS_TRY(sync_directory(data_dir));
  log().info(
      "rebuilt checkpoint={} last={} entries={} rows={} adopted={} fenced={} lost_segments={} lost_files={}",
      report.checkpoint_index(), report.last_index(), report.entries(), report.rows(),
      report.adopted_segments(), report.fenced_segments(), report.lost_segments(), report.lost_file_count());
  return ok();
}

}  // namespace reelfs::indexd
