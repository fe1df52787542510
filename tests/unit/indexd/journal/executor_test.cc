#include "indexd/journal/executor.h"

#include <atomic>
#include <cerrno>
#include <csignal>
#include <fstream>
#include <future>
#include <map>
#include <string>
#include <vector>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/unit/common/run.h"
#include "tests/unit/indexd/temp_directory.h"

static std::atomic<bool> disk_cannot_sync = false;

/// Stands in for libc's, so that a disk can fail.
extern "C" int fdatasync(int descriptor) {
  if (disk_cannot_sync) {
    errno = EIO;
    return -1;
  }
  return static_cast<int>(::syscall(SYS_fdatasync, descriptor));
}

namespace reelfs::indexd {
namespace {

using testing::TempDirectory;

Executor::Options options_in(const TempDirectory& directory) {
  Executor::Options options;
  options.directory = directory.path() / "index";
  options.cache_bytes = 8 << 20;
  return options;
}

std::unique_ptr<Executor> open(const Executor::Options& options) {
  auto opened = Executor::open(options);
  EXPECT_TRUE(opened) << opened.error().describe();
  return opened ? std::move(opened).value() : nullptr;
}

Task<std::uint64_t> put_symlink(Executor& executor, std::uint64_t number, std::string target) {
  auto op = [number, target](Transaction& txn) -> Result<std::uint64_t> {
    txn.put(SymlinkKey{InodeId{number}}, SymlinkRow{target});
    return txn.next(Counter::inode);
  };
  co_return co_await executor.run(std::move(op));
}

Task<std::string> get_symlink(Executor& executor, std::uint64_t number) {
  auto f = [number](const View& view) -> Result<std::string> {
    REELFS_TRY(auto row, view.get(SymlinkKey{InodeId{number}}));
    return row.target;
  };
  co_return co_await executor.read(std::move(f));
}

std::map<std::string, std::string> everything(asio::io_context& context, Executor& executor) {
  auto f = [](const View& view) -> Result<std::map<std::string, std::string>> {
    std::map<std::string, std::string> rows;
    REELFS_TRY(view.scan_all([&](std::string_view key, std::string_view value) {
      if (key != encode_key(AppliedKey{})) rows.emplace(key, value);
      return true;
    }));
    return rows;
  };
  return testing::run(context, executor.read(std::move(f))).value();
}

TEST(Executor, ReadsWhatWasAnswered) {
  const TempDirectory directory;
  asio::io_context context;
  const auto executor = open(options_in(directory));
  for (std::uint64_t i = 1; i <= 100; ++i) {
    ASSERT_TRUE(testing::run(context, put_symlink(*executor, i, std::to_string(i))));
    EXPECT_EQ(testing::run(context, get_symlink(*executor, i)).value(), std::to_string(i));
  }
}

TEST(Executor, PeeksAtWhatIsInMemoryAndFetchesWhatIsNot) {
  const TempDirectory directory;
  asio::io_context context;
  const auto options = options_in(directory);
  auto executor = open(options);
  int calls = 0;
  const auto peek = [&] {
    auto f = [&calls](const View& view) -> Result<std::string> {
      ++calls;
      REELFS_TRY(auto row, view.get(SymlinkKey{InodeId{150}}));
      return row.target;
    };
    return testing::run(context, executor->peek(std::move(f))).value();
  };
  for (std::uint64_t i = 1; i <= 300; ++i) {  // opening reads some of the blocks
    ASSERT_TRUE(
        testing::run(context, put_symlink(*executor, i, i == 150 ? "target" : std::string(4000, 'x'))));
  }
  EXPECT_EQ(peek(), "target");
  EXPECT_EQ(calls, 1);
  executor.reset();
  executor = open(options);
  EXPECT_EQ(peek(), "target");
  EXPECT_EQ(calls, 3) << "not in memory after a restart";
  EXPECT_EQ(peek(), "target");
  EXPECT_EQ(calls, 4) << "but from then on";
}

TEST(Executor, PeeksAtFewRowsOnly) {
  const TempDirectory directory;
  asio::io_context context;
  const auto executor = open(options_in(directory));
  const std::uint64_t count = View::kMaxRows + 1;
  for (std::uint64_t i = 1; i <= count; ++i)
    ASSERT_TRUE(testing::run(context, put_symlink(*executor, i, "")));
  int calls = 0;
  auto f = [&calls](const View& view) -> Result<std::uint64_t> {
    ++calls;
    std::uint64_t rows = 0;
    REELFS_TRY(view.scan_table<SymlinkKey>([&](SymlinkKey, const SymlinkRow&) { return ++rows > 0; }));
    return rows;
  };
  EXPECT_EQ(testing::run(context, executor->peek(std::move(f))).value(), count);
  EXPECT_EQ(calls, 2) << "a scan";
  auto one_by_one = [&calls, count](const View& view) -> Result<std::uint64_t> {
    ++calls;
    for (std::uint64_t i = 1; i <= count; ++i) {
      REELFS_TRY(const auto row, view.get(SymlinkKey{InodeId{i}}));
    }
    return count;
  };
  EXPECT_EQ(testing::run(context, executor->peek(std::move(one_by_one))).value(), count);
  EXPECT_EQ(calls, 4) << "and as many single rows";
}

TEST(Executor, ChangesNothingWhereTheOperationFails) {
  const TempDirectory directory;
  asio::io_context context;
  const auto executor = open(options_in(directory));
  ASSERT_TRUE(testing::run(context, put_symlink(*executor, 1, "before")));
  const auto before = everything(context, *executor);
  const auto index = executor->journal_index();
  auto op = [](Transaction& txn) -> Result<int> {
    txn.put(SymlinkKey{InodeId{1}}, SymlinkRow{"after"});
    txn.put(SymlinkKey{InodeId{2}}, SymlinkRow{"after"});
    txn.erase(CounterKey{Counter::inode});
    return Error(Errc::not_empty, "thought better of it");
  };
  const auto result = testing::run(context, executor->run(std::move(op)));
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().code(), Errc::not_empty);
  EXPECT_EQ(everything(context, *executor), before);
  EXPECT_EQ(executor->journal_index(), index);
}

TEST(Executor, OperationsInFlightTogetherSeeThoseBefore) {
  const TempDirectory directory;
  asio::io_context context;
  const auto executor = open(options_in(directory));
  std::vector<std::uint64_t> numbers;
  int ended = 0;
  const auto take_number = [](Executor& on, std::uint64_t i,
                              std::vector<std::uint64_t>& into) -> asio::awaitable<void> {
    auto number = co_await put_symlink(on, i, "x");
    into.push_back(number.value());
  };
  for (std::uint64_t i = 0; i < 500; ++i) {
    asio::co_spawn(context, take_number(*executor, i, numbers), [&](const std::exception_ptr&) { ++ended; });
  }
  context.run();
  ASSERT_EQ(ended, 500);
  // In order, without gaps: each saw the counter as its predecessor, perhaps of the same group, had left it.
  for (std::uint64_t i = 0; i < 500; ++i) ASSERT_EQ(numbers[i], i + 2);
}

TEST(Executor, RefusesASecondProcessOnOneDirectory) {
  const TempDirectory directory;
  const auto executor = open(options_in(directory));
  const auto second = Executor::open(options_in(directory));
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().code(), Errc::busy);
}

