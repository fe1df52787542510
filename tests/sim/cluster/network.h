#pragma once

#include <cstdint>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "common/rpc/client.h"
#include "common/rpc/server.h"
#include "tests/sim/cluster/world.h"

namespace reelfs::sim {

class ServerEnd;
class ClientEnd;

/// A connection: what is sent in one direction arrives in order, or not at all once it is broken.
struct Link {
  std::uint64_t id = 0;
  Process* client = nullptr;
  Process* server = nullptr;
  std::weak_ptr<ClientEnd> client_end;
  std::weak_ptr<ServerEnd> server_end;
  bool broken = false;
  TimePoint to_server{}, to_client{};  // when the last thing that was sent arrives
};

/// A request on its way.
struct Frame {
  std::uint64_t id = 0;
  wire::Method method{};
  std::string message;
  SharedBuffer payload;
  Epoch epoch;
  TimePoint deadline = TimePoint::max();
};

/// Connects the processes of a world. rpc::Client and rpc::Server are defined anew on top of it (rpc.cc): the
/// same promises without sockets, TLS and frames. Messages take their time; hosts that are cut off from each
/// other hear nothing until that is over, and then everything, as TCP does it; who is killed breaks its
/// connections, who loses power says nothing before its host is back.
class Network {
 public:
  explicit Network(World& world) : world_(world) {}
  Network(const Network&) = delete;
  Network& operator=(const Network&) = delete;

  /// @errors busy
  Result<rpc::Endpoint> listen(Process& process, rpc::Endpoint endpoint, std::weak_ptr<ServerEnd> server);
  void close(const rpc::Endpoint& endpoint) { listening_.erase(endpoint); }
  /// Ends with ClientEnd::connected(), in its process, or with nothing.
  void connect(Process& process, const rpc::Endpoint& endpoint, std::shared_ptr<ClientEnd> client);
  enum class Way { to_server, to_client };
  /// Calls it in the process at the other end when it arrives.
  void send(const std::shared_ptr<Link>& link, Way way, std::function<void()> arrives);
  /// One end closed it, or the path did: both get to know.
  void break_link(const std::shared_ptr<Link>& link);

  // ---- faults
  void cut(const Host& a, const Host& b);
  void heal(const Host& a, const Host& b);
  bool is_cut(const Host& a, const Host& b) const;
  /// Everything to and from this host takes up to so much longer.
  void slow_down(const Host& host, Duration most) { slowness_[&host] = most; }
  void process_killed(Process& process);
  void host_back(Host& host);
  /// Breaks all connections of a process, which lives on.
  void reset_links(Process& process);

  /// Who wants to see what servers answer, in their processes. @param asked  the request's message
  using Watcher = std::function<void(Process& server, wire::Method, const std::string& asked,
                                     const Result<rpc::Response>&)>;
  void watch(Watcher watcher) { watcher_ = std::move(watcher); }
  void answered(Process& server, wire::Method method, const std::string& asked,
                const Result<rpc::Response>& response) {
    if (watcher_) watcher_(server, method, asked, response);
  }

 private:
  struct Held {  // until two hosts hear each other again
    const Host* a;
    const Host* b;
    std::function<void()> arrives;
  };
  Duration latency(const Host& a, const Host& b);
  void deliver(const Host& from, Process& to, std::function<void()> arrives);
  void tell_broken(const std::shared_ptr<Link>& link, Process& about);

  struct Listener {
    Process* process;
    std::weak_ptr<ServerEnd> server;
  };
  World& world_;
  std::map<rpc::Endpoint, Listener> listening_;
  std::vector<std::shared_ptr<Link>> links_;
  std::vector<std::shared_ptr<Link>> silent_;  // of hosts without power
  std::set<std::pair<const Host*, const Host*>> cuts_;
  std::list<Held> held_;
  std::map<const Host*, Duration> slowness_;
  Watcher watcher_;
  std::uint64_t last_link_ = 0;
  std::uint16_t last_port_ = 10'000;
};

/// A client's side of its connections, see rpc.cc. Called in its process.
class ClientEnd {
 public:
  virtual ~ClientEnd() = default;
  /// @param link  null: nobody listens there
  virtual void connected(std::shared_ptr<Link> link) = 0;
  virtual void broken(const std::shared_ptr<Link>& link) = 0;
  virtual void replied(std::uint64_t id, Result<rpc::Reply> reply) = 0;
};
/// A server's side. Called in its process.
class ServerEnd {
 public:
  virtual ~ServerEnd() = default;
  virtual void accepted(std::shared_ptr<Link> link) = 0;
  virtual void broken(const std::shared_ptr<Link>& link) = 0;
  virtual void requested(const std::shared_ptr<Link>& link, Frame frame) = 0;
  virtual void cancelled(const std::shared_ptr<Link>& link, std::uint64_t id) = 0;
};

/// Of the world there is.
Network& network();
void set_network(Network* network);

}  // namespace reelfs::sim
