#include "common/rpc/client.h"

#include <algorithm>
#include <optional>
#include <unordered_map>
#include <utility>

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/use_awaitable.hpp>

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

constexpr auto kFirstBackoff = std::chrono::milliseconds(10);
constexpr auto kLastBackoff = std::chrono::milliseconds(500);

/// A call under way; lives in its coroutine's frame.
struct Pending {
  Event done;
  std::optional<Result<Reply>> result;
  Deadline deadline;

  void end(Result<Reply> with) {
    result.emplace(std::move(with));
    done.set();
  }
};

Error error_of_reply(const std::string& message) {
  wire::ErrorReply reply;
  if (!reply.ParseFromString(message)) return Error(Errc::protocol, "error reply does not parse");
  const auto code = static_cast<Errc>(reply.code());
  if (reply.code() > UINT16_MAX || to_string(code) == "unknown") {
    return Error(Errc::protocol, "error code " + std::to_string(reply.code()) + ": " + reply.message());
  }
  return Error(code, reply.message());
}

/// One established connection.
struct Connection {
  explicit Connection(tcp::socket socket) : stream(std::move(socket)), reader(stream) {}
  Stream stream;
  FrameReader reader;
  Event sender_ended;
};

}  // namespace

struct Client::State : std::enable_shared_from_this<State> {
  State(asio::io_context& io, const Clock& time, Endpoint to, ClientOptions chosen)
      : context(io),
        clock(time),
        endpoint(std::move(to)),
        options(std::move(chosen)),
        group(io.get_executor()),
        outbox(time),
        deadlines(io.get_executor(), time, [this](std::uint64_t id) {
          end_early(id, Error(Errc::timed_out, "no reply from " + endpoint.to_string()));
        }) {}

  static Task<Reply> call(std::shared_ptr<State> self, OutgoingFrame frame, Deadline deadline);
  static asio::awaitable<void> run(std::shared_ptr<State> self);
  static asio::awaitable<void> send(std::shared_ptr<State> self, std::shared_ptr<Connection> connection);
  Task<void> receive(FrameReader& reader);
  Task<std::shared_ptr<Connection>> connect();
  Task<tcp::socket> connect_socket();
  Task<std::vector<tcp::endpoint>> resolve();

  void finish(std::uint64_t id, Result<Reply> result);
  void end_early(std::uint64_t id, Error why);
  void end_all(const Error& why);

  asio::io_context& context;
  const Clock& clock;
  const Endpoint endpoint;
  const ClientOptions options;
  TaskGroup group;
  Outbox outbox;
  DeadlineQueue deadlines;
  std::unordered_map<std::uint64_t, Pending*> pending;
  std::shared_ptr<Connection> connection;  // null while there is none
  Event work;                              // a call was made
  std::uint64_t last_id = 0;
  Epoch epoch;
  TimePoint connect_not_before{};
  Duration backoff = kFirstBackoff;
  bool running = false;
  bool stopped = false;
};

void Client::State::finish(std::uint64_t id, Result<Reply> result) {
  const auto found = pending.find(id);
  if (found == pending.end()) return;  // it was given up meanwhile
  auto& call = *found->second;
  pending.erase(found);
  deadlines.remove(call.deadline, id);
  call.end(std::move(result));
}

// A request that has left already: the server is told to spare its effort.
void Client::State::end_early(std::uint64_t id, Error why) {
  finish(id, std::move(why));
  if (outbox.remove(id) || !connection) return;
  OutgoingFrame frame;
  frame.header.kind = static_cast<std::uint8_t>(wire::FrameKind::cancel);
  frame.header.request_id = id;
  outbox.push(std::move(frame));
}

void Client::State::end_all(const Error& why) {
  outbox.clear();
  deadlines.clear();
  for (const auto& [id, call] : std::exchange(pending, {})) call->end(why);
}

Task<std::vector<tcp::endpoint>> Client::State::resolve() {
  std::vector<tcp::endpoint> found;
  boost::system::error_code failure;
  const auto address = asio::ip::make_address(endpoint.host, failure);
  if (!failure) {
    found.emplace_back(address, endpoint.port);
    co_return found;
  }
  tcp::resolver resolver(context);
  const auto [error, results] = co_await resolver.async_resolve(endpoint.host, std::to_string(endpoint.port),
                                                                asio::as_tuple(asio::use_awaitable));
  if (error) co_return Error(Errc::unavailable, "looking up " + endpoint.host + ": " + error.message());
  for (const auto& result : results) found.push_back(result.endpoint());
  co_return found;
}

Task<tcp::socket> Client::State::connect_socket() {
  REELFS_CO_TRY(const auto addresses, co_await resolve());
  auto last = Error(Errc::unavailable, endpoint.host + " has no address");
  for (const auto& address : addresses) {
    if (!options.tls && !address.address().is_loopback()) {
      last = Error(Errc::bad_config,
                   "plain TCP is for loopback addresses only; " + endpoint.to_string() + " needs TLS");
      continue;
    }
    tcp::socket socket(context);
    const auto [failure] = co_await socket.async_connect(address, asio::as_tuple(asio::use_awaitable));
    if (!failure) co_return std::move(socket);
    last = Error(Errc::unavailable, "connecting to " + endpoint.to_string() + ": " + failure.message());
  }
  co_return last;
}

