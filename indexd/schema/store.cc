#include "indexd/schema/store.h"

#include <atomic>
#include <mutex>

#include <fmt/format.h>
#include <rocksdb/cache.h>
#include <rocksdb/filter_policy.h>
#include <rocksdb/listener.h>
#include <rocksdb/table.h>
#include <rocksdb/write_batch.h>

#include "indexd/schema/change.h"
#include "indexd/schema/rocks.h"
#include "indexd/schema/transaction.h"
#include "indexd/schema/view.h"

namespace reelfs::indexd {
namespace {

class FlushListener final : public rocksdb::EventListener {
 public:
  FlushListener(std::function<void()> before, std::function<void()> after)
      : before_(std::move(before)), after_(std::move(after)) {}
  void OnFlushBegin(rocksdb::DB*, const rocksdb::FlushJobInfo&) override {
    if (before_) before_();
  }
  void OnFlushCompleted(rocksdb::DB*, const rocksdb::FlushJobInfo&) override {
    if (after_) after_();
  }

 private:
  std::function<void()> before_;
  std::function<void()> after_;
};

rocksdb::Options rocksdb_options(const Store::Options& options) {
  rocksdb::Options rocks;
  rocks.create_if_missing = true;
  rocks.write_buffer_size = options.buffer_bytes;
  rocks.max_write_buffer_number = 3;
  rocks.compression =
      rocksdb::kNoCompression;  // rows are numbers; the cache then holds what a read needs as it is
  rocks.max_background_jobs = 2;
  rocks.max_open_files = 512;
  rocks.keep_log_file_num = 4;
  rocks.max_log_file_size = 8 << 20;
  rocks.listeners.push_back(std::make_shared<FlushListener>(options.before_flush, options.after_flush));
  rocksdb::BlockBasedTableOptions table;
  table.block_cache = rocksdb::NewLRUCache(options.cache_bytes);
  table.cache_index_and_filter_blocks = true;
  table.pin_l0_filter_and_index_blocks_in_cache = true;
  table.filter_policy.reset(rocksdb::NewBloomFilterPolicy(10));
  rocks.table_factory.reset(rocksdb::NewBlockBasedTableFactory(table));
  return rocks;
}

/// The journal is the log: RocksDB keeps none.
rocksdb::WriteOptions write_options() {
  rocksdb::WriteOptions options;
  options.disableWAL = true;
  return options;
}

Result<JournalPosition> read_position(rocksdb::DB& db, const rocksdb::ReadOptions& options) {
  REELFS_TRY(auto bytes, find_in(db, options, encode_key(AppliedKey{})));
  if (!bytes) return JournalPosition{};
  return decode_row<JournalPosition>(*bytes);
}

}  // namespace

Error from_rocksdb(const rocksdb::Status& status, std::string_view what) {
  const auto code = status.IsCorruption() ? Errc::corrupt : status.IsNoSpace() ? Errc::no_space : Errc::io;
  return Error(code, fmt::format("RocksDB, {}: {}", what, status.ToString()));
}

Result<std::optional<std::string>> find_in(rocksdb::DB& db, const rocksdb::ReadOptions& options,
                                           std::string_view key) {
  std::optional<std::string> value(std::in_place);
  const auto status = db.Get(options, slice(key), &*value);
  if (status.IsNotFound()) {
    value.reset();
  } else if (!status.ok()) {
    return from_rocksdb(status, "reading");
  }
  return value;
}

struct Store::State {
  std::unique_ptr<rocksdb::DB> db;
  mutable std::mutex mutex;
  JournalPosition position;  // guarded by mutex

  Result<void> write(rocksdb::WriteBatch& batch, JournalPosition newest) {
    if (const auto status = batch.Put(encode_key(AppliedKey{}), encode_row(newest)); !status.ok()) {
      return from_rocksdb(status, "collecting changes");
    }
    if (const auto status = db->Write(write_options(), &batch); !status.ok())
      return from_rocksdb(status, "writing");
    const std::scoped_lock lock(mutex);
    position = newest;
    return ok();
  }
};

Store::Store(std::unique_ptr<State> state) : state_(std::move(state)) {}

Store::~Store() = default;

Result<std::unique_ptr<Store>> Store::open(Options options) {
  auto state = std::make_unique<State>();
  rocksdb::DB* db = nullptr;
  const auto status = rocksdb::DB::Open(rocksdb_options(options), options.directory.string(), &db);
  if (!status.ok()) return from_rocksdb(status, fmt::format("opening {}", options.directory.string()));
  state->db.reset(db);
  REELFS_TRY(auto position, read_position(*db, {}));
  state->position = position;
  return std::unique_ptr<Store>(new Store(std::move(state)));
}

JournalPosition Store::position() const {
  const std::scoped_lock lock(state_->mutex);
  return state_->position;
}

Result<JournalPosition> Store::persisted() const {
  rocksdb::ReadOptions options;
  options.read_tier = rocksdb::kPersistedTier;
  return read_position(*state_->db, options);
}

Result<void> Store::apply(Transaction& transaction, JournalPosition position) {
  rocksdb::WriteBatch batch;
  for (const auto& [key, value] : transaction.changes_) {
    const auto status = value ? batch.Put(key, *value) : batch.Delete(key);
    if (!status.ok()) return from_rocksdb(status, "collecting changes");
  }
  REELFS_TRY(state_->write(batch, position));
  transaction.changes_.clear();
  return ok();
}

Result<void> Store::apply(std::string_view changes, JournalPosition position) {
  rocksdb::WriteBatch batch;
  rocksdb::Status status;
  REELFS_TRY(for_each_change(changes, [&](std::string_view key, std::optional<std::string_view> value) {
    if (!status.ok()) return;
    status = value ? batch.Put(slice(key), slice(*value)) : batch.Delete(slice(key));
  }));
  if (!status.ok()) return from_rocksdb(status, "collecting changes");
  return state_->write(batch, position);
}

void Store::repeat(Transaction& transaction, std::string_view key, std::optional<std::string_view> value) {
  transaction.change(std::string(key), value ? std::optional(std::string(*value)) : std::nullopt);
}

View Store::view() const { return View(*this); }

View Store::view_in_memory() const { return View(*this, View::Source::memory); }

Result<void> Store::request_flush() {
  rocksdb::FlushOptions options;
  options.wait = false;
  options.allow_write_stall = true;
  if (const auto status = state_->db->Flush(options); !status.ok()) return from_rocksdb(status, "flushing");
  return ok();
}

Result<void> Store::flush() {
  if (const auto status = state_->db->Flush({}); !status.ok()) return from_rocksdb(status, "flushing");
  return ok();
}

rocksdb::DB& Store::db() const { return *state_->db; }

}  // namespace reelfs::indexd
