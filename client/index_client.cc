#include "client/index_client.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <map>
#include <optional>
#include <set>

#include <boost/asio/io_context.hpp>
#include <sys/types.h>
#include <unistd.h>

#include "client/unsettled_changes.h"
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
// So many changes that the index's machine may forget are kept until it is asked, and how often it is then.
constexpr std::size_t kManyUnsettled = 256;
constexpr Duration kMarkPause = 50ms;

spdlog::logger& log() { return logger("client.index"); }

std::string host_name() {
  std::array<char, 256> name{};
  if (::gethostname(name.data(), name.size() - 1) != 0) return "unknown";
  return name.data();
}

// The files of a commit that the index did not take, by their inodes.
std::map<std::uint64_t, Error> refused_in(const UnsettledChanges::Change& commit, const rpc::Reply& reply) {
  std::map<std::uint64_t, Error> refused;
  const auto& request = static_cast<const wire::CommitRequest&>(*commit.request);
  wire::CommitReply message;
  const bool parses = message.ParseFromString(reply.message);
  for (int i = 0; i < request.files_size(); ++i) {
    if (!parses || i >= message.attributes_size() || message.attributes(i).inode() == 0)
      refused.emplace(request.files(i).inode(), Error(Errc::stale_handle, "the file is gone"));
  }
  for (const auto& file : message.refused()) {
    if (file.file() < static_cast<std::uint32_t>(request.files_size()))
      refused.emplace(request.files(static_cast<int>(file.file())).inode(),
                      Error(Errc::io, file.error().message()));
  }
  return refused;
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
  Task<void> renew(Deadline deadline);

  void keep(UnsettledChanges::Change change, const rpc::Reply& reply);
  void carry_to_new_session();
  Task<void> ask_again(Deadline deadline);
  Task<void> ask_for_all_again(Deadline deadline);
  void note_repeated(const UnsettledChanges::Change& change, const rpc::Reply& reply);
  void note_lost(const UnsettledChanges::Change& change, const Error& error);
  asio::awaitable<void> ask_marks();

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
  Epoch epoch;  // the greatest
  Epoch reign;  // of who has the session; smaller where the index was made again
  std::uint64_t block_bytes = 0;
  Duration lease = kFirstLease;

  std::uint64_t last_request;
  std::set<std::uint64_t> unanswered;
  UnsettledChanges unsettled;
  bool tells_marks = true;  // until it turns out that it does not: an older index server
  bool asking_marks = false;

  std::function<void(Epoch)> epoch_callback;
  std::function<std::vector<InodeId>()> open_inodes;
  std::function<void(InodeId, const Error&)> lost_change;
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
  reign = Epoch(reply.epoch());
  const bool epoch_grew = reign > epoch;
  epoch = std::max(epoch, reign);
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
      REELFS_CO_TRY(co_await ask_again(deadline));
      log().info("session resumed session={} index={}", session.value, server().endpoint().to_string());
      connected = true;
      co_return ok();
    }
    if (resumed.error().code() != Errc::no_session) co_return std::move(resumed.error());
    log().warn("session lost, opening another session={}", session.value);
    if (locks.session_lost) locks.session_lost();
  }
  REELFS_CO_TRY(co_await try_open(SessionId(), inodes, deadline));
  carry_to_new_session();
  co_await reopen(std::move(inodes), deadline);
  REELFS_CO_TRY(co_await ask_again(deadline));
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
      const auto renewed = co_await renew(deadline);
      if (renewed) {
        backoff = kFirstBackoff;
        co_await sleep_for(lease / 3);
        continue;
      }
      if (renewed.error().code() == Errc::cancelled) co_return;
      log().warn("session not renewed error={}", renewed.error().describe());
      lost(asked_under);
    } else if (ready.error().code() == Errc::cancelled) {
      co_return;
    }
    co_await sleep_for(backoff);
    backoff = std::min(2 * backoff, kLongestBackoff);
  }
}

Task<void> IndexClient::State::renew(Deadline deadline) {
  wire::RenewSessionRequest request;
  request.set_session(session.value);
  const auto answered_before = unsettled.added();
  REELFS_CO_TRY(const auto reply, co_await server().call_for<wire::RenewSessionReply>(
                                      wire::Method::renew_session, request, deadline));
  answered();
  if (reply.lease_ms() > 0) lease = std::chrono::milliseconds(reply.lease_ms());
  tells_marks = reply.has_journal();
  if (tells_marks) {
    unsettled.marked(answered_before, reply.journal());
  } else {
    unsettled.settled(unsettled.added());
  }
  co_return ok();
}

// ---- what the index may forget

void IndexClient::State::keep(UnsettledChanges::Change change, const rpc::Reply& reply) {
  if (!tells_marks) return;
  if (change.method == wire::Method::commit) {
    for (const auto& [inode, error] : refused_in(change, reply)) change.refused.insert(inode);
  }
  if (change.method == wire::Method::create) {
    // A file that is open here is to be the same file afterwards.
    wire::AttributesReply made;
    if (made.ParseFromString(reply.message))
      static_cast<wire::CreateRequest&>(*change.request).set_inode(made.attributes().inode());
  }
  const bool is_late = change.epoch != reign;
  unsettled.add(std::move(change));
  if (is_late) {
    // It answered after another one had taken its place, which is to be asked.
    ++connection;
    connected = false;
  }
  if (unsettled.size() >= kManyUnsettled && !stopping && !std::exchange(asking_marks, true))
    background.spawn(ask_marks());
}

