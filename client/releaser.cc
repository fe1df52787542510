#include "client/releaser.h"

#include <algorithm>
#include <utility>

#include "client/index_client.h"
#include "common/async/timeout.h"
#include "common/observe/log.h"
#include "common/wire/index.pb.h"

namespace reelfs::client {
namespace {

using namespace std::chrono_literals;

constexpr Duration kCollect = 20ms;
constexpr std::ptrdiff_t kMaxTogether = 1024;

/// Files of which the index is being told; an open of one of them waits.
class Releasing {
 public:
  Releasing(FileTable& table, std::vector<std::shared_ptr<FileState>> files)
      : table_(table), files_(std::move(files)) {
    for (const auto& file : files_) file->releasing = true;
  }
  ~Releasing() {
    for (const auto& file : files_) {
      file->releasing = false;
      file->open_in_index = false;
      file->changed.notify_all();
      table_.forget_unused(file);
    }
  }
  Releasing(const Releasing&) = delete;
  Releasing& operator=(const Releasing&) = delete;

  const std::vector<std::shared_ptr<FileState>>& files() const { return files_; }

 private:
  FileTable& table_;
  const std::vector<std::shared_ptr<FileState>> files_;
};

}  // namespace

FileUse::FileUse(FileTable& files, Releaser& releaser, std::shared_ptr<FileState> file)
    : files_(files), releaser_(releaser), file_(std::move(file)) {
  ++file_->uses;
}

FileUse::~FileUse() {
  if (!file_) return;
  --file_->uses;
  releaser_.give_back(file_);
  files_.forget_unused(file_);
}

Releaser::Releaser(asio::any_io_executor executor, const Clock& clock, IndexClient& index, FileTable& files,
                   std::chrono::milliseconds timeout)
    : clock_(clock), index_(index), files_(files), timeout_(timeout), group_(executor) {}

bool Releaser::is_due(FileState& file) {
  return file.uses == 0 && file.open_in_index && !file.releasing && file.clean();
}

void Releaser::give_back(std::shared_ptr<FileState> file) {
  if (!is_due(*file)) return;
  waiting_.push_back(std::move(file));
  tell_soon();
}

void Releaser::tell_soon() {
  if (!paused_ && !std::exchange(telling_, true)) group_.spawn(tell_all());
}

Task<void> Releaser::pause(Deadline deadline) {
  paused_ = true;
  while (telling_) {
    REELFS_CO_TRY(co_await told_all_.wait(clock_, deadline));
  }
  co_return ok();
}

void Releaser::resume() {
  paused_ = false;
  if (!waiting_.empty()) tell_soon();
}

asio::awaitable<void> Releaser::tell_all() {
  co_await sleep_for(kCollect);
  while (!waiting_.empty() && !paused_) {
    const auto end = waiting_.begin() + std::min(std::ssize(waiting_), kMaxTogether);
    std::vector<std::shared_ptr<FileState>> due;
    for (auto at = waiting_.begin(); at != end; ++at) {
      // Opened again, or given back twice.
      if (is_due(**at) && std::find(due.begin(), due.end(), *at) == due.end()) due.push_back(*at);
    }
    waiting_.erase(waiting_.begin(), end);
    if (!due.empty()) co_await tell(std::move(due));
  }
  telling_ = false;
  told_all_.notify_all();
}

asio::awaitable<void> Releaser::tell(std::vector<std::shared_ptr<FileState>> files) {
  const Releasing releasing(files_, std::move(files));
  ++told_;
  wire::ReleaseRequest request;
  for (const auto& file : releasing.files()) request.add_inodes(file->inode.value);
  const auto until = Deadline::after(clock_, timeout_);
  const auto done = co_await index_.call<wire::Empty>(wire::Method::release, std::move(request), until);
  if (!done && done.error().code() != Errc::cancelled) {
    logger("client.filesystem")
        .warn("files stay open in the index until the session ends files={} error={}",
              releasing.files().size(), done.error().describe());
  }
}

}  // namespace reelfs::client
