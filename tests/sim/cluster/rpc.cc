// rpc::Client and rpc::Server without sockets: what common/rpc promises, on the simulated network. Linked
// instead of common/rpc/client.cc and server.cc.
#include <map>
#include <optional>
#include <utility>
#include <vector>

#include <boost/asio/bind_cancellation_slot.hpp>
#include <boost/asio/cancellation_signal.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/system/system_error.hpp>

#include "common/async/event.h"
#include "common/base/assert.h"
#include "common/rpc/client.h"
#include "common/rpc/deadline_queue.h"
#include "common/rpc/server.h"
#include "common/wire/frame.h"
#include "tests/sim/cluster/network.h"

namespace reelfs::rpc {
namespace {

using sim::Frame;
using sim::Link;
using sim::Network;
using LinkPtr = std::shared_ptr<Link>;

constexpr auto kFirstBackoff = std::chrono::milliseconds(10);
constexpr auto kLastBackoff = std::chrono::milliseconds(500);

/// A call under way; lives in its coroutine's frame.
struct Pending {
  Event done;
  std::optional<Result<Reply>> result;
  Deadline deadline;
};

struct InFlight {
  asio::cancellation_signal cancel;
  Deadline deadline{TimePoint::max()};
  bool abandoned = false;
};

}  // namespace

// ---- the server

struct Server::State final : sim::ServerEnd, std::enable_shared_from_this<State> {
  struct Connection {
    Connection(const LinkPtr& by, const asio::any_io_executor& executor, const Clock& clock)
        : link(by), deadlines(executor, clock, [this](std::uint64_t id) { abandon(id); }) {}
    void abandon(std::uint64_t id) {
      const auto found = in_flight.find(id);
      if (found == in_flight.end()) return;
      found->second.abandoned = true;
      found->second.cancel.emit(asio::cancellation_type::all);
    }
    const LinkPtr link;
    DeadlineQueue deadlines;
    std::map<std::uint64_t, InFlight> in_flight;
  };
  using ConnectionPtr = std::shared_ptr<Connection>;

  State(asio::io_context& io, const Clock& time, Handler callback)
      : context(io), clock(time), handler(std::move(callback)), process(*sim::world().current()) {}

  void accepted(LinkPtr link) override {
    connections[link->id] = std::make_shared<Connection>(link, context.get_executor(), clock);
  }
  void broken(const LinkPtr& link) override {
    const auto connection = connections.extract(link->id);
    if (!connection) return;
    close(*connection.mapped());
    if (disconnected) disconnected(link->id);
  }
  static void close(Connection& connection) {
    connection.deadlines.clear();
    std::vector<std::uint64_t> under_way;
    for (const auto& [id, call] : connection.in_flight) under_way.push_back(id);
    for (const auto id : under_way) connection.abandon(id);
  }
  void requested(const LinkPtr& link, Frame frame) override {
    const auto found = connections.find(link->id);
    if (found == connections.end() || frame.deadline <= clock.now()) return;
    Request request;
    request.method = frame.method;
    request.message = std::move(frame.message);
    if (frame.payload) request.payload = Buffer::copy_of(frame.payload->span());
    request.epoch = frame.epoch;
    request.deadline.at = frame.deadline;
    request.connection = link->id;
    request.peer = link->client->name;
    begin(found->second, frame.id, std::move(request));
  }
  void cancelled(const LinkPtr& link, std::uint64_t id) override {
    const auto found = connections.find(link->id);
    if (found != connections.end()) found->second->abandon(id);
  }

