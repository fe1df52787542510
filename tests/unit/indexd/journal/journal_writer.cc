// journal_writer DIRECTORY: carries out operations there for ever and writes the number of each that was
// answered, eight bytes, to standard output. For a test that kills it. (A program of its own: RocksDB's
// threads do not survive a fork.)

#include <cstdint>
#include <string>

#include <boost/asio/io_context.hpp>
#include <unistd.h>

#include "indexd/journal/executor.h"
#include "tests/unit/common/run.h"

namespace reelfs::indexd {
namespace {

Task<void> put(Executor& executor, std::uint64_t number) {
  auto op = [number](Transaction& txn) -> Result<void> {
    txn.put(SymlinkKey{InodeId{number}}, SymlinkRow{std::to_string(number)});
    return ok();
  };
  co_return co_await executor.run(std::move(op));
}

int run(const char* directory) {
  Executor::Options options;
  options.directory = directory;
  options.journal_file_bytes = 16 << 10;
  options.buffer_bytes = 64 << 10;  // flushes in the middle, too
  asio::io_context context;
  const auto executor = Executor::open(options);
  if (!executor) return 1;
  for (std::uint64_t i = 1; testing::run(context, put(*executor.value(), i)); ++i) {
    if (::write(STDOUT_FILENO, &i, sizeof i) != sizeof i) return 1;
  }
  return 1;
}

}  // namespace
}  // namespace reelfs::indexd

int main(int argc, char** argv) { return argc == 2 ? reelfs::indexd::run(argv[1]) : 1; }
