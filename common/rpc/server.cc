#include "common/rpc/server.h"

#include <algorithm>
#include <exception>
#include <list>
#include <map>
#include <unordered_map>
#include <vector>

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/bind_cancellation_slot.hpp>
#include <boost/asio/cancellation_signal.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/system/system_error.hpp>

#include "common/async/event.h"
#include "common/async/task_group.h"
#include "common/async/timeout.h"
#include "common/observe/log.h"
#include "common/rpc/deadline_queue.h"
#include "common/rpc/frame_reader.h"
#include "common/rpc/outbox.h"
#include "common/rpc/stream.h"
#include "common/rpc/tls.h"
#include "common/wire/common.pb.h"
#include "common/wire/frame.h"

namespace reelfs::rpc {
namespace {

using asio::ip::tcp;

constexpr auto kHandshakeLimit = std::chrono::seconds(5);
constexpr std::uint64_t kBody = UINT64_MAX;  // among a connection's deadlines: of the body that is being read
constexpr auto kAcceptRetry = std::chrono::milliseconds(100);  // when out of descriptors

spdlog::logger& log() {
  static auto& instance = logger("rpc.server");
  return instance;
}

/// A share of a limited number of bytes. Those who find it used up wait in line.
class ByteBudget {
 public:
  explicit ByteBudget(std::size_t limit) : limit_(limit) {}

  bool fits(std::size_t bytes) const { return used_ == 0 || used_ + bytes <= limit_; }
  void take(std::size_t bytes) { used_ += bytes; }
  void give_back(std::size_t bytes) {
    used_ -= bytes;
    for (auto* waiter : waiters_) waiter->set();
  }
  void add_waiter(Event* waiter) { waiters_.push_back(waiter); }
  void remove_waiter(Event* waiter) { waiters_.remove(waiter); }

 private:
  const std::size_t limit_;
  std::size_t used_ = 0;
  std::list<Event*> waiters_;
};

/// A request being carried out.
struct InFlight {
  asio::cancellation_signal cancel;
  Deadline deadline{TimePoint::max()};
  std::size_t bytes = 0;
  bool abandoned = false;  // nobody waits for the reply
};

struct Connection {
  Connection(std::uint64_t number, tcp::socket socket, const asio::any_io_executor& executor,
             const Clock& clock)
      : id(number),
        stream(std::move(socket)),
        reader(stream),
        outbox(clock),
        deadlines(executor, clock, [this](std::uint64_t id) { expire(id); }) {}

  void expire(std::uint64_t id) {
    if (id != kBody) return abandon(id);
    log().warn("a request stands still half sent peer={}", stream.peer());
    stream.close();  // which ends the receiver
  }

  void abandon(std::uint64_t request) {
    const auto found = in_flight.find(request);
    if (found == in_flight.end()) return;
    found->second.abandoned = true;
    found->second.cancel.emit(asio::cancellation_type::all);
  }

  void close() {
    closing = true;
    stream.close();
    outbox.close();
    deadlines.clear();
    for (auto& [request, call] : in_flight) {
      call.abandoned = true;
      call.cancel.emit(asio::cancellation_type::all);
    }
    changed.set();
  }

  const std::uint64_t id;
  Stream stream;
  FrameReader reader;
  Outbox outbox;
  DeadlineQueue deadlines;
  std::unordered_map<std::uint64_t, InFlight> in_flight;
  Event changed;  // a request ended, a reply left, bytes were given back, or the connection is closing
  std::size_t reply_bytes = 0;  // in the outbox or leaving it
  bool sending = false;
  bool closing = false;
};

/// Says for how long a connection's sender exists, entered or not.
struct Sending {
  explicit Sending(std::shared_ptr<Connection> by) : connection(std::move(by)) { connection->sending = true; }
  ~Sending() {
    connection->stream.close();  // which ends the receiver, and that knows why
    connection->sending = false;
    connection->changed.set();
  }
  Sending(const Sending&) = delete;
  Sending& operator=(const Sending&) = delete;
  const std::shared_ptr<Connection> connection;
};

std::size_t bytes_of(const OutgoingFrame& frame) { return frame.message.size() + frame.payload_bytes; }

}  // namespace

struct Server::State : std::enable_shared_from_this<State> {
  State(asio::io_context& io, const Clock& time, ServerOptions chosen, Handler callback)
      : context(io),
        clock(time),
        options(std::move(chosen)),
        handler(std::move(callback)),
        group(io.get_executor()),
        budget(options.max_in_flight_bytes) {}

