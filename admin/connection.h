#pragma once

#include <chrono>
#include <memory>
#include <optional>
#include <string>

#include "client/cluster_config.h"
#include "client/index_client.h"
#include "common/async/task.h"
#include "common/base/result.h"
#include "common/wire/common.pb.h"

namespace reelfs::wire {
class ChannelInfo;
class ListChannelsReply;
class ListNodesReply;
}  // namespace reelfs::wire

namespace reelfs::admin {

/// A cluster as a plain program calls it: each call blocks until it is answered or the timeout is over.
class Connection {
 public:
  /// Opens a session with the active index server, which `call` goes to. @errors unavailable, timed_out,
  /// bad_config
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

  /// Calls a worker process of a node. @errors what it answers; unavailable, timed_out, protocol
  template <class R, class Q>
  Result<R> call_worker(const wire::Endpoint& endpoint, wire::Method method, const Q& request,
                        std::chrono::milliseconds timeout) {
    REELFS_TRY(const auto reply, call_at(endpoint, method, request, timeout));
    R message;
    if (!message.ParseFromString(reply)) return Error(Errc::protocol, "reply does not parse");
    return message;
  }

 private:
  Connection();
  Result<std::string> call_at(const wire::Endpoint& endpoint, wire::Method method,
                              const google::protobuf::MessageLite& request,
                              std::chrono::milliseconds timeout);
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
