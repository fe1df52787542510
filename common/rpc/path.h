#pragma once

#include <coroutine>
#include <functional>
#include <memory>
#include <optional>
#include <unordered_map>
#include <vector>

#include <boost/asio/ip/tcp.hpp>

#include "common/async/event.h"
#include "common/async/task.h"
#include "common/async/task_group.h"
#include "common/base/clock.h"
#include "common/rpc/client.h"
#include "common/rpc/deadline_queue.h"
#include "common/rpc/endpoint.h"
#include "common/rpc/outbox.h"
#include "common/rpc/stream.h"
#include "common/wire/frame.h"

namespace reelfs::rpc {

class FrameReader;

/// The way to one address of a server: one connection, which is made at the first call and again after it
/// broke.
///
/// Where there are other ways (`watch`) it is also kept up, and asked by pings how long it is and whether
/// there is one: at rest once a second; while a call waits and nothing is heard, at once. It is left when the
/// server's machine does not even acknowledge bytes, so that a server that is slow or stands still keeps all.
class Path : public std::enable_shared_from_this<Path> {
 public:
  /// @param address  its `others` are ignored
  Path(asio::io_context& context, const Clock& clock, const Endpoint& address, const ClientOptions& options);
  ~Path();
  Path(const Path&) = delete;
  Path& operator=(const Path&) = delete;

  /// @param another_is_up  whether there is another way
  void watch(std::function<bool()> another_is_up);
  /// Is to be up for a while from now on. Does nothing where it is not watched.
  void keep_up();

  /// @param left  set where the request may have reached the server; meaningful with an error
  /// @errors as Client::call
  static Task<Reply> call(std::shared_ptr<Path> self, OutgoingFrame frame, Deadline deadline, bool& left);

  const Endpoint& endpoint() const { return endpoint_; }
  bool connected() const { return connection_ != nullptr; }
  /// Connected; where it is watched, has answered since.
  bool up() const { return connected() && (!is_watched() || answered_); }
  /// When connecting may be tried again.
  TimePoint connect_not_before() const { return connect_not_before_; }
  /// What a call is expected to take, in no unit: latency times calls in flight, dearer where it failed
  /// lately.
  double cost() const;
  PathState state() const;

  /// Ends calls under way with `cancelled`, closes the connection, joins its coroutines.
  asio::awaitable<void> stop();

 private:
  struct Connection;
  /// A call under way; lives in its coroutine's frame.
  struct Pending {
    Event done;
    std::optional<Result<Reply>> result;
    Deadline deadline;
    bool left = false;

    void end(Result<Reply> with) {
      result.emplace(std::move(with));
      done.set();
    }
  };

  static asio::awaitable<void> run(std::shared_ptr<Path> self);
  static asio::awaitable<void> send(std::shared_ptr<Path> self, std::shared_ptr<Connection> connection);
  static asio::awaitable<void> examine(std::shared_ptr<Path> self, std::shared_ptr<Connection> connection);
  Task<void> receive(FrameReader& reader);
  Task<std::shared_ptr<Connection>> connect();
  Task<asio::ip::tcp::socket> connect_socket();
  Task<std::vector<asio::ip::tcp::endpoint>> resolve();
  /// @return whether there was an answer to it
  asio::awaitable<bool> ping(Duration limit);
  asio::awaitable<void> wait_for_ping(const Connection& connection);

  bool is_watched() const { return another_is_up_ != nullptr; }
  bool is_wanted() const { return !pending_.empty() || (is_watched() && clock_.now() < wanted_until_); }
  void start();
  void failed() { ++failures_, loss_ += (1 - loss_) / kMemory; }
  void finish(std::uint64_t id, Result<Reply> result);
  void end_early(std::uint64_t id, Error why);
  void end_all(const Error& why);

  static constexpr double kMemory = 8;  // of this many pings and failures latency and loss are means

  asio::io_context& context_;
  const Clock& clock_;
  const Endpoint endpoint_;
  const ClientOptions options_;
  TaskGroup group_;
  Outbox outbox_;
  DeadlineQueue deadlines_;
  std::unordered_map<std::uint64_t, Pending*> pending_;
  std::shared_ptr<Connection> connection_;  // null while there is none
  Event work_;                              // it is wanted
  std::uint64_t last_id_ = 0;
  TimePoint connect_not_before_{};
  Duration backoff_;
  bool running_ = false;
  bool stopped_ = false;

  std::function<bool()> another_is_up_;
  Event changed_;  // a call waits, or the connection ended
  TimePoint wanted_until_{};
  TimePoint quiet_since_{};  // while calls wait: since when nothing was heard
  bool answered_ = false;    // over this connection
  bool is_pinging_ = false;
  Duration latency_{};
  double loss_ = 0;
  std::uint64_t pings_ = 0;
  std::uint64_t failures_ = 0;
};

}  // namespace reelfs::rpc
