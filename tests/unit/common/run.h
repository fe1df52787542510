#pragma once

#include <exception>
#include <optional>
#include <utility>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>

#include "common/async/task.h"
#include "common/base/assert.h"

namespace reelfs::testing {

/// Runs the loop until this coroutine has ended. Others may still be under way then.
inline void run(asio::io_context& context, asio::awaitable<void> coroutine) {
  bool ended = false;
  asio::co_spawn(context, std::move(coroutine), [&](const std::exception_ptr& failure) {
    if (failure) std::rethrow_exception(failure);
    ended = true;
  });
  context.restart();
  while (!ended) REELFS_ASSERT(context.run_one() == 1);  // else it waits for what nobody will do
}

template <class T>
asio::awaitable<void> store(asio::awaitable<T> coroutine, std::optional<T>& into) {
  into.emplace(co_await std::move(coroutine));
}

template <class T>
T run(asio::io_context& context, asio::awaitable<T> coroutine) {
  std::optional<T> value;
  run(context, store(std::move(coroutine), value));
  return std::move(*value);
}

}  // namespace reelfs::testing