asio::awaitable<void> IndexClient::State::ask_marks() {
  while (!stopping && connected && unsettled.size() >= kManyUnsettled) {
    (void)co_await renew(Deadline::after(clock, lease));
    co_await sleep_for(kMarkPause);
  }
  asking_marks = false;
}

// A later session knows nothing of the requests of the one before it: what has been carried out is carried
// out again. That is harmless for commits, as in call_raw().
void IndexClient::State::carry_to_new_session() {
  const auto dropped =
      unsettled.drop_if([](const auto& change) { return change.method != wire::Method::commit; });
  if (dropped > 0) log().warn("changes may be lost, with the session that made them changes={}", dropped);
  auto commits = unsettled.all();
  unsettled.settled(unsettled.added());
  for (auto& change : commits) {
    change.number = RequestId(++last_request);
    auto& header = *static_cast<wire::CommitRequest&>(*change.request).mutable_header();
    header.set_session(session.value);
    header.set_request(change.number.value);
    unsettled.add(std::move(change));
  }
}

// With the request ids of the first time: what is not lost is answered as it was then.
Task<void> IndexClient::State::ask_again(Deadline deadline) {
  while (unsettled.any_before(reign)) {
    REELFS_CO_TRY(co_await ask_for_all_again(deadline));
  }
  co_return ok();
}

Task<void> IndexClient::State::ask_for_all_again(Deadline deadline) {
  const auto changes = unsettled.all();
  const auto upto = unsettled.added();
  for (const auto& change : changes) {
    const auto reply = co_await server().call(change.method, *change.request, deadline);
    if (reply) {
      note_repeated(change, reply.value());
    } else if (is_retryable(reply.error().code()) || reply.error().code() == Errc::cancelled ||
               reply.error().code() == Errc::no_session) {
      co_return reply.error();
    } else {
      note_lost(change, reply.error());
    }
  }
  const auto synced = co_await server().call(wire::Method::sync, wire::SyncRequest(), deadline);
  if (!synced) co_return synced.error();
  unsettled.settled(upto);
  log().info("changes asked for again changes={} epoch={}", changes.size(), epoch.value);
  co_return ok();
}

void IndexClient::State::note_repeated(const UnsettledChanges::Change& change, const rpc::Reply& reply) {
  if (change.method != wire::Method::commit || !lost_change) return;
  for (const auto& [inode, error] : refused_in(change, reply)) {
    if (!change.refused.contains(inode)) lost_change(InodeId(inode), error);
  }
}

void IndexClient::State::note_lost(const UnsettledChanges::Change& change, const Error& error) {
  log().error("the index has lost a change, and refuses it now method={} error={}",
              wire::to_string(change.method), error.describe());
  if (!lost_change) return;
  const auto& request = *change.request;
  switch (change.method) {
    case wire::Method::commit:
      for (const auto& file : static_cast<const wire::CommitRequest&>(request).files())
        lost_change(InodeId(file.inode()), error);
      return;
    case wire::Method::create:
      return lost_change(InodeId(static_cast<const wire::CreateRequest&>(request).inode()), error);
    case wire::Method::set_attributes:
      return lost_change(InodeId(static_cast<const wire::SetAttributesRequest&>(request).inode()), error);
    case wire::Method::punch_hole:
      return lost_change(InodeId(static_cast<const wire::PunchHoleRequest&>(request).inode()), error);
    case wire::Method::clone_range:
      return lost_change(InodeId(static_cast<const wire::CloneRangeRequest&>(request).target()), error);
    default:
      return;
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

void IndexClient::on_lost_change(std::function<void(InodeId, const Error&)> callback) {
  state_->lost_change = std::move(callback);
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

/// What may have to be asked again is to be answered as it was.
std::uint64_t IndexClient::acknowledged_below() const {
  const auto unanswered = state_->unanswered.empty() ? state_->last_request + 1 : *state_->unanswered.begin();
  return std::min(unanswered, state_->unsettled.lowest_number().value_or(unanswered));
}

std::uint64_t IndexClient::changes_answered() const { return state_->unsettled.added(); }

void IndexClient::note_journal(std::uint64_t answered_before, const wire::JournalMark& mark) {
  if (mark.epoch() != 0) state_->unsettled.marked(answered_before, mark);
}

Task<rpc::Reply> IndexClient::call_raw(wire::Method method,
                                       std::shared_ptr<google::protobuf::MessageLite> request,
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
      const auto reign = state.reign;
      const auto answered_before = state.unsettled.added();
      const auto patience = state.servers.size() > 1 ? kPatience : deadline.left(state.clock);
      const auto asked_at = state.clock.now();
      auto reply = co_await state.server().call(method, *request, state.within(deadline, patience));
      if (reply || is_answer(reply.error().code())) state.answered();
      if (reply && method == wire::Method::sync && reign == state.reign)
        state.unsettled.settled(answered_before);
      if (reply && number) {
        UnsettledChanges::Change change;
        change.number = number;
        change.method = method;
        change.request = request;
        change.epoch = reign;
        state.keep(std::move(change), reply.value());
      }
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