  static asio::awaitable<void> accept(std::shared_ptr<State> self, std::shared_ptr<tcp::acceptor> acceptor);
  static asio::awaitable<void> serve(std::shared_ptr<State> self, std::shared_ptr<Connection> connection);
  static asio::awaitable<void> send(std::shared_ptr<State> self, std::unique_ptr<Sending> sending);
  static asio::awaitable<void> carry_out(std::shared_ptr<State> self, std::shared_ptr<Connection> connection,
                                         std::uint64_t request_id, Request request);
  Task<void> receive(std::shared_ptr<Connection> connection);
  Task<void> wait_for_room(Connection& connection, std::size_t bytes);
  void begin(const std::shared_ptr<Connection>& connection, const wire::FrameHeader& header, Request request);
  void answer(Connection& connection, std::uint64_t request_id, Result<Response> result);

  asio::io_context& context;
  const Clock& clock;
  const ServerOptions options;
  const Handler handler;
  TaskGroup group;
  ByteBudget budget;
  std::vector<std::shared_ptr<tcp::acceptor>> acceptors;
  std::map<std::uint64_t, std::shared_ptr<Connection>> connections;
  std::function<void(std::uint64_t)> disconnected;
  std::uint64_t last_connection = 0;
  bool stopping = false;
};

asio::awaitable<void> Server::State::accept(std::shared_ptr<State> self,
                                            std::shared_ptr<tcp::acceptor> acceptor) {
  while (acceptor->is_open()) {
    auto [failure, socket] = co_await acceptor->async_accept(asio::as_tuple(asio::use_awaitable));
    if (failure == asio::error::operation_aborted) co_return;
    if (failure) {
      log().warn("accepting failed why=\"{}\"", failure.message());
      co_await sleep_for(kAcceptRetry);
      continue;
    }
    if (self->connections.size() >= self->options.max_connections) {
      log().warn("connection refused connections={}", self->connections.size());
      continue;
    }
    const auto id = ++self->last_connection;
    auto connection =
        std::make_shared<Connection>(id, std::move(socket), self->context.get_executor(), self->clock);
    self->connections.emplace(id, connection);
    self->group.spawn(serve(self, std::move(connection)));
  }
}

asio::awaitable<void> Server::State::serve(std::shared_ptr<State> self,
                                           std::shared_ptr<Connection> connection) {
  // Ended by close(), not by exceptions: there is something to join.
  co_await asio::this_coro::throw_if_cancelled(false);
  auto ended = Result<void>(ok());
  if (self->options.tls) {
    const auto limit = Deadline::after(self->clock, kHandshakeLimit);
    auto shake_hands = connection->stream.start_tls(*self->options.tls, Stream::Side::server, {});
    ended = co_await with_timeout(self->clock, limit, std::move(shake_hands));
  }
  if (ended && !connection->closing) {
    self->group.spawn(send(self, std::make_unique<Sending>(connection)));
    ended = co_await self->receive(connection);
  }
  if (!connection->closing && ended.has_error()) {
    const bool usual = ended.error().code() == Errc::unavailable || ended.error().code() == Errc::cancelled;
    log().log(usual ? spdlog::level::debug : spdlog::level::warn, "connection ended peer={} why=\"{}\"",
              connection->stream.peer(), ended.error().describe());
  }
  connection->close();
  while (connection->sending || !connection->in_flight.empty()) co_await connection->changed.wait();
  self->budget.give_back(connection->reply_bytes);
  self->connections.erase(connection->id);
  if (self->disconnected) self->disconnected(connection->id);
}

asio::awaitable<void> Server::State::send(std::shared_ptr<State> self, std::unique_ptr<Sending> sending) {
  co_await asio::this_coro::throw_if_cancelled(false);
  auto& connection = *sending->connection;
  const auto sent = [&budget = self->budget, &connection](const OutgoingFrame& frame) {
    connection.reply_bytes -= bytes_of(frame);
    budget.give_back(bytes_of(frame));
    connection.changed.set();
  };
  if (!connection.closing) (void)co_await connection.outbox.drain(connection.stream, sent);
}

/// Returns why no more is received.
Task<void> Server::State::receive(std::shared_ptr<Connection> connection) {
  for (;;) {
    REELFS_CO_TRY(const auto header, co_await connection->reader.read_header());
    const auto kind = static_cast<wire::FrameKind>(header.kind);
    if (kind == wire::FrameKind::cancel) {
      if (header.message_bytes + header.payload_bytes > 0)
        co_return Error(Errc::protocol, "a cancel carries nothing");
      connection->abandon(header.request_id);
      continue;
    }
    if (kind != wire::FrameKind::request) {
      co_return Error(Errc::protocol, "a client does not send frames of kind " + std::to_string(header.kind));
    }
    if (connection->in_flight.contains(header.request_id)) {
      co_return Error(Errc::protocol, "request id used twice at once");
    }
    const auto arrived = clock.now();
    const auto bytes = std::size_t{header.message_bytes} + header.payload_bytes;
    REELFS_CO_TRY(co_await wait_for_room(*connection, bytes));
    budget.take(bytes);
    Request request;
    const Deadline body_due{clock.now() + options.body_limit};
    connection->deadlines.add(body_due, kBody);
    const auto body = co_await connection->reader.read_body(header, request.message, request.payload);
    connection->deadlines.remove(body_due, kBody);
    if (!body) {
      budget.give_back(bytes);
      co_return body.error();
    }
    request.method = static_cast<wire::Method>(header.method);
    request.epoch = Epoch(header.epoch);
    request.deadline.at =
        header.deadline_ms == 0 ? TimePoint::max() : arrived + std::chrono::milliseconds(header.deadline_ms);
    request.connection = connection->id;
    request.peer = connection->stream.peer();
    if (request.deadline.at <= clock.now()) {
      budget.give_back(bytes);
      continue;
    }
    if (request.method == wire::Method::ping) {
      budget.give_back(bytes);
      answer(*connection, header.request_id, Response{});
      continue;
    }
    begin(connection, header, std::move(request));
  }
}

Task<void> Server::State::wait_for_room(Connection& connection, std::size_t bytes) {
  const auto has_room = [&] {
    return connection.in_flight.size() + connection.outbox.size() < options.max_in_flight_requests &&
           budget.fits(bytes);
  };
  if (has_room()) co_return ok();
  budget.add_waiter(&connection.changed);
  while (!connection.closing && !has_room()) co_await connection.changed.wait();
  budget.remove_waiter(&connection.changed);
  if (connection.closing) co_return Error(Errc::cancelled, "connection closed");
  co_return ok();
}

void Server::State::begin(const std::shared_ptr<Connection>& connection, const wire::FrameHeader& header,
                          Request request) {
  const auto id = header.request_id;
  const auto deadline = request.deadline;
  auto& call = connection->in_flight[id];
  call.deadline = deadline;
  call.bytes = std::size_t{header.message_bytes} + header.payload_bytes;
  connection->deadlines.add(deadline, id);
  auto ended = [self = shared_from_this(), connection, id](const std::exception_ptr& failure) {
    if (failure) {
      try {
        std::rethrow_exception(failure);
      } catch (const boost::system::system_error& error) {
        // Unwound by its cancellation; anything else is a bug and ends the process.
        if (error.code() != asio::error::operation_aborted) throw;
      }
    }
    const auto found = connection->in_flight.find(id);
    self->budget.give_back(found->second.bytes);
    connection->deadlines.remove(found->second.deadline, id);
    connection->in_flight.erase(found);
    connection->changed.set();
  };
  // co_spawn enters the handler here and now, which keeps the order of arrival.
  asio::co_spawn(context, carry_out(shared_from_this(), connection, id, std::move(request)),
                 asio::bind_cancellation_slot(call.cancel.slot(), std::move(ended)));
}

asio::awaitable<void> Server::State::carry_out(std::shared_ptr<State> self,
                                               std::shared_ptr<Connection> connection,
                                               std::uint64_t request_id, Request request) {
  auto result = co_await self->handler(std::move(request));
  if (!connection->in_flight.at(request_id).abandoned)
    self->answer(*connection, request_id, std::move(result));
}

void Server::State::answer(Connection& connection, std::uint64_t request_id, Result<Response> result) {
  OutgoingFrame frame;
  frame.header.request_id = request_id;
  if (result && (result.value().message.size() > wire::kMaxMessageBytes ||
                 result.value().payload_bytes > wire::kMaxPayloadBytes)) {
    result = Error(Errc::too_big, "reply above the frame's limits");
  }
  if (result) {
    auto& response = result.value();
    frame.header.kind = static_cast<std::uint8_t>(wire::FrameKind::reply);
    frame.message = std::move(response.message);
    frame.payload = std::move(response.payload);
    frame.payload_offset = response.payload_offset;
    frame.payload_bytes = response.payload_bytes;
  } else {
    wire::ErrorReply reply;
    reply.set_code(static_cast<std::uint32_t>(result.error().code()));
    reply.set_message(result.error().message());
    frame.header.kind = static_cast<std::uint8_t>(wire::FrameKind::error);
    frame.message = reply.SerializeAsString();
  }
  connection.reply_bytes += bytes_of(frame);
  budget.take(bytes_of(frame));
  connection.outbox.push(std::move(frame));
}

Server::Server(asio::io_context& context, const Clock& clock, ServerOptions options, Handler handler)
    : state_(std::make_shared<State>(context, clock, std::move(options), std::move(handler))) {}

Server::~Server() = default;

Result<Endpoint> Server::listen(const Endpoint& endpoint) {
  boost::system::error_code failure;
  tcp::resolver resolver(state_->context);
  const auto found =
      resolver.resolve(endpoint.host, std::to_string(endpoint.port), tcp::resolver::passive, failure);
  if (failure || found.empty()) {
    return Error(Errc::invalid, "cannot listen on " + endpoint.to_string() + ": " + failure.message());
  }
  const auto address = found.begin()->endpoint();
  if (!state_->options.tls && !address.address().is_loopback()) {
    return Error(Errc::bad_config,
                 "plain TCP is for loopback addresses only; " + endpoint.to_string() + " needs TLS");
  }
  auto acceptor = std::make_shared<tcp::acceptor>(state_->context);
  acceptor->open(address.protocol(), failure);
  if (!failure) acceptor->set_option(tcp::acceptor::reuse_address(true), failure);
  if (!failure) acceptor->bind(address, failure);
  if (!failure) acceptor->listen(tcp::acceptor::max_listen_connections, failure);
  if (failure) return from_errno(failure.value(), "listening on " + endpoint.to_string());
  state_->acceptors.push_back(acceptor);
  state_->group.spawn(State::accept(state_, acceptor));
  Endpoint real = endpoint;
  real.port = acceptor->local_endpoint().port();
  return real;
}

void Server::on_disconnect(std::function<void(std::uint64_t)> callback) {
  state_->disconnected = std::move(callback);
}

asio::awaitable<void> Server::stop() {
  const auto state = state_;
  for (const auto& acceptor : state->acceptors) acceptor->close();
  state->acceptors.clear();
  for (const auto& [id, connection] : state->connections) connection->close();
  co_await state->group.stop();
}

}  // namespace reelfs::rpc
