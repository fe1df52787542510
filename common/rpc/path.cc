#include "common/rpc/path.h"

#include <algorithm>
#include <utility>

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/use_awaitable.hpp>

#include "common/async/timeout.h"
#include "common/observe/log.h"
#include "common/rpc/frame_reader.h"
#include "common/rpc/tls.h"
#include "common/wire/common.pb.h"

namespace reelfs::rpc {
namespace {

using asio::ip::tcp;

auto& log() {
  static auto& logger = reelfs::logger("rpc.client");
  return logger;
}

constexpr auto kFirstBackoff = std::chrono::milliseconds(10);
constexpr auto kLastBackoff = std::chrono::milliseconds(500);
constexpr auto kWanted = std::chrono::seconds(60);         // after the last call
constexpr auto kRest = std::chrono::seconds(1);            // between pings
constexpr auto kShortest = std::chrono::microseconds(50);  // what latencies are told apart by
constexpr auto kPatience = std::chrono::milliseconds(60);  // that a call waits in silence
// With kPatience less than what a writer gives a node before it leaves the segment.
constexpr auto kPingLimit = std::chrono::milliseconds(90);
constexpr auto kSilence = std::chrono::milliseconds(60);  // of that; the kernel counts in ticks

Error error_of_reply(const std::string& message) {
  wire::ErrorReply reply;
  if (!reply.ParseFromString(message)) return Error(Errc::protocol, "error reply does not parse");
  const auto code = static_cast<Errc>(reply.code());
  if (reply.code() > UINT16_MAX || to_string(code) == "unknown") {
    return Error(Errc::protocol, "error code " + std::to_string(reply.code()) + ": " + reply.message());
  }
  return Error(code, reply.message());
}

}  // namespace

/// One established connection.
struct Path::Connection {
  explicit Connection(tcp::socket socket) : stream(std::move(socket)), reader(stream) {}
  Stream stream;
  FrameReader reader;
  Event sender_ended;
  Event examiner_ended;
};

Path::Path(asio::io_context& context, const Clock& clock, const Endpoint& address,
           const ClientOptions& options)
    : context_(context),
      clock_(clock),
      endpoint_{address.host, address.port, address.traffic, {}},
      options_(options),
      group_(context.get_executor()),
      outbox_(clock),
      deadlines_(context.get_executor(), clock,
                 [this](std::uint64_t id) {
                   end_early(id, Error(Errc::timed_out, "no reply from " + endpoint_.to_string()));
                 }),
      backoff_(kFirstBackoff) {}

Path::~Path() = default;

void Path::watch(std::function<bool()> another_is_up) { another_is_up_ = std::move(another_is_up); }

void Path::keep_up() {
  if (!is_watched() || stopped_) return;
  const bool was_wanted = is_wanted();
  wanted_until_ = clock_.now() + kWanted;
  if (!was_wanted) start();
}

void Path::start() {
  if (!std::exchange(running_, true)) group_.spawn(run(shared_from_this()));
  work_.set();
}

double Path::cost() const {
  const auto latency = std::chrono::duration<double>(std::max<Duration>(latency_, kShortest)).count();
  return latency * static_cast<double>(pending_.size() + 1) * (1 + kMemory * loss_);
}

PathState Path::state() const {
  const std::size_t own = is_pinging_ ? 1 : 0;
  return {endpoint_, up(), latency_, pending_.size() - own, last_id_ - pings_, failures_};
}

// ---- calls

Task<Reply> Path::call(std::shared_ptr<Path> self, OutgoingFrame frame, Deadline deadline, bool& left) {
  left = false;
  if (self->stopped_) co_return Error(Errc::cancelled, "the client was stopped");
  const auto id = ++self->last_id_;
  frame.header.request_id = id;
  if (deadline.at != TimePoint::max()) frame.deadline = deadline;
  Pending pending;
  pending.deadline = deadline;
  if (self->pending_.empty() && self->is_watched()) {
    self->quiet_since_ = self->clock_.now();
    self->changed_.set();
  }
  self->pending_.emplace(id, &pending);
  self->deadlines_.add(deadline, id);
  self->outbox_.push(std::move(frame));
  self->start();
  while (!pending.result) {
    const bool woken = co_await pending.done.wait();
    if (!woken) self->end_early(id, Error(Errc::cancelled, "the caller gave up"));
  }
  left = pending.left;
  co_return std::move(*pending.result);
}

void Path::finish(std::uint64_t id, Result<Reply> result) {
  const auto found = pending_.find(id);
  if (found == pending_.end()) return;  // it was given up meanwhile
  auto& call = *found->second;
  pending_.erase(found);
  deadlines_.remove(call.deadline, id);
  call.left = true;
  call.end(std::move(result));
}

// A request that has left already: the server is told to spare its effort.
void Path::end_early(std::uint64_t id, Error why) {
  finish(id, std::move(why));
  if (outbox_.remove(id) || !connection_) return;
  OutgoingFrame frame;
  frame.header.kind = static_cast<std::uint8_t>(wire::FrameKind::cancel);
  frame.header.request_id = id;
  outbox_.push(std::move(frame));
}

void Path::end_all(const Error& why) {
  for (const auto& [id, call] : pending_) call->left = is_watched() && !outbox_.remove(id);
  outbox_.clear();
  deadlines_.clear();
  for (const auto& [id, call] : std::exchange(pending_, {})) call->end(why);
}

// ---- the connection

Task<std::vector<tcp::endpoint>> Path::resolve() {
  std::vector<tcp::endpoint> found;
  boost::system::error_code failure;
  const auto address = asio::ip::make_address(endpoint_.host, failure);
  if (!failure) {
    found.emplace_back(address, endpoint_.port);
    co_return found;
  }
  tcp::resolver resolver(context_);
  const auto [error, results] = co_await resolver.async_resolve(
      endpoint_.host, std::to_string(endpoint_.port), asio::as_tuple(asio::use_awaitable));
  if (error) co_return Error(Errc::unavailable, "looking up " + endpoint_.host + ": " + error.message());
  for (const auto& result : results) found.push_back(result.endpoint());
  co_return found;
}

Task<tcp::socket> Path::connect_socket() {
  REELFS_CO_TRY(const auto addresses, co_await resolve());
  auto last = Error(Errc::unavailable, endpoint_.host + " has no address");
  for (const auto& address : addresses) {
    if (!options_.tls && !address.address().is_loopback()) {
      last = Error(Errc::bad_config,
                   "plain TCP is for loopback addresses only; " + endpoint_.to_string() + " needs TLS");
      continue;
    }
    tcp::socket socket(context_);
    const auto [failure] = co_await socket.async_connect(address, asio::as_tuple(asio::use_awaitable));
    if (!failure) co_return std::move(socket);
    last = Error(Errc::unavailable, "connecting to " + endpoint_.to_string() + ": " + failure.message());
  }
  co_return last;
}

Task<std::shared_ptr<Path::Connection>> Path::connect() {
  REELFS_CO_TRY(auto socket, co_await connect_socket());
  auto made = std::make_shared<Connection>(std::move(socket));
  if (options_.tls) {
    REELFS_CO_TRY(co_await made->stream.start_tls(*options_.tls, Stream::Side::client, endpoint_.host));
  }
  co_return made;
}

asio::awaitable<void> Path::run(std::shared_ptr<Path> self) {
  for (;;) {
    if (!self->is_wanted()) {
      co_await self->work_.wait();
      continue;
    }
    const auto pause = self->connect_not_before_ - self->clock_.now();
    if (pause > Duration::zero()) {
      co_await sleep_for(pause);
      continue;
    }
    const auto limit = Deadline::after(self->clock_, self->options_.connect_timeout);
    auto connected = co_await with_timeout(self->clock_, limit, self->connect());
    if (!connected) {
      auto why = std::move(connected).error();
      if (why.code() != Errc::bad_config) {
        why = Error(Errc::unavailable, why.code() == Errc::timed_out
                                           ? "connecting to " + self->endpoint_.to_string() + " took too long"
                                           : why.message());
      }
      log().debug("not connected peer={} why=\"{}\"", self->endpoint_.to_string(), why.message());
      self->connect_not_before_ = self->clock_.now() + self->backoff_;
      self->backoff_ = std::min<Duration>(2 * self->backoff_, kLastBackoff);
      self->failed();
      self->end_all(why);
      continue;
    }
    self->backoff_ = kFirstBackoff;
    self->connection_ = connected.value();
    const auto connection = self->connection_;
    self->group_.spawn(send(self, connection));
    if (self->is_watched()) self->group_.spawn(examine(self, connection));
    const auto ended = co_await self->receive(connection->reader);
    connection->stream.close();
    self->outbox_.close();
    self->connection_ = nullptr;
    self->answered_ = false;
    co_await connection->sender_ended.wait();
    self->connect_not_before_ = self->clock_.now() + kFirstBackoff;
    const auto& why = ended.error();
    const bool usual = why.code() == Errc::unavailable || why.code() == Errc::cancelled;
    const auto level = usual ? spdlog::level::debug : spdlog::level::warn;
    log().log(level, "connection ended peer={} why=\"{}\"", self->endpoint_.to_string(), why.describe());
    self->failed();
    self->end_all(Error(Errc::unavailable, self->endpoint_.to_string() + ": " + why.message()));
    if (self->is_watched()) {
      self->changed_.set();
      co_await connection->examiner_ended.wait();
    }
  }
}

asio::awaitable<void> Path::send(std::shared_ptr<Path> self, std::shared_ptr<Connection> connection) {
  (void)co_await self->outbox_.drain(connection->stream, [](const OutgoingFrame&) {});
  connection->stream.close();  // which ends the receiver, and that knows why
  connection->sender_ended.set();
}

/// Returns why no more can be received.
Task<void> Path::receive(FrameReader& reader) {
  for (;;) {
    REELFS_CO_TRY(const auto header, co_await reader.read_header());
    if (is_watched()) quiet_since_ = clock_.now();
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

asio::awaitable<void> Path::stop() {
  stopped_ = true;
  end_all(Error(Errc::cancelled, "the client was stopped"));
  co_await group_.stop();
  if (connection_) connection_->stream.close();
  connection_ = nullptr;
}

// ---- is there a way?

asio::awaitable<bool> Path::ping(Duration limit) {
  OutgoingFrame frame;
  frame.header.kind = static_cast<std::uint8_t>(wire::FrameKind::request);
  frame.header.method = static_cast<std::uint16_t>(wire::Method::ping);
  bool left = false;
  ++pings_;
  is_pinging_ = true;
  auto asked = call(shared_from_this(), std::move(frame), Deadline::after(clock_, limit), left);
  const auto reply = co_await std::move(asked);
  is_pinging_ = false;
  // An older server refuses what it does not know, which is an answer, too.
  co_return reply ||
      (left && reply.error().code() != Errc::timed_out && reply.error().code() != Errc::unavailable);
}

asio::awaitable<void> Path::wait_for_ping(const Connection& connection) {
  const auto rested = clock_.now() + kRest;
  while (connection_.get() == &connection && !stopped_) {
    const auto due = pending_.empty() ? rested : std::min(rested, quiet_since_ + kPatience);
    if (clock_.now() >= due) co_return;
    (void)co_await with_timeout(clock_, Deadline{due}, wait_for(changed_));
  }
}

asio::awaitable<void> Path::examine(std::shared_ptr<Path> self, std::shared_ptr<Connection> connection) {
  while (self->connection_ == connection && !self->stopped_) {
    const auto asked = self->clock_.now();
    const auto limit = self->answered_ ? Duration(kPingLimit) : Duration(self->options_.connect_timeout);
    const bool answered = co_await self->ping(limit);
    if (self->connection_ != connection) break;
    if (answered) {
      const auto took = self->clock_.now() - asked;
      const bool is_first = self->latency_ == Duration::zero();
      self->latency_ = is_first ? took : self->latency_ + (took - self->latency_) / static_cast<int>(kMemory);
      self->loss_ -= self->loss_ / kMemory;
      if (!std::exchange(self->answered_, true)) log().debug("path up peer={}", self->endpoint_.to_string());
      co_await self->wait_for_ping(*connection);
      continue;
    }
    const bool is_cut = connection->stream.silent_for() >= kSilence;
    if (!self->answered_ || (is_cut && self->another_is_up_())) {
      log().warn("path left peer={} silent_ms={}", self->endpoint_.to_string(),
                 connection->stream.silent_for().count());
      connection->stream.close();  // which ends the receiver, and that ends the calls
      break;
    }
  }
  connection->examiner_ended.set();
}

}  // namespace reelfs::rpc
