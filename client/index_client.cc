#include "client/index_client.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <optional>
#include <set>

#include <boost/asio/io_context.hpp>
#include <sys/types.h>
#include <unistd.h>

#include "common/async/condition.h"
#include "common/async/event.h"
#include "common/async/task_group.h"
#include "common/async/timeout.h"
#include "common/base/assert.h"
#include "common/observe/log.h"
#include "common/wire/common.pb.h"
#include "common/wire/index.pb.h"

namespace reelfs::client {
namespace {

using namespace std::chrono_literals;

constexpr Duration kFirstBackoff = 10ms;
constexpr Duration kLongestBackoff = 500ms;
// How long one of several index servers may be silent before another is asked.
constexpr Duration kPatience = 2s;
constexpr Duration kOpenSessionPatience = 5s;
// The session runs out by itself where the index cannot be told.
constexpr Duration kCloseSessionPatience = 2s;
constexpr Duration kFirstLease = 3s;
// How long a call waits once no index server has answered anything for the whole timeout: a command that
// makes many calls is then not held for the timeout by each of them.
constexpr Duration kAwayPatience = 1s;

spdlog::logger& log() { return logger("client.index"); }

std::string host_name() {
  std::array<char, 256> name{};
  if (::gethostname(name.data(), name.size() - 1) != 0) return "unknown";
  return name.data();
}

// True where an index server has said so, and not we ourselves for want of an answer.
bool is_answer(Errc code) {
  return code != Errc::unavailable && code != Errc::timed_out && code != Errc::cancelled;
}

}  // namespace

bool may_have_happened(Errc code) {
  return code == Errc::unavailable || code == Errc::timed_out || code == Errc::cancelled;
}

struct IndexClient::State {
  State(asio::io_context& io, const Clock& machine_clock, ClusterConfig cluster, Options opts)
      : context(io),
        clock(machine_clock),
        config(std::move(cluster)),
        options(std::move(opts)),
        session(options.session),
        last_request(options.last_request),
        assertion(options.assertion),
        background(io.get_executor()) {
    for (const auto& endpoint : config.indexes) {
      rpc::ClientOptions client_options;
      client_options.tls = options.tls;
      servers.push_back(std::make_unique<rpc::Client>(context, clock, endpoint, client_options));
    }
  }

  rpc::Client& server() { return *servers[active]; }
  Deadline within(Deadline deadline, Duration patience) const {
    return {std::min(deadline.at, clock.now() + patience)};
  }
  // The server that was asked under this connection did not answer as the active one.
  void lost(std::uint64_t asked_under) {
    if (asked_under != connection) return;
    ++connection;
    connected = false;
    active = (active + 1) % servers.size();
  }
  // The connection may have broken while nobody called: the server behind it may have forgotten what is open
  // here.
  void notice_silent_loss() {
    if (!connected || server().connected()) return;
    ++connection;
    connected = false;
  }

  void answered() { silent_since.reset(); }
  // The deadline of a call that begins now.
  Deadline begin_call(Deadline deadline) {
    if (!silent_since) silent_since = clock.now();
    const bool away = clock.now() - *silent_since >= options.timeout;
    return away ? within(deadline, kAwayPatience) : deadline;
  }

  Task<void> ensure_session(Deadline deadline);
  Task<void> open_session(Deadline deadline);
  Task<void> try_open(SessionId resume, std::vector<InodeId> inodes, Deadline deadline);
  asio::awaitable<void> reopen(std::vector<InodeId> inodes, Deadline deadline);
  asio::awaitable<void> keep_session();
  asio::awaitable<void> resume_now();

  asio::io_context& context;
  const Clock& clock;
  const ClusterConfig config;
  const Options options;

  std::vector<std::unique_ptr<rpc::Client>> servers;
  std::size_t active = 0;                 // into servers
  std::uint64_t connection = 1;           // grows whenever the session has to be opened or resumed
  bool connected = false;                 // the session is open on the active server
  std::optional<TimePoint> silent_since;  // when a call began, where nothing has been answered since
  bool opening = false;
  Condition opened;

