#include "tests/sim/cluster/network.h"

#include <algorithm>

#include "common/base/assert.h"

namespace reelfs::sim {
namespace {

using namespace std::chrono_literals;

Network* the_network = nullptr;

std::pair<const Host*, const Host*> pair_of(const Host& a, const Host& b) {
  return std::less<>()(a.name, b.name) ? std::pair(&a, &b) : std::pair(&b, &a);
}

}  // namespace

Network& network() {
  REELFS_ASSERT(the_network != nullptr);
  return *the_network;
}
void set_network(Network* network) { the_network = network; }

Duration Network::latency(const Host& a, const Host& b) {
  auto takes = world_.between(50us, 400us);
  if (world_.one_in(40)) takes += world_.between(1ms, 30ms);
  for (const auto* host : {&a, &b}) {
    const auto slow = slowness_.find(host);
    if (slow != slowness_.end() && slow->second > Duration::zero())
      takes += world_.between(0us, slow->second);
  }
  return takes;
}

Result<rpc::Endpoint> Network::listen(Process& process, rpc::Endpoint endpoint,
                                      std::weak_ptr<ServerEnd> server) {
  if (endpoint.port == 0) endpoint.port = ++last_port_;
  const auto found = listening_.find(endpoint);
  if (found != listening_.end() && found->second.process->alive && !found->second.server.expired())
    return Error(Errc::busy, endpoint.to_string() + " is in use");
  listening_[endpoint] = {&process, std::move(server)};
  return endpoint;
}

void Network::connect(Process& process, const rpc::Endpoint& endpoint, std::shared_ptr<ClientEnd> client) {
  const auto found = listening_.find(endpoint);
  if (found == listening_.end()) {
    world_.after(process, 200us, [client] { client->connected(nullptr); });
    return;
  }
  auto& server = *found->second.process;
  auto knock = [this, &process, &server, endpoint, client] {
    if (!server.host.powered || is_cut(process.host, server.host)) return;  // nobody says anything
    const auto listener = listening_.find(endpoint);
    const bool refused = listener == listening_.end() || !listener->second.process->alive;
    auto link = std::make_shared<Link>();
    auto accept = [this, &process, client, link, refused] {
      deliver(link->server == nullptr ? process.host : link->server->host, process,
              [client, link, refused] { client->connected(refused ? nullptr : link); });
    };
    if (!refused) {
      link->id = ++last_link_;
      link->client = &process;
      link->server = listener->second.process;
      link->client_end = client;
      link->server_end = listener->second.server;
      links_.push_back(link);
      // The kernel accepts for it: a program that is stopped sees it later.
      world_.after(*link->server, 0us, [link] {
        if (const auto end = link->server_end.lock(); end && !link->broken) end->accepted(link);
      });
    }
    world_.after(latency(process.host, server.host), accept);
  };
  world_.after(latency(process.host, server.host), knock);
}

void Network::deliver(const Host& from, Process& to, std::function<void()> arrives) {
  if (is_cut(from, to.host)) {
    held_.push_back({&from, &to.host, [this, &from, &to, arrives = std::move(arrives)]() mutable {
                       deliver(from, to, std::move(arrives));
                     }});
    return;
  }
  if (!to.alive) return;
  world_.after(to, 0us, std::move(arrives));
}

void Network::send(const std::shared_ptr<Link>& link, Way way, std::function<void()> arrives) {
  if (link->broken) return;
  auto& from = way == Way::to_server ? *link->client : *link->server;
  auto& to = way == Way::to_server ? *link->server : *link->client;
  auto& last = way == Way::to_server ? link->to_server : link->to_client;
  last = std::max(last, world_.now() + latency(from.host, to.host));
  auto arrive = [this, link, &from, &to, arrives = std::move(arrives)]() mutable {
    auto unless_broken = [link, arrives = std::move(arrives)] {
      if (!link->broken) arrives();
    };
    deliver(from.host, to, std::move(unless_broken));
  };
  world_.after(last - world_.now(), std::move(arrive));
}

void Network::break_link(const std::shared_ptr<Link>& link) {
  if (std::exchange(link->broken, true)) return;
  std::erase(links_, link);
  for (auto* process : {link->client, link->server}) tell_broken(link, *process);
}

void Network::tell_broken(const std::shared_ptr<Link>& link, Process& about) {
  if (!about.alive) return;
  auto& other = &about == link->client ? *link->server : *link->client;
  auto tell = [this, link, &about, &other] {
    deliver(other.host, about, [link, &about] {
      if (&about == link->client) {
        if (const auto end = link->client_end.lock()) end->broken(link);
      } else if (const auto end = link->server_end.lock()) {
        end->broken(link);
      }
    });
  };
  world_.after(latency(about.host, other.host), tell);
}

// ---- faults

void Network::cut(const Host& a, const Host& b) { cuts_.insert(pair_of(a, b)); }

bool Network::is_cut(const Host& a, const Host& b) const { return cuts_.contains(pair_of(a, b)); }

void Network::heal(const Host& a, const Host& b) {
  if (cuts_.erase(pair_of(a, b)) == 0) return;
  std::vector<std::function<void()>> late;
  for (auto held = held_.begin(); held != held_.end();) {
    if (pair_of(*held->a, *held->b) != pair_of(a, b)) {
      ++held;
      continue;
    }
    late.push_back(std::move(held->arrives));
    held = held_.erase(held);
  }
  for (auto& arrives : late) arrives();
}

void Network::process_killed(Process& process) {
  const auto links = links_;
  for (const auto& link : links) {
    if (link->client != &process && link->server != &process) continue;
    if (process.host.powered) {
      break_link(link);
    } else {
      std::erase(links_, link);
      silent_.push_back(link);
    }
  }
}

void Network::host_back(Host& host) {
  // Its kernel knows nothing of the connections that there were: whoever sends gets told.
  const auto links = std::exchange(silent_, {});
  for (const auto& link : links) {
    if (&link->client->host == &host || &link->server->host == &host) {
      break_link(link);
    } else {
      silent_.push_back(link);
    }
  }
}

void Network::reset_links(Process& process) {
  const auto links = links_;
  for (const auto& link : links) {
    if (link->client == &process || link->server == &process) break_link(link);
  }
}

}  // namespace reelfs::sim
