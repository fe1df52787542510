#pragma once

#include <chrono>
#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <utility>

#include <google/protobuf/message_lite.h>

#include "common/async/task.h"
#include "common/base/buffer.h"
#include "common/base/clock.h"
#include "common/base/ids.h"
#include "common/rpc/client.h"
#include "common/rpc/endpoint.h"
#include "common/wire/method.h"

namespace reelfs::rpc {

/// A request as it arrived. The payload's checksum has been compared.
struct Request {
  wire::Method method;
  std::string message;  // serialised
  Buffer payload;
  Epoch epoch;
  Deadline deadline;             // when the caller will have stopped waiting
  std::uint64_t connection = 0;  // unique within the server's life
  std::string peer;              // "10.0.0.7:51234", for logs

  /// @errors protocol: the message does not parse
  template <class M>
  Result<M> parse() const {
    M parsed;
    if (!parsed.ParseFromString(message)) return Error(Errc::protocol, "request does not parse");
    return parsed;
  }
};

/// What a handler answers, made from a message and, where there is one, a payload of which a part is sent.
struct Response {
  std::string message;
  SharedBuffer payload;
  std::size_t payload_offset = 0;
  std::size_t payload_bytes = 0;

  Response() = default;
  explicit Response(const google::protobuf::MessageLite& reply) : message(reply.SerializeAsString()) {}
};

struct ServerOptions {
  std::shared_ptr<const TlsContext> tls;  // null: plain TCP, allowed on loopback addresses only
  std::size_t max_connections = 4096;
  std::size_t max_in_flight_bytes = 256u
                                    << 20;  // requests being carried out, per server; above it reading pauses
  std::size_t max_in_flight_requests = 1024;     // per connection
  std::chrono::milliseconds body_limit{30'000};  // from a request's header, which takes its share, to its end
};

/// Accepts connections and hands each request to one handler. Handlers of one connection are entered in the
/// order of arrival and run concurrently; replies leave as they come. A request whose deadline has passed is
/// dropped unanswered.
///
/// Lives on one io_context, from whose thread alone it is used. `stop()` before destroying.
class Server {
 public:
  using Handler = std::function<Task<Response>(Request)>;

  Server(asio::io_context& context, const Clock& clock, ServerOptions options, Handler handler);
  ~Server();
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  /// Listens and begins to accept.
  /// @return the endpoint with the real port  @errors busy (address in use), bad_config (plain TCP beyond
  /// loopback), invalid
  Result<Endpoint> listen(const Endpoint& endpoint);

  /// Told whenever a connection has ended.
  void on_disconnect(std::function<void(std::uint64_t connection)> callback);

  /// Stops accepting, cancels handlers, closes connections, joins.
  asio::awaitable<void> stop();

 private:
  struct State;
  std::shared_ptr<State> state_;
};

}  // namespace reelfs::rpc
