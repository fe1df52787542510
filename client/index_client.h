#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "client/cluster_config.h"
#include "common/async/task.h"
#include "common/base/clock.h"
#include "common/base/ids.h"
#include "common/rpc/client.h"

namespace reelfs::wire {
class OpenSessionReply;
class OpenSessionRequest;
}  // namespace reelfs::wire

namespace reelfs::client {

/// True where a change that ended so may have been carried out, or may yet be.
bool may_have_happened(Errc code);

/// Calls to the active index server: finds it among the configured ones, opens the session and keeps its
/// lease, and repeats calls that may be repeated (reads always; changes because their request id makes a
/// repetition harmless) until the deadline. After a reconnection the session is resumed with the inodes that
/// are open here. Lives on one io_context.
class IndexClient {
 public:
  struct Options {
    std::string purpose;
    bool opens_nothing = false;  // for who only asks and commands: what was removed need not wait for it
    std::chrono::milliseconds timeout{30'000};
    std::shared_ptr<const rpc::TlsContext> tls;
    SessionId session;               // of another process, to go on with; none: start() opens one
    std::uint64_t last_request = 0;  // of that session: later ones have greater numbers
    std::uint64_t assertion = 0;     // the same
  };
  enum class Ending { close_session, leave_session };
  IndexClient(asio::io_context& context, const Clock& clock, ClusterConfig config, Options options);
  ~IndexClient();
  IndexClient(const IndexClient&) = delete;
  IndexClient& operator=(const IndexClient&) = delete;

  /// Opens the session and begins to renew it. Where it fails the renewing goes on trying, and so does each
  /// later call.
  /// @errors unavailable, timed_out, bad_config (another cluster answers)
  Task<void> start();
  /// Ends calls under way with `cancelled`, closes the session or leaves it to another process, joins.
  asio::awaitable<void> stop(Ending ending = Ending::close_session);

  /// Another process may have the session from now on: it is used while the connection lasts, but not
  /// resumed, which would tell the index what is open here instead of there.
  void yield_session();
  void reclaim_session();

  SessionId session() const;
  /// The greatest number that a request of this session has had.
  std::uint64_t last_request() const;
  Epoch epoch() const;
  std::uint64_t block_bytes() const;
  /// Told when the index's epoch is first known and whenever it grows.
  void on_epoch(std::function<void(Epoch)> callback);
  /// Asked, when a session is resumed or replaced, which inodes are open here.
  void on_resume(std::function<std::vector<InodeId>()> open_inodes);
  /// Who knows what is locked here.
  struct LockCallbacks {
    std::function<void(wire::OpenSessionRequest&)> tell;      // all of it, to be resumed
    std::function<void(const wire::OpenSessionReply&)> told;  // and what of it is lost
    std::function<void()> session_lost;                       // with all of it
  };
  void on_locks(LockCallbacks callbacks);
  /// Grows each time before the index is told what is locked here. What it grants under an earlier one is
  /// not ours.
  std::uint64_t assertion() const;
  /// What the index takes to be locked here may be wrong: it is told anew, soon.
  void assert_locks();

  /// One call, repeated until answered or the deadline.
  /// A change that may have been carried out while the session ran out is not repeated: its request id means
  /// nothing to a later session. It ends with `unavailable`.
  /// @errors what the index answered; at the deadline timed_out or unavailable; cancelled; bad_config
  template <class R, class Q>
  Task<R> call(wire::Method method, Q request, Deadline deadline) {
    constexpr bool kChanges = requires { request.mutable_header(); };
    const auto number = kChanges ? next_request() : RequestId();
    const Stamp stamp = [this, number, begun = now(), &request](SessionId session) {
      if constexpr (requires { request.mutable_header(); }) {
        auto& header = *request.mutable_header();
        header.set_session(session.value);
        header.set_request(number.value);
        header.set_acknowledged_below(acknowledged_below());
      } else if constexpr (requires { request.set_session(std::uint64_t{}); }) {
        request.set_session(session.value);
      }
      if constexpr (requires { request.set_assertion(std::uint64_t{}); }) request.set_assertion(assertion());
      if constexpr (requires { request.set_waited_ms(std::uint64_t{}); }) {
        const auto waited = std::chrono::duration_cast<std::chrono::milliseconds>(now() - begun);
        request.set_waited_ms(static_cast<std::uint64_t>(waited.count()));
      }
    };
    REELFS_CO_TRY(auto reply, co_await call_raw(method, request, stamp, number, deadline));
    R message;
    if (!message.ParseFromString(reply.message)) co_return Error(Errc::protocol, "reply does not parse");
    co_return std::move(message);
  }
  /// The same with Options::timeout from now.
  template <class R, class Q>
  Task<R> call(wire::Method method, Q request) {
    return call<R>(method, std::move(request), default_deadline());
  }

 private:
  /// Fills in session, request id, acknowledged_below and waited_ms where the message has a place for them,
  /// before each try.
  using Stamp = std::function<void(SessionId)>;
  Deadline default_deadline() const;
  TimePoint now() const;
  RequestId next_request();
  std::uint64_t acknowledged_below() const;
  Task<rpc::Reply> call_raw(wire::Method method, const google::protobuf::MessageLite& request,
                            const Stamp& stamp, RequestId number, Deadline deadline);

  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace reelfs::client
