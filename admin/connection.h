#pragma once

#include <chrono>
#include <memory>
#include <optional>
#include <string>

#include "client/cluster_config.h"
#include "client/index_client.h"
#include "common/async/task.h"
#include "common/base/result.h"

namespace reelfs::wire {
class ChannelInfo;
class ListChannelsReply;
class ListNodesReply;
}  // namespace reelfs::wire

namespace reelfs::admin {

/// A cluster's active index server as a plain program calls it: each call blocks until it is answered or the
/// timeout is over.
class Connection {
 public:
  /// Opens a session. @errors unavailable, timed_out, bad_config
  static Result<std::unique_ptr<Connection>> open(const client::ClusterConfig& config,
                                                  std::chrono::milliseconds timeout);
  ~Connection();
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  Result<wire::ListNodesReply> list_nodes();
  Result<wire::ListChannelsReply> list_channels();
  /// @errors not_found, and what to do
  Result<wire::ChannelInfo> find_channel(const std::string& name);

  /// @errors what the index answers; unavailable, timed_out
  template <class R, class Q>
  Result<R> call(wire::Method method, Q request) {
    std::optional<Result<R>> result;
    run(keep(index().call<R>(method, std::move(request)), result));
    return std::move(*result);
  }

 private:
  Connection();
  client::IndexClient& index();
  void run(asio::awaitable<void> coroutine);
  template <class R>
  static asio::awaitable<void> keep(Task<R> task, std::optional<Result<R>>& into) {
    into.emplace(co_await std::move(task));
  }

  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace reelfs::admin
