#include "common/rpc/client.h"

#include <algorithm>
#include <utility>

#include <boost/asio/io_context.hpp>

#include "common/rpc/path.h"
#include "common/wire/frame.h"

namespace reelfs::rpc {
namespace {

/// 0 is best: an address that is meant for the traffic, for any, for another.
int rank_of(const Endpoint& address, Traffic traffic) {
  if (address.traffic == traffic) return 0;
  return address.traffic == Traffic::any || traffic == Traffic::any ? 1 : 2;
}

}  // namespace

struct Client::State {
  State(asio::io_context& context, const Clock& time, Endpoint to, ClientOptions chosen)
      : clock(time), endpoint(std::move(to)), options(std::move(chosen)) {
    paths.push_back(std::make_shared<Path>(context, clock, endpoint, options));
    for (const auto& other : endpoint.others)
      paths.push_back(std::make_shared<Path>(context, clock, other, options));
    if (paths.size() == 1) return;
    for (const auto& path : paths) {
      path->watch([this, self = path.get()] {
        return std::any_of(paths.begin(), paths.end(),
                           [&](const auto& other) { return other.get() != self && other->up(); });
      });
    }
  }

  using Paths = std::vector<std::shared_ptr<Path>>;

  /// @param tried  not these  @return null where all were tried
  std::shared_ptr<Path> choose(const Paths& tried);
  static Task<Reply> call(std::shared_ptr<State> self, OutgoingFrame frame, Deadline deadline);
  static Task<Reply> call_over_one_of_many(std::shared_ptr<State> self, OutgoingFrame frame,
                                           Deadline deadline);

  const Clock& clock;
  const Endpoint endpoint;
  const ClientOptions options;
  Paths paths;
  std::shared_ptr<Path> last;  // that was used
  Epoch epoch;
  bool stopped = false;
};

std::shared_ptr<Path> Client::State::choose(const Paths& tried) {
  std::shared_ptr<Path> best;
  const auto is_better = [&](const Path& one, const Path& other) {
    if (one.up() != other.up()) return one.up();
    const int rank = rank_of(one.endpoint(), options.traffic),
              rank_of_other = rank_of(other.endpoint(), options.traffic);
    // Of those that are down the one that was not tried just now.
    if (!one.up() && one.connect_not_before() != other.connect_not_before())
      return one.connect_not_before() < other.connect_not_before();
    if (rank != rank_of_other) return rank < rank_of_other;
    if (options.repeatable) return one.cost() < other.cost();
    return &one == last.get();  // calls that build upon each other stay together
  };
  for (const auto& path : paths) {
    if (std::find(tried.begin(), tried.end(), path) != tried.end()) continue;
    if (!best || is_better(*path, *best)) best = path;
  }
  return best;
}

Task<Reply> Client::State::call(std::shared_ptr<State> self, OutgoingFrame frame, Deadline deadline) {
  if (self->stopped) co_return Error(Errc::cancelled, "the client was stopped");
  if (deadline.left(self->clock) <= Duration::zero())
    co_return Error(Errc::timed_out, "the deadline has passed");
  if (frame.message.size() > wire::kMaxMessageBytes || frame.payload_bytes > wire::kMaxPayloadBytes) {
    co_return Error(Errc::too_big, "request above the frame's limits");
  }
  frame.header.epoch = self->epoch.value;
  bool left = false;
  if (self->paths.size() == 1) {
    auto only = Path::call(self->paths.front(), std::move(frame), deadline, left);
    co_return co_await std::move(only);
  }
  auto over_one_of_many = call_over_one_of_many(std::move(self), std::move(frame), deadline);
  co_return co_await std::move(over_one_of_many);
}

Task<Reply> Client::State::call_over_one_of_many(std::shared_ptr<State> self, OutgoingFrame frame,
                                                 Deadline deadline) {
  for (const auto& path : self->paths) path->keep_up();
  Paths tried;
  for (;;) {
    const auto path = self->choose(tried);
    self->last = path;
    tried.push_back(path);
    bool left = false;
    auto again = frame;
    auto asked = Path::call(path, std::move(again), deadline, left);
    auto reply = co_await std::move(asked);
    const bool is_lost = !reply && reply.error().code() == Errc::unavailable;
    const bool may_repeat = self->options.repeatable || !left;
    if (!is_lost || !may_repeat || self->stopped || tried.size() == self->paths.size()) co_return reply;
    if (deadline.left(self->clock) <= Duration::zero()) co_return reply;
  }
}

Client::Client(asio::io_context& context, const Clock& clock, Endpoint endpoint, ClientOptions options)
    : state_(std::make_shared<State>(context, clock, std::move(endpoint), std::move(options))) {}

Client::~Client() = default;

const Endpoint& Client::endpoint() const { return state_->endpoint; }
void Client::set_epoch(Epoch epoch) { state_->epoch = epoch; }
Epoch Client::epoch() const { return state_->epoch; }

bool Client::connected() const {
  return std::any_of(state_->paths.begin(), state_->paths.end(),
                     [](const auto& path) { return path->connected(); });
}

std::vector<PathState> Client::paths() const {
  std::vector<PathState> states;
  for (const auto& path : state_->paths) states.push_back(path->state());
  return states;
}

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

asio::awaitable<void> Client::stop() {
  const auto state = state_;
  state->stopped = true;
  for (const auto& path : state->paths) co_await path->stop();
}

}  // namespace reelfs::rpc
