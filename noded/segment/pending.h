#pragma once

#include <memory>
#include <optional>
#include <utility>

#include "common/async/event.h"
#include "common/async/task.h"

namespace reelfs::noded {

/// An answer that one coroutine waits for and another work gives, on one loop. Both hold it, so that either
/// may end first.
template <class T>
class Pending {
 public:
  void answer(Result<T> result) {
    if (result_) return;
    result_.emplace(std::move(result));
    event_.set();
  }
  /// @errors cancelled, or what was answered
  static Task<T> wait(std::shared_ptr<Pending> pending) {
    if (!pending->result_) co_await pending->event_.wait();
    if (!pending->result_) co_return Error(Errc::cancelled);
    co_return std::move(*pending->result_);
  }

 private:
  Event event_;
  std::optional<Result<T>> result_;
};

/// The answering side's hold on a Pending: whoever never gets to answer, cancelled or never started, answers
/// `cancelled`.
template <class T>
class Answer {
 public:
  explicit Answer(std::shared_ptr<Pending<T>> pending) : pending_(std::move(pending)) {}
  Answer(Answer&&) noexcept = default;
  Answer& operator=(Answer&&) = delete;
  ~Answer() {
    if (pending_) pending_->answer(Error(Errc::cancelled));
  }
  void give(Result<T> result) { pending_->answer(std::move(result)); }

 private:
  std::shared_ptr<Pending<T>> pending_;
};

}  // namespace reelfs::noded