  void begin(const ConnectionPtr& connection, std::uint64_t id, Request request) {
    auto& call = connection->in_flight[id];
    call.deadline = request.deadline;
    connection->deadlines.add(call.deadline, id);
    auto ended = [connection, id](const std::exception_ptr& failure) {
      if (failure) {
        try {
          std::rethrow_exception(failure);
        } catch (const boost::system::system_error& error) {
          // Unwound by its cancellation; anything else is a bug.
          if (error.code() != asio::error::operation_aborted) throw;
        }
      }
      const auto found = connection->in_flight.find(id);
      connection->deadlines.remove(found->second.deadline, id);
      connection->in_flight.erase(found);
    };
    asio::co_spawn(context, carry_out(shared_from_this(), connection, id, std::move(request)),
                   asio::bind_cancellation_slot(call.cancel.slot(), std::move(ended)));
  }
  static asio::awaitable<void> carry_out(std::shared_ptr<State> self, ConnectionPtr connection,
                                         std::uint64_t id, Request request) {
    const auto method = request.method;
    const auto asked = request.message;
    auto result = co_await self->handler(std::move(request));
    sim::network().answered(self->process, method, asked, result);
    if (!connection->in_flight.at(id).abandoned) answer(connection->link, id, std::move(result));
  }
  static void answer(const LinkPtr& link, std::uint64_t id, Result<Response> result) {
    Result<Reply> reply = Error(Errc::unavailable);
    if (result) {
      Reply made;
      auto& response = result.value();
      made.message = std::move(response.message);
      if (response.payload) {
        made.payload = Buffer::copy_of(
            response.payload->span().subspan(response.payload_offset, response.payload_bytes));
      }
      reply = std::move(made);
    } else {
      reply = Error(result.error().code(), result.error().message());
    }
    auto shared = std::make_shared<Result<Reply>>(std::move(reply));
    auto arrives = [link, id, shared] {
      if (const auto end = link->client_end.lock()) end->replied(id, std::move(*shared));
    };
    sim::network().send(link, Network::Way::to_client, std::move(arrives));
  }

  asio::io_context& context;
  const Clock& clock;
  const Handler handler;
  sim::Process& process;
  std::map<std::uint64_t, ConnectionPtr> connections;
  std::function<void(std::uint64_t)> disconnected;
  std::vector<Endpoint> endpoints;
};

Server::Server(asio::io_context& context, const Clock& clock, ServerOptions, Handler handler)
    : state_(std::make_shared<State>(context, clock, std::move(handler))) {}
Server::~Server() = default;

Result<Endpoint> Server::listen(const Endpoint& endpoint) {
  REELFS_TRY(auto real, sim::network().listen(state_->process, endpoint, state_));
  state_->endpoints.push_back(real);
  return real;
}
void Server::on_disconnect(std::function<void(std::uint64_t)> callback) {
  state_->disconnected = std::move(callback);
}
asio::awaitable<void> Server::stop() {
  for (const auto& endpoint : state_->endpoints) sim::network().close(endpoint);
  const auto connections = std::exchange(state_->connections, {});
  for (const auto& [id, connection] : connections) {
    State::close(*connection);
    sim::network().break_link(connection->link);
  }
  for (const auto& [id, connection] : connections) {
    while (!connection->in_flight.empty()) co_await sim::pass(std::chrono::milliseconds(1));
  }
}

// ---- the client

struct Client::State final : sim::ClientEnd, std::enable_shared_from_this<State> {
  State(asio::io_context& io, const Clock& time, Endpoint to, ClientOptions chosen)
      : clock(time),
        endpoint(std::move(to)),
        options(std::move(chosen)),
        process(*sim::world().current()),
        deadlines(io.get_executor(), time, [this](std::uint64_t id) {
          end_early(id, Error(Errc::timed_out, "no reply from " + endpoint.to_string()));
        }) {}

  static Task<Reply> call(std::shared_ptr<State> self, Frame frame, Deadline deadline);

