#include "client/removed_inodes.h"

#include <algorithm>

#include "client/index_client.h"
#include "common/async/timeout.h"
#include "common/observe/log.h"
#include "common/wire/index.pb.h"

namespace reelfs::client {
namespace {

using namespace std::chrono_literals;

/// What is needed longer than this is opened, well before the index gives it up.
constexpr Duration kYoung = 2s;
/// A tree is removed file by file.
constexpr Duration kCollect = 20ms;
constexpr std::ptrdiff_t kMaxTogether = 1024;

}  // namespace

RemovedInodes::RemovedInodes(asio::any_io_executor executor, const Clock& clock, IndexClient& index,
                             FileTable& files, Releaser& releaser, Open open,
                             std::chrono::milliseconds timeout)
    : clock_(clock),
      index_(index),
      files_(files),
      releaser_(releaser),
      open_(std::move(open)),
      timeout_(timeout),
      group_(executor) {}

RemovedInodes::Use RemovedInodes::use_of(InodeId inode) {
  return std::make_unique<FileUse>(files_, releaser_, files_.obtain(inode));
}

void RemovedInodes::note(InodeId inode) {
  const bool is_new = removed_.try_emplace(inode).second;
  if (!is_new) return;
  young_.emplace_back(clock_.now(), inode);
  work_soon();
}

void RemovedInodes::let_go(InodeId inode) {
  const auto found = removed_.find(inode);
  if (found == removed_.end()) return;
  removed_.erase(found);  // which gives back what is open
  forgotten_.push_back(inode);
  work_soon();
}

void RemovedInodes::keep_open() {
  for (auto& [inode, use] : removed_) {
    if (!use) use = use_of(inode);
    use->file()->open_in_index = true;
  }
  young_.clear();
}

void RemovedInodes::adopt(const std::vector<InodeId>& inodes) {
  for (const auto inode : inodes) removed_.try_emplace(inode);
}

std::vector<InodeId> RemovedInodes::all() const {
  std::vector<InodeId> inodes;
  inodes.reserve(removed_.size());
  for (const auto& [inode, use] : removed_) inodes.push_back(inode);
  return inodes;
}

Task<void> RemovedInodes::pause(Deadline deadline) {
  paused_ = true;
  there_is_more_.notify_all();
  while (working_) {
    REELFS_CO_TRY(co_await idle_.wait(clock_, deadline));
  }
  co_return ok();
}

void RemovedInodes::resume() {
  paused_ = false;
  work_soon();
}

asio::awaitable<void> RemovedInodes::stop() {
  co_await group_.stop();
  for (auto& [inode, use] : removed_) {
    if (use) use->keep();
  }
  removed_.clear();
}

void RemovedInodes::work_soon() {
  there_is_more_.notify_all();
  if (!paused_ && !std::exchange(working_, true)) group_.spawn(work());
}

asio::awaitable<void> RemovedInodes::work() {
  while (!paused_ && (!forgotten_.empty() || !young_.empty())) {
    if (!forgotten_.empty()) {
      co_await tell_forgotten();
      continue;
    }
    const auto [since, inode] = young_.front();
    if (since + kYoung <= clock_.now()) {
      young_.pop_front();
      co_await open(inode);
      continue;
    }
    const auto waited = co_await there_is_more_.wait(clock_, Deadline{since + kYoung});
    if (!waited && waited.error().code() == Errc::cancelled) break;
  }
  working_ = false;
  idle_.notify_all();
}

asio::awaitable<void> RemovedInodes::tell_forgotten() {
  if (std::ssize(forgotten_) < kMaxTogether) co_await sleep_for(kCollect);
  const auto end = forgotten_.begin() + std::min(std::ssize(forgotten_), kMaxTogether);
  wire::ReleaseRequest request;
  for (auto at = forgotten_.begin(); at != end; ++at) request.add_forgotten(at->value);
  forgotten_.erase(forgotten_.begin(), end);
  // Where it is not told, they go a little later.
  const auto until = Deadline::after(clock_, timeout_);
  (void)co_await index_.call<wire::Empty>(wire::Method::release, std::move(request), until);
}

asio::awaitable<void> RemovedInodes::open(InodeId inode) {
  const auto found = removed_.find(inode);
  if (found == removed_.end() || found->second) co_return;
  auto use = use_of(inode);
  const auto opened = co_await open_(use->file());
  const auto still = removed_.find(inode);
  if (still == removed_.end() || still->second) co_return;
  if (opened) {
    still->second = std::move(use);
    co_return;
  }
  if (opened.error().code() == Errc::cancelled) co_return;
  logger("client.filesystem")
      .warn("a removed file may go though it is in use inode={} error={}", inode.value,
            opened.error().describe());
  if (opened.error().code() == Errc::stale_handle) removed_.erase(still);
}

}  // namespace reelfs::client
