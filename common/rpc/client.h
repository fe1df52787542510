#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <google/protobuf/message_lite.h>

#include "common/async/task.h"
#include "common/base/buffer.h"
#include "common/base/clock.h"
#include "common/base/ids.h"
#include "common/rpc/endpoint.h"
#include "common/wire/method.h"

namespace boost::asio {
class io_context;
}

namespace reelfs::rpc {

class TlsContext;

/// What a server answered: the serialised reply message, and raw bytes that were never inside a message.
struct Reply {
  std::string message;
  Buffer payload;
};

struct ClientOptions {
  std::shared_ptr<const TlsContext> tls{};  // null: plain TCP, allowed to loopback addresses only
  std::chrono::milliseconds connect_timeout{1000};
  Traffic traffic = Traffic::clients;  // of a server's addresses, those meant for this come first
  /// Every call may be carried out twice and in any order. Then calls are spread over several addresses, and
  /// one whose connection dies is sent again over another.
  bool repeatable = false;
};

/// How one of a server's addresses does.
struct PathState {
  Endpoint endpoint;
  bool up = false;             // connected, and answers
  Duration latency{};          // of a small request's round trip, smoothed; zero: not known
  std::size_t in_flight = 0;   // calls
  std::uint64_t calls = 0;     // ever
  std::uint64_t failures = 0;  // connections that broke, fell silent or could not be made
};

/// Calls to one server, over a connection to one of its addresses, which is made at the first call and again
/// after it broke. Many calls are in flight at once; requests over one connection leave in the order in which
/// `call` was entered. When the connection breaks, every call under way ends with `unavailable`: it may or
/// may not have been carried out, and whether to repeat it is the caller's to know.
///
/// Where the server has several addresses, those that are meant for this client's traffic are used as long as
/// one of them answers, then the others. One that falls silent while something is asked is left at once, and
/// tried again in the background. docs/design/networks.md
///
/// Lives on one io_context, from whose thread alone it is used. `stop()` before destroying.
class Client {
 public:
  Client(asio::io_context& context, const Clock& clock, Endpoint endpoint, ClientOptions options);
  ~Client();
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  const Endpoint& endpoint() const;
  /// Goes into every request from now on.
  void set_epoch(Epoch epoch);
  Epoch epoch() const;
  bool connected() const;
  /// One for each address, in the order of the endpoint and its others.
  std::vector<PathState> paths() const;

  /// Sends a request and waits for its reply. The request is serialised at once; it is sent when the task is
  /// awaited.
  /// @param payload  raw bytes behind the message, kept alive until sent; null for none. Sent in one gathered
  /// write.
  /// @errors what the server answered; timed_out at the deadline; unavailable; cancelled after stop();
  /// protocol
  Task<Reply> call(wire::Method method, const google::protobuf::MessageLite& request, Deadline deadline,
                   SharedBuffer payload = nullptr);

  /// The same with a reply message of type R and no payload.
  template <class R>
  Task<R> call_for(wire::Method method, const google::protobuf::MessageLite& request, Deadline deadline) {
    return parsed<R>(call(method, request, deadline));
  }

  /// Ends calls under way with `cancelled`, closes the connection, joins its coroutines.
  asio::awaitable<void> stop();

 private:
  template <class R>
  static Task<R> parsed(Task<Reply> answer) {
    REELFS_CO_TRY(auto reply, co_await std::move(answer));
    R message;
    if (!message.ParseFromString(reply.message)) co_return Error(Errc::protocol, "reply does not parse");
    co_return std::move(message);
  }

  struct State;
  std::shared_ptr<State> state_;
};

}  // namespace reelfs::rpc