Task<std::shared_ptr<Connection>> Client::State::connect() {
  REELFS_CO_TRY(auto socket, co_await connect_socket());
  auto made = std::make_shared<Connection>(std::move(socket));
  if (options.tls) {
    REELFS_CO_TRY(co_await made->stream.start_tls(*options.tls, Stream::Side::client, endpoint.host));
  }
  co_return made;
}

asio::awaitable<void> Client::State::run(std::shared_ptr<State> self) {
  auto& log = logger("rpc.client");
  for (;;) {
    if (self->pending.empty()) {
      co_await self->work.wait();
      continue;
    }
    const auto pause = self->connect_not_before - self->clock.now();
    if (pause > Duration::zero()) {
      co_await sleep_for(pause);
      continue;
    }
    const auto limit = Deadline::after(self->clock, self->options.connect_timeout);
    auto connected = co_await with_timeout(self->clock, limit, self->connect());
    if (!connected) {
      auto why = std::move(connected).error();
      if (why.code() != Errc::bad_config) {
        why = Error(Errc::unavailable, why.code() == Errc::timed_out
                                           ? "connecting to " + self->endpoint.to_string() + " took too long"
                                           : why.message());
      }
      log.debug("not connected peer={} why=\"{}\"", self->endpoint.to_string(), why.message());
      self->connect_not_before = self->clock.now() + self->backoff;
      self->backoff = std::min<Duration>(2 * self->backoff, kLastBackoff);
      self->end_all(why);
      continue;
    }
    self->backoff = kFirstBackoff;
    self->connection = connected.value();
    const auto connection = self->connection;
    self->group.spawn(send(self, connection));
    const auto ended = co_await self->receive(connection->reader);
    connection->stream.close();
    self->outbox.close();
    self->connection = nullptr;
    co_await connection->sender_ended.wait();
    self->connect_not_before = self->clock.now() + kFirstBackoff;
    const auto& why = ended.error();
    const bool usual = why.code() == Errc::unavailable || why.code() == Errc::cancelled;
    const auto level = usual ? spdlog::level::debug : spdlog::level::warn;
    log.log(level, "connection ended peer={} why=\"{}\"", self->endpoint.to_string(), why.describe());
    self->end_all(Error(Errc::unavailable, self->endpoint.to_string() + ": " + why.message()));
  }
}

asio::awaitable<void> Client::State::send(std::shared_ptr<State> self,
                                          std::shared_ptr<Connection> connection) {
  (void)co_await self->outbox.drain(connection->stream, [](const OutgoingFrame&) {});
  connection->stream.close();  // which ends the receiver, and that knows why
  connection->sender_ended.set();
}

/// Returns why no more can be received.
Task<void> Client::State::receive(FrameReader& reader) {
  for (;;) {
    REELFS_CO_TRY(const auto header, co_await reader.read_header());
    Reply reply;
    REELFS_CO_TRY(co_await reader.read_body(header, reply.message, reply.payload));
    if (header.kind == static_cast<std::uint8_t>(wire::FrameKind::reply)) {
      finish(header.request_id, std::move(reply));
    } else if (header.kind == static_cast<std::uint8_t>(wire::FrameKind::error)) {
      finish(header.request_id, error_of_reply(reply.message));
    } else {
      co_return Error(Errc::protocol, "a server does not send frames of kind " + std::to_string(header.kind));
    }
  }
}

Client::Client(asio::io_context& context, const Clock& clock, Endpoint endpoint, ClientOptions options)
    : state_(std::make_shared<State>(context, clock, std::move(endpoint), std::move(options))) {}

Client::~Client() = default;

const Endpoint& Client::endpoint() const { return state_->endpoint; }
void Client::set_epoch(Epoch epoch) { state_->epoch = epoch; }
Epoch Client::epoch() const { return state_->epoch; }
bool Client::connected() const { return state_->connection != nullptr; }

Task<Reply> Client::call(wire::Method method, const google::protobuf::MessageLite& request, Deadline deadline,
                         SharedBuffer payload) {
  OutgoingFrame frame;
  frame.header.kind = static_cast<std::uint8_t>(wire::FrameKind::request);
  frame.header.method = static_cast<std::uint16_t>(method);
  frame.message = request.SerializeAsString();
  if (payload) frame.payload_bytes = payload->size();
  frame.payload = std::move(payload);
  return State::call(state_, std::move(frame), deadline);
}

Task<Reply> Client::State::call(std::shared_ptr<State> self, OutgoingFrame frame, Deadline deadline) {
  if (self->stopped) co_return Error(Errc::cancelled, "the client was stopped");
  if (deadline.left(self->clock) <= Duration::zero())
    co_return Error(Errc::timed_out, "the deadline has passed");
  if (frame.message.size() > wire::kMaxMessageBytes || frame.payload_bytes > wire::kMaxPayloadBytes) {
    co_return Error(Errc::too_big, "request above the frame's limits");
  }
  const auto id = ++self->last_id;
  frame.header.request_id = id;
  frame.header.epoch = self->epoch.value;
  if (deadline.at != TimePoint::max()) frame.deadline = deadline;
  Pending pending;
  pending.deadline = deadline;
  self->pending.emplace(id, &pending);
  self->deadlines.add(deadline, id);
  self->outbox.push(std::move(frame));
  if (!std::exchange(self->running, true)) self->group.spawn(run(self));
  self->work.set();
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
  co_await state->group.stop();
  if (state->connection) state->connection->stream.close();
  state->connection = nullptr;
}

}  // namespace reelfs::rpc
