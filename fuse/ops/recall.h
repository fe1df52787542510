#pragma once

#include <chrono>
#include <memory>
#include <optional>
#include <utility>

#include "common/async/condition.h"
#include "fuse/ops/mount.h"

namespace reelfs::fuse {

template <class T>
struct Asked {
  std::optional<Result<T>> answer;
  Condition answered;
};

template <class T>
Task<T> ask(Mount& mount, Task<T> question) {
  LastKnown::Question asked(mount.last_known);
  auto answer = co_await std::move(question);
  if (answer) {
    asked.answered();
  } else {
    asked.failed(answer.error().code());
  }
  co_return std::move(answer);
}

template <class T>
Operation ask_for(Mount& mount, std::shared_ptr<Asked<T>> asked, Task<T> question) {
  auto answer = co_await ask(mount, std::move(question));
  asked->answer.emplace(std::move(answer));
  asked->answered.notify_all();
}

/// The index's answer; or, where it does not come within `patience` and something is known, what is known.
/// The question then goes on, so that its answer is known next time. While the index is away nothing is asked
/// for what is known: keep_asking() notices its return.
template <class T>
Task<T> ask_or_recall(Mount& mount, Task<T> question, std::chrono::milliseconds patience,
                      std::optional<T> known) {
  if (!known) co_return co_await ask(mount, std::move(question));
  if (mount.last_known.index_is_away()) co_return std::move(*known);
  const auto asked = std::make_shared<Asked<T>>();
  const auto until = Deadline::after(mount.clock, patience);
  mount.operations.start_background(ask_for(mount, asked, std::move(question)));
  while (!asked->answer) {
    const auto waited = co_await asked->answered.wait(mount.clock, until);
    if (waited) continue;
    if (waited.error().code() == Errc::timed_out) co_return std::move(*known);
    co_return std::move(waited.error());
  }
  co_return std::move(*asked->answer);
}

// Questions whose answers are remembered.
Task<client::Space> ask_space(Mount& mount, InodeId inode);
Task<client::Attributes> ask_attributes(Mount& mount, InodeId inode);
Task<client::Found> ask_channel(Mount& mount, std::string name);

/// Attributes; those of the root and of channels are told though the index is away.
Task<client::Attributes> find_attributes(Mount& mount, InodeId inode);

/// Keeps what is known of the root and its channels fresh, until cancelled.
Operation keep_asking(Mount& mount);

}  // namespace reelfs::fuse
