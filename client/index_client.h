#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "client/cluster_config.h"
#include "common/async/task.h"
#include "common/base/clock.h"
#include "common/base/ids.h"
#include "common/rpc/client.h"

namespace reelfs::client {

/// Calls to the active index server: finds it among the configured ones, opens the session and keeps its lease, and
/// repeats calls that may be repeated (reads always; changes because their request id makes a repetition harmless)
/// until the deadline. After a reconnection the session is resumed with the inodes that are open here.
/// Lives on one io_context.
class IndexClient {
 public:
  struct Options {
    std::string purpose;
    std::chrono::milliseconds timeout{30'000};
    std::shared_ptr<const rpc::TlsContext> tls;
  };
  IndexClient(asio::io_context& context, const Clock& clock, ClusterConfig config, Options options);
  ~IndexClient();
  IndexClient(const IndexClient&) = delete;
  IndexClient& operator=(const IndexClient&) = delete;

  /// @errors unavailable, timed_out, bad_config (another cluster answers)
  Task<void> start();
  asio::awaitable<void> stop();

  SessionId session() const;
  Epoch epoch() const;
  std::uint64_t block_bytes() const;
  /// Told when the index's epoch is first known and whenever it grows.
  void on_epoch(std::function<void(Epoch)> callback);
  /// Asked, when a session is resumed or replaced, which inodes are open here.
  void on_resume(std::function<std::vector<InodeId>()> open_inodes);

  /// One call, repeated until answered or the deadline (by default Options::timeout from now).
  template <class R, class Q>
  Task<R> call(wire::Method method, Q request) {
    prepare(request);
    REELFS_CO_TRY(auto reply, co_await call_raw(method, request));
    R message;
    if (!message.ParseFromString(reply.message)) co_return Error(Errc::protocol, "reply does not parse");
    co_return std::move(message);
  }

 private:
  /// Fills in session and request id where the message has a place for them.
  template <class Q>
  void prepare(Q& request) {
    if constexpr (requires { request.mutable_header(); }) {
      auto& header = *request.mutable_header();
      header.set_session(session().value);
      header.set_request(next_request());
    } else if constexpr (requires { request.set_session(std::uint64_t{}); }) {
      request.set_session(session().value);
    }
  }
  std::uint64_t next_request();
  Task<rpc::Reply> call_raw(wire::Method method, const google::protobuf::MessageLite& request);

  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace reelfs::client