  SessionId session;
  Epoch epoch;
  std::uint64_t block_bytes = 0;
  Duration lease = kFirstLease;

  std::uint64_t last_request;
  std::set<std::uint64_t> unanswered;

  std::function<void(Epoch)> epoch_callback;
  std::function<std::vector<InodeId>()> open_inodes;
  LockCallbacks locks;
  std::uint64_t assertion;

  bool yielded = false;
  bool stopping = false;
  Condition stop_began;
  std::size_t calls = 0;  // under way
  Event idle;
  TaskGroup background;
};

Task<void> IndexClient::State::try_open(SessionId resume, std::vector<InodeId> inodes, Deadline deadline) {
  wire::OpenSessionRequest request;
  request.set_host(host_name());
  request.set_pid(static_cast<std::uint32_t>(::getpid()));
  request.set_purpose(options.purpose);
  request.set_opens_nothing(options.opens_nothing);
  request.set_resume(resume.value);
  for (const auto inode : inodes) request.add_open_inodes(inode.value);
  request.set_lock_assertion(++assertion);
  if (locks.tell) locks.tell(request);
  REELFS_CO_TRY(const auto reply,
                co_await server().call_for<wire::OpenSessionReply>(wire::Method::open_session, request,
                                                                   within(deadline, kOpenSessionPatience)));
  answered();
  if (!config.cluster.is_nil() && reply.cluster() != config.cluster.raw()) {
    const auto answered = Uuid::from_bytes(reply.cluster());
    co_return Error(Errc::bad_config, "the index server at " + server().endpoint().to_string() +
                                          " is of cluster " +
                                          (answered ? answered.value().to_string() : std::string("?")) +
                                          ", not of " + config.cluster.to_string());
  }
  session = SessionId(reply.session());
  block_bytes = reply.block_bytes();
  if (reply.lease_ms() > 0) lease = std::chrono::milliseconds(reply.lease_ms());
  if (locks.told) locks.told(reply);
  const bool epoch_grew = Epoch(reply.epoch()) > epoch;
  epoch = std::max(epoch, Epoch(reply.epoch()));
  for (const auto& each : servers) each->set_epoch(epoch);
  if (epoch_grew && epoch_callback) epoch_callback(epoch);
  co_return ok();
}

Task<void> IndexClient::State::open_session(Deadline deadline) {
  std::vector<InodeId> inodes;
  if (open_inodes) inodes = open_inodes();
  if (session) {
    auto resumed = co_await try_open(session, inodes, deadline);
    if (resumed) {
      log().info("session resumed session={} index={}", session.value, server().endpoint().to_string());
      connected = true;
      co_return ok();
    }
    if (resumed.error().code() != Errc::no_session) co_return std::move(resumed.error());
    log().warn("session lost, opening another session={}", session.value);
    if (locks.session_lost) locks.session_lost();
  }
  REELFS_CO_TRY(co_await try_open(SessionId(), inodes, deadline));
  co_await reopen(std::move(inodes), deadline);
  connected = true;
  log().info("session opened session={} index={} epoch={}", session.value, server().endpoint().to_string(),
             epoch.value);
  co_return ok();
}

// A new session knows nothing of what the one before it had open. What is gone meanwhile stays gone: its
// handles answer stale_handle or not_found from now on.
asio::awaitable<void> IndexClient::State::reopen(std::vector<InodeId> inodes, Deadline deadline) {
  for (const auto inode : inodes) {
    wire::OpenRequest request;
    request.set_session(session.value);
    request.set_inode(inode.value);
    const auto reply = co_await server().call(wire::Method::open, request, deadline);
    if (!reply)
      log().warn("open file not carried over inode={} error={}", inode.value, reply.error().describe());
  }
}

Task<void> IndexClient::State::ensure_session(Deadline deadline) {
  notice_silent_loss();
  while (!connected) {
    if (stopping) co_return Error(Errc::cancelled, "stopping");
    if (yielded) co_return Error(Errc::unavailable, "another process has the session");
    if (opening) {
      REELFS_CO_TRY(co_await opened.wait(clock, deadline));
      continue;
    }
    // Also where this coroutine is cancelled halfway, another takes over.
    struct Opening {
      State& state;
      explicit Opening(State& s) : state(s) { state.opening = true; }
      ~Opening() {
        state.opening = false;
        state.opened.notify_all();
      }
    };
    const Opening guard(*this);
    const auto asked_under = connection;
    auto result = co_await open_session(deadline);
    if (result) break;
    lost(asked_under);
    co_return std::move(result.error());
  }
  co_return ok();
}

asio::awaitable<void> IndexClient::State::keep_session() {
  auto backoff = kFirstBackoff;
  while (!stopping) {
    const auto deadline = Deadline::after(clock, lease);
    auto ready = co_await ensure_session(deadline);
    const auto asked_under = connection;
    if (ready) {
      wire::RenewSessionRequest request;
      request.set_session(session.value);
      const auto reply =
          co_await server().call_for<wire::RenewSessionReply>(wire::Method::renew_session, request, deadline);
      if (reply) {
        answered();
        if (reply.value().lease_ms() > 0) lease = std::chrono::milliseconds(reply.value().lease_ms());
        backoff = kFirstBackoff;
        co_await sleep_for(lease / 3);
        continue;
      }
      if (reply.error().code() == Errc::cancelled) co_return;
      log().warn("session not renewed error={}", reply.error().describe());
      lost(asked_under);
    } else if (ready.error().code() == Errc::cancelled) {
      co_return;
    }
    co_await sleep_for(backoff);
    backoff = std::min(2 * backoff, kLongestBackoff);
  }
}

asio::awaitable<void> IndexClient::State::resume_now() {
  // Where it fails the next call or renewal tries again.
  (void)co_await ensure_session(Deadline::after(clock, lease));
}

IndexClient::IndexClient(asio::io_context& context, const Clock& clock, ClusterConfig config, Options options)
    : state_(std::make_unique<State>(context, clock, std::move(config), std::move(options))) {
  REELFS_ASSERT(!state_->servers.empty());
}

IndexClient::~IndexClient() = default;

Task<void> IndexClient::start() {
  const auto deadline = default_deadline();
  auto backoff = kFirstBackoff;
  // Whatever becomes of this try: the cluster may come up later.
  struct KeepLater {
    State& state;
    explicit KeepLater(State& s) : state(s) {}
    ~KeepLater() { state.background.spawn(state.keep_session()); }
  };
  const KeepLater keep(*state_);
  while (true) {
    auto ready = co_await state_->ensure_session(deadline);
    if (ready) co_return ok();
    if (!is_retryable(ready.error().code())) co_return std::move(ready.error());
    if (deadline.left(state_->clock) <= backoff)
      co_return std::move(ready.error()).within("no index server answers");
    co_await sleep_for(backoff);
    backoff = std::min(2 * backoff, kLongestBackoff);
  }
}

asio::awaitable<void> IndexClient::stop(Ending ending) {
  state_->stopping = true;
  state_->stop_began.notify_all();
  state_->opened.notify_all();
  co_await state_->background.stop();
  if (state_->connected && ending == Ending::close_session) {
    wire::CloseSessionRequest request;
    request.set_session(state_->session.value);
    const auto deadline = Deadline::after(state_->clock, kCloseSessionPatience);
    const auto closed = co_await state_->server().call(wire::Method::close_session, request, deadline);
    if (!closed) log().warn("session not closed, it will run out error={}", closed.error().describe());
    state_->connected = false;
  }
  for (const auto& server : state_->servers) co_await server->stop();
  while (state_->calls > 0) co_await state_->idle.wait();
}

void IndexClient::yield_session() { state_->yielded = true; }
void IndexClient::reclaim_session() { state_->yielded = false; }

SessionId IndexClient::session() const { return state_->session; }
std::uint64_t IndexClient::last_request() const { return state_->last_request; }
Epoch IndexClient::epoch() const { return state_->epoch; }
std::uint64_t IndexClient::block_bytes() const { return state_->block_bytes; }

void IndexClient::on_epoch(std::function<void(Epoch)> callback) {
  state_->epoch_callback = std::move(callback);
  if (state_->epoch && state_->epoch_callback) state_->epoch_callback(state_->epoch);
}

void IndexClient::on_resume(std::function<std::vector<InodeId>()> open_inodes) {
  state_->open_inodes = std::move(open_inodes);
}

void IndexClient::on_locks(LockCallbacks callbacks) { state_->locks = std::move(callbacks); }

std::uint64_t IndexClient::assertion() const { return state_->assertion; }

void IndexClient::assert_locks() {
  if (!state_->connected) return;  // it is told before anything else is asked
  ++state_->connection;
  state_->connected = false;
  state_->background.spawn(state_->resume_now());
}

Deadline IndexClient::default_deadline() const {
  return Deadline::after(state_->clock, state_->options.timeout);
}

TimePoint IndexClient::now() const { return state_->clock.now(); }

RequestId IndexClient::next_request() { return RequestId(++state_->last_request); }

std::uint64_t IndexClient::acknowledged_below() const {
  return state_->unanswered.empty() ? state_->last_request + 1 : *state_->unanswered.begin();
}

Task<rpc::Reply> IndexClient::call_raw(wire::Method method, const google::protobuf::MessageLite& request,
                                       const Stamp& stamp, RequestId number, Deadline deadline) {
  auto& state = *state_;
  struct UnderWay {
    State& state;
    std::uint64_t number;
    UnderWay(State& s, RequestId id) : state(s), number(id.value) {
      ++state.calls;
      if (number != 0) state.unanswered.insert(number);
    }
    ~UnderWay() {
      state.unanswered.erase(number);
      if (--state.calls == 0) state.idle.set();
    }
  };
  const UnderWay under_way(state, number);

  deadline = state.begin_call(deadline);
  SessionId tried_under;  // set once the change may have been carried out under it
  auto backoff = kFirstBackoff;
  Error last(Errc::unavailable, "no index server was asked");
  while (true) {
    if (state.stopping) co_return Error(Errc::cancelled, "stopping");
    auto ready = co_await state.ensure_session(deadline);
    if (!ready) {
      if (!is_retryable(ready.error().code())) co_return std::move(ready.error());
      last = std::move(ready.error());
    } else {
      // Repeated commits are harmless without the request id: extents are applied in the same order again.
      if (tried_under && tried_under != state.session && method != wire::Method::commit) {
        co_return Error(Errc::unavailable, "the session ran out while the index could not be reached");
      }
      const auto asked_under = state.connection;
      stamp(state.session);
      const auto patience = state.servers.size() > 1 ? kPatience : deadline.left(state.clock);
      const auto asked_at = state.clock.now();
      auto reply = co_await state.server().call(method, request, state.within(deadline, patience));
      if (reply || is_answer(reply.error().code())) state.answered();
      if (reply) co_return std::move(reply);
      const auto code = reply.error().code();
      // A caller in a hurry says nothing about the server.
      const bool hurried = code == Errc::timed_out && state.clock.now() - asked_at < kPatience;
      if (code != Errc::no_session && !is_retryable(code)) co_return std::move(reply.error());
      if (number && may_have_happened(code)) tried_under = state.session;
      if (code != Errc::busy && !hurried) state.lost(asked_under);
      last = std::move(reply.error());
    }
    const auto left = deadline.left(state.clock);
    if (left <= backoff) {
      const auto code =
          last.code() == Errc::timed_out || last.code() == Errc::busy ? Errc::timed_out : Errc::unavailable;
      co_return Error(code, std::string(wire::to_string(method)) + ": " + last.describe());
    }
    // Ends early when stop() begins.
    const auto waited = co_await state.stop_began.wait(state.clock, Deadline::after(state.clock, backoff));
    if (!waited && waited.error().code() == Errc::cancelled)
      co_return Error(Errc::cancelled, "the caller gave up");
    backoff = std::min(2 * backoff, kLongestBackoff);
  }
}

}  // namespace reelfs::client