TEST(Executor, EveryOpeningIsANewEpoch) {
  const TempDirectory directory;
  for (std::uint64_t epoch = 1; epoch <= 3; ++epoch)
    EXPECT_EQ(open(options_in(directory))->epoch(), Epoch{epoch});
  auto options = options_in(directory);
  options.epoch = Epoch{9};
  EXPECT_EQ(open(options)->epoch(), Epoch{9});
  options.epoch = Epoch{5};
  const auto refused = Executor::open(options);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code(), Errc::stale_epoch);
}

TEST(Executor, SyncPutsEverythingAnsweredOnStableStorage) {
  const TempDirectory directory;
  auto options = options_in(directory);
  options.sync_interval = std::chrono::hours(1);
  asio::io_context context;
  const auto executor = open(options);
  ASSERT_TRUE(testing::run(context, put_symlink(*executor, 1, "a")));
  EXPECT_LT(executor->synced_index(), executor->journal_index());
  ASSERT_TRUE(testing::run(context, executor->sync()));
  EXPECT_EQ(executor->synced_index(), executor->journal_index());
  ASSERT_TRUE(testing::run(context, executor->sync()));
}

TEST(Executor, TheJournalAloneBringsEverythingBack) {
  const TempDirectory directory;
  auto options = options_in(directory);
  options.journal_file_bytes = 4096;  // many files
  std::map<std::string, std::string> before;
  {
    asio::io_context context;
    const auto executor = open(options);
    // Only what RocksDB has flushed is removed from the journal, and nothing has been yet: copy the journal.
    for (std::uint64_t i = 1; i <= 300; ++i) {
      ASSERT_TRUE(testing::run(
          context, put_symlink(*executor, i % 50, std::string(100, static_cast<char>('a' + i % 26)))));
    }
    ASSERT_TRUE(testing::run(context, executor->sync()));
    before = everything(context, *executor);
    std::filesystem::copy(options.directory / "journal", directory.path() / "saved");
  }
  std::filesystem::remove_all(options.directory);
  std::filesystem::create_directories(options.directory);
  std::filesystem::rename(directory.path() / "saved", options.directory / "journal");
  asio::io_context context;
  EXPECT_EQ(everything(context, *open(options)), before);
}

