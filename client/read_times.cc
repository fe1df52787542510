#include "client/read_times.h"

#include <utility>

#include "client/index_client.h"
#include "common/async/timeout.h"
#include "common/observe/log.h"
#include "common/wire/index.pb.h"

namespace reelfs::client {
namespace {

using namespace std::chrono_literals;

constexpr Duration kCollect = 1s;
constexpr Duration kPatience = 5s;
constexpr Duration kLastPatience = 1s;
constexpr std::size_t kMaxTogether = 4096;  // the index's own limit

}  // namespace

ReadTimes::ReadTimes(asio::any_io_executor executor, const Clock& clock, IndexClient& index, FileTable& files)
    : clock_(clock), index_(index), files_(files), group_(executor) {}

void ReadTimes::note(const Attributes& known) {
  const auto now = clock_.wall().time_since_epoch().count();
  if (!files_.note_read(known, now)) return;
  if (!std::exchange(telling_, true)) group_.spawn(tell_later());
}

asio::awaitable<void> ReadTimes::tell_later() {
  co_await sleep_for(kCollect);
  const auto told = co_await tell(Deadline::after(clock_, kPatience));
  telling_ = false;
  if (told || told.error().code() == Errc::cancelled) co_return;
  logger("client.filesystem").debug("times of reads are dropped error={}", told.error().describe());
  files_.drop_reads();
}

Task<void> ReadTimes::tell(Deadline deadline) {
  for (auto reads = files_.reads(kMaxTogether); !reads.empty(); reads = files_.reads(kMaxTogether)) {
    wire::NoteReadsRequest request;
    for (const auto& [inode, read_ns] : reads) {
      auto& read = *request.add_files();
      read.set_inode(inode.value);
      read.set_read_ns(read_ns);
    }
    REELFS_CO_TRY(co_await index_.call<wire::Empty>(wire::Method::note_reads, std::move(request), deadline));
    files_.reads_told(reads);
  }
  co_return ok();
}

asio::awaitable<void> ReadTimes::stop() {
  co_await group_.stop();
  const auto told = co_await tell(Deadline::after(clock_, kLastPatience));
  if (!told)
    logger("client.filesystem").debug("times of reads are dropped error={}", told.error().describe());
}

}  // namespace reelfs::client