  void transmit(Frame frame) {
    auto arrives = [by = link, frame = std::move(frame)] {
      if (const auto end = by->server_end.lock()) end->requested(by, frame);
    };
    sim::network().send(link, Network::Way::to_server, std::move(arrives));
  }
  void connect() {
    if (std::exchange(connecting, true)) return;
    const auto pause = std::max<Duration>(connect_not_before - clock.now(), Duration::zero());
    auto self = shared_from_this();
    auto begin = [self, number = ++attempts] {
      if (self->stopped || number != self->attempts) return;
      sim::network().connect(self->process, self->endpoint, self);
      sim::world().after(self->process, self->options.connect_timeout, [self, number] {
        if (self->connecting && number == self->attempts) self->not_connected("took too long");
      });
    };
    sim::world().after(process, pause, std::move(begin));
  }
  void connected(LinkPtr by) override {
    if (!connecting || stopped) {
      if (by) sim::network().break_link(by);
      return;
    }
    if (!by) return not_connected("refused");
    connecting = false;
    backoff = kFirstBackoff;
    link = std::move(by);
    if (link->broken) return broken(link);
    auto frames = std::exchange(unsent, {});
    for (auto& frame : frames) transmit(std::move(frame));
  }
  void not_connected(const char* why) {
    connecting = false;
    ++attempts;
    connect_not_before = clock.now() + backoff;
    backoff = std::min<Duration>(2 * backoff, kLastBackoff);
    end_all(Error(Errc::unavailable, "connecting to " + endpoint.to_string() + ": " + why));
  }
  void broken(const LinkPtr& by) override {
    if (by != link) return;
    link = nullptr;
    connect_not_before = clock.now() + kFirstBackoff;
    end_all(Error(Errc::unavailable, endpoint.to_string() + ": the connection broke"));
  }
  void replied(std::uint64_t id, Result<Reply> reply) override { finish(id, std::move(reply)); }
  void finish(std::uint64_t id, Result<Reply> result) {
    const auto found = pending.find(id);
    if (found == pending.end()) return;  // it was given up meanwhile
    auto& call = *found->second;
    pending.erase(found);
    deadlines.remove(call.deadline, id);
    call.result.emplace(std::move(result));
    call.done.set();
  }
  void end_early(std::uint64_t id, Error why) {
    finish(id, std::move(why));
    std::erase_if(unsent, [id](const Frame& frame) { return frame.id == id; });
    if (!link) return;
    auto arrives = [by = link, id] {
      if (const auto end = by->server_end.lock()) end->cancelled(by, id);
    };
    sim::network().send(link, Network::Way::to_server, std::move(arrives));
  }
  void end_all(const Error& why) {
    unsent.clear();
    deadlines.clear();
    const auto calls = std::exchange(pending, {});
    for (const auto& [id, call] : calls) {
      call->result.emplace(why);
      call->done.set();
    }
  }

  const Clock& clock;
  const Endpoint endpoint;
  const ClientOptions options;
  sim::Process& process;
  DeadlineQueue deadlines;
  std::map<std::uint64_t, Pending*> pending;
  std::vector<Frame> unsent;
  LinkPtr link;  // null while there is none
  bool connecting = false;
  std::uint64_t attempts = 0;
  std::uint64_t last_id = 0;
  Epoch epoch;
  TimePoint connect_not_before{};
  Duration backoff = kFirstBackoff;
  bool stopped = false;
};

Client::Client(asio::io_context& context, const Clock& clock, Endpoint endpoint, ClientOptions options)
    : state_(std::make_shared<State>(context, clock, std::move(endpoint), std::move(options))) {}
Client::~Client() = default;

const Endpoint& Client::endpoint() const { return state_->endpoint; }
void Client::set_epoch(Epoch epoch) { state_->epoch = epoch; }
Epoch Client::epoch() const { return state_->epoch; }
bool Client::connected() const { return state_->link != nullptr; }
std::vector<PathState> Client::paths() const {
  return {{state_->endpoint, connected(), {}, state_->pending.size(), state_->last_id, 0}};
}

Task<Reply> Client::call(wire::Method method, const google::protobuf::MessageLite& request, Deadline deadline,
                         SharedBuffer payload) {
  Frame frame;
  frame.method = method;
  frame.message = request.SerializeAsString();
  frame.payload = std::move(payload);
  return State::call(state_, std::move(frame), deadline);
}

Task<Reply> Client::State::call(std::shared_ptr<State> self, Frame frame, Deadline deadline) {
  if (self->stopped) co_return Error(Errc::cancelled, "the client was stopped");
  if (deadline.left(self->clock) <= Duration::zero())
    co_return Error(Errc::timed_out, "the deadline has passed");
  const auto id = ++self->last_id;
  frame.id = id;
  frame.epoch = self->epoch;
  frame.deadline = deadline.at;
  Pending pending;
  pending.deadline = deadline;
  self->pending.emplace(id, &pending);
  self->deadlines.add(deadline, id);
  if (self->link) {
    self->transmit(std::move(frame));
  } else {
    self->unsent.push_back(std::move(frame));
    self->connect();
  }
  while (!pending.result) {
    const bool woken = co_await pending.done.wait();
    if (!woken) self->end_early(id, Error(Errc::cancelled, "the caller gave up"));
  }
  co_return std::move(*pending.result);
}

asio::awaitable<void> Client::stop() {
  const auto state = state_;
  state->stopped = true;
  state->end_all(Error(Errc::cancelled, "the client was stopped"));
  if (state->link) sim::network().break_link(state->link);
  state->link = nullptr;
  co_return;
}

}  // namespace reelfs::rpc