TEST(Executor, RemovesJournalFilesThatRocksDbHasMadePermanent) {
  const TempDirectory directory;
  auto options = options_in(directory);
  options.journal_file_bytes = 64 << 10;
  options.replay_bytes = 256 << 10;
  asio::io_context context;
  const auto executor = open(options);
  const auto first = options.directory / "journal" / "journal-00000000000000000001.log";
  ASSERT_TRUE(std::filesystem::exists(first));
  for (std::uint64_t i = 1; std::filesystem::exists(first); ++i) {
    ASSERT_LT(i, 100'000U) << "the first file is never removed";
    ASSERT_TRUE(testing::run(context, put_symlink(*executor, i % 7, std::string(4096, 'x'))));
  }
}

TEST(Executor, AcceptsNothingOnceTheJournalCannotBeWritten) {
  const TempDirectory directory;
  asio::io_context context;
  {
    const auto executor = open(options_in(directory));
    ASSERT_TRUE(testing::run(context, put_symlink(*executor, 1, "kept")));
    ASSERT_TRUE(testing::run(context, executor->sync()));
    const auto before = everything(context, *executor);

    // A limit on the size of files stands in for a full disk.
    struct rlimit unlimited {};
    ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &unlimited), 0);
    const auto on_limit = std::signal(SIGXFSZ, SIG_IGN);
    const auto file = options_in(directory).directory / "journal" / "journal-00000000000000000001.log";
    auto limited = unlimited;
    limited.rlim_cur = std::filesystem::file_size(file) + 20;  // tears the entry
    ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &limited), 0);
    const auto torn = testing::run(context, put_symlink(*executor, 1, "lost"));
    ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &unlimited), 0);
    std::signal(SIGXFSZ, on_limit);

    ASSERT_FALSE(torn);
    EXPECT_EQ(torn.error().code(), Errc::io);
    EXPECT_EQ(std::filesystem::file_size(file), limited.rlim_cur);
    const auto refused = testing::run(context, put_symlink(*executor, 2, "lost"));
    ASSERT_FALSE(refused) << "though it could be written now";
    EXPECT_EQ(refused.error().code(), Errc::io);
    EXPECT_FALSE(testing::run(context, executor->sync()));
    EXPECT_EQ(everything(context, *executor), before);
  }
  const auto executor = open(options_in(directory));
  EXPECT_EQ(testing::run(context, get_symlink(*executor, 1)).value(), "kept");
  EXPECT_TRUE(testing::run(context, put_symlink(*executor, 2, "new")));
}

TEST(Executor, RefusesOperationsThatASyncFailedUnder) {
  const TempDirectory directory;
  auto options = options_in(directory);
  options.sync_interval = std::chrono::hours(1);
  asio::io_context context;
  const auto executor = open(options);
  ASSERT_TRUE(testing::run(context, put_symlink(*executor, 1, "kept")));
  const auto before = everything(context, *executor);

  std::promise<void> begun;
  std::promise<void> failed;
  auto op = [&](Transaction& txn) -> Result<int> {
    begun.set_value();
    failed.get_future().wait();
    txn.put(SymlinkKey{InodeId{2}}, SymlinkRow{"lost"});
    return 0;
  };
  std::optional<Result<int>> answer;
  bool ended = false;
  asio::co_spawn(context, testing::store(executor->run(std::move(op)), answer),
                 [&](const std::exception_ptr&) { ended = true; });
  context.restart();
  context.poll();
  begun.get_future().wait();
  disk_cannot_sync = true;
  EXPECT_FALSE(testing::run(context, executor->sync()));
  disk_cannot_sync = false;
  failed.set_value();
  while (!ended) context.run_one();
  ASSERT_FALSE(*answer);
  EXPECT_EQ(answer->error().code(), Errc::io);
  EXPECT_EQ(everything(context, *executor), before);
}

TEST(Executor, EveryAnsweredOperationSurvivesAKill) {
  const TempDirectory directory;
  auto options = options_in(directory);
  for (const std::uint64_t kill_after : {1, 50, 3000}) {
    int ends[2];
    ASSERT_EQ(::pipe(ends), 0);
    const auto child = ::fork();
    if (child == 0) {
      ::dup2(ends[1], STDOUT_FILENO);
      ::execl(REELFS_JOURNAL_WRITER, REELFS_JOURNAL_WRITER, options.directory.c_str(), nullptr);
      ::_exit(1);
    }
    ::close(ends[1]);
    std::uint64_t answered = 0;
    std::uint64_t number = 0;
    while (answered < kill_after && ::read(ends[0], &number, sizeof number) == sizeof number)
      answered = number;
    ASSERT_EQ(::kill(child, SIGKILL), 0);
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    ASSERT_TRUE(WIFSIGNALED(status));
    while (::read(ends[0], &number, sizeof number) == sizeof number) answered = number;
    ::close(ends[0]);

    asio::io_context context;
    const auto executor = open(options);
    for (std::uint64_t i = 1; i <= answered; ++i) {
      ASSERT_EQ(testing::run(context, get_symlink(*executor, i)).value(), std::to_string(i))
          << "of " << answered;
    }
  }
}

}  // namespace
}  // namespace reelfs::indexd
