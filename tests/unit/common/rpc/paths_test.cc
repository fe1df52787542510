#include <memory>
#include <string>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/post.hpp>

#include "common/async/event.h"
#include "common/async/task_group.h"
#include "common/async/timeout.h"
#include "tests/unit/common/rpc/rpc_fixture.h"

namespace reelfs::rpc {
namespace {

/// A server that several addresses of the machine lead to. Each address is served by a Server of its own, so
/// that it can go without the others.
class PathsTest : public RpcTest {
 protected:
  ~PathsTest() override {
    for (auto& client : clients_) run(client->stop());
    for (auto& server : servers_) close(server);
  }

  /// @return its index
  std::size_t open(const std::string& host, Traffic traffic = Traffic::any, Server::Handler handler = echo) {
    servers_.push_back(std::make_unique<Server>(context_, clock_, ServerOptions(), std::move(handler)));
    auto bound = servers_.back()->listen({host, 0, traffic, {}});
    EXPECT_TRUE(bound) << bound.error().describe();
    if (servers_.size() == 1)
      endpoint_ = bound.value();
    else
      endpoint_.others.push_back(bound.value());
    return servers_.size() - 1;
  }

  void close(std::unique_ptr<Server>& server) {
    if (server) run(server->stop());
    server.reset();
  }

  Client& client_for(Traffic traffic, bool repeatable) {
    ClientOptions options;
    options.traffic = traffic;
    options.repeatable = repeatable;
    return new_client(std::move(options));
  }

  /// @pre at least one call was made
  bool all_up(const Client& client, std::size_t expected) {
    return eventually([&] {
      std::size_t up = 0;
      for (const auto& path : client.paths()) up += path.up ? 1 : 0;
      return up == expected;
    });
  }

  template <class F>
  bool eventually(F condition) {
    const auto deadline = in(10s);
    while (!condition()) {
      if (deadline.left(clock_) <= Duration::zero()) return false;
      run(sleep_for(5ms));
    }
    return true;
  }

  std::vector<std::unique_ptr<Server>> servers_;
};

std::uint64_t failures(const Client& client) {
  std::uint64_t sum = 0;
  for (const auto& path : client.paths()) sum += path.failures;
  return sum;
}

TEST_F(PathsTest, CallsThatMayBeRepeatedAreSpreadOverAllAddresses) {
  std::vector<int> answered(2);
  for (std::size_t i = 0; i < 2; ++i) {
    open("127.0.0." + std::to_string(i + 1), Traffic::any, [&answered, i](Request request) -> Task<Response> {
      ++answered[i];
      co_await sleep_for(2ms);
      co_return co_await echo(std::move(request));
    });
  }
  auto& client = client_for(Traffic::clients, true);
  ASSERT_TRUE(ask(client, "first"));
  ASSERT_TRUE(all_up(client, 2));
  TaskGroup group(context_.get_executor());
  int done = 0;
  for (int i = 0; i < 64; ++i) {
    group.spawn([](Client& asked, Deadline deadline, int& count) -> asio::awaitable<void> {
      wire::ErrorReply request;
      const auto reply = co_await asked.call(wire::Method::lookup, request, deadline);
      EXPECT_TRUE(reply);
      ++count;
    }(client, in(10s), done));
  }
  ASSERT_TRUE(eventually([&] { return done == 64; }));
  EXPECT_GE(answered[0], 16);
  EXPECT_GE(answered[1], 16);
  for (const auto& path : client.paths()) EXPECT_GT(path.latency, Duration::zero());
  run(group.stop());
}

TEST_F(PathsTest, CallsThatBuildUponEachOtherStayTogether) {
  std::vector<int> answered(2);
  for (std::size_t i = 0; i < 2; ++i) {
    open("127.0.0." + std::to_string(i + 1), Traffic::any, [&answered, i](Request request) {
      ++answered[i];
      return echo(std::move(request));
    });
  }
  auto& client = client_for(Traffic::clients, false);
  ASSERT_TRUE(ask(client, "first"));
  ASSERT_TRUE(all_up(client, 2));
  for (int i = 0; i < 20; ++i) ASSERT_TRUE(ask(client, "next"));
  EXPECT_TRUE(answered[0] == 21 || answered[1] == 20) << answered[0] << " and " << answered[1];
}

TEST_F(PathsTest, AnAddressMeantForTheTrafficComesFirstAndTheOthersAfterIt) {
  std::string used;
  const auto notes = [&used](std::string name) {
    return [&used, name](Request request) {
      used = name;
      return echo(std::move(request));
    };
  };
  open("127.0.0.1", Traffic::any, notes("any"));
  const auto back = open("127.0.0.2", Traffic::copies, notes("copies"));
  open("127.0.0.3", Traffic::clients, notes("clients"));
  auto& copies = client_for(Traffic::copies, true);
  auto& clients = client_for(Traffic::clients, true);
  for (auto* client : {&copies, &clients}) {
    ASSERT_TRUE(ask(*client, "first"));
    ASSERT_TRUE(all_up(*client, 3));
  }
  ASSERT_TRUE(ask(copies, "which?"));
  EXPECT_EQ(used, "copies");
  ASSERT_TRUE(ask(clients, "which?"));
  EXPECT_EQ(used, "clients");
  close(servers_[back]);
  ASSERT_TRUE(all_up(copies, 2));
  ASSERT_TRUE(ask(copies, "which?"));
  EXPECT_EQ(used, "any");
}

TEST_F(PathsTest, ACallWhoseConnectionBreaksIsSentAgainWhereItMayBe) {
  Event arrived;
  const auto never = [&arrived](Request) -> Task<Response> {
    arrived.set();
    Event nothing;
    (void)co_await nothing.wait();
    co_return Error(Errc::cancelled);
  };
  for (const bool repeatable : {true, false}) {
    SCOPED_TRACE(repeatable);
    servers_.clear();
    endpoint_ = {};
    const auto dying = open("127.0.0.1", Traffic::clients, never);
    open("127.0.0.2", Traffic::any);
    auto& client = client_for(Traffic::clients, repeatable);
    std::optional<Result<Reply>> reply;
    TaskGroup group(context_.get_executor());
    group.spawn(
        [](Client& asked, Deadline deadline, std::optional<Result<Reply>>& into) -> asio::awaitable<void> {
          wire::ErrorReply request;
          request.set_message("again");
          into.emplace(co_await asked.call(wire::Method::lookup, request, deadline));
        }(client, in(10s), reply));
    ASSERT_TRUE(run(arrived.wait()));
    ASSERT_TRUE(all_up(client, 2));
    close(servers_[dying]);
    ASSERT_TRUE(eventually([&] { return reply.has_value(); }));
    if (repeatable) {
      ASSERT_TRUE(*reply) << reply->error().describe();
      EXPECT_EQ(text_of(reply->value()), "again");
    } else {
      ASSERT_FALSE(*reply);
      EXPECT_EQ(reply->error().code(), Errc::unavailable);
      EXPECT_TRUE(ask(client, "what comes after it goes another way"));
    }
    run(group.stop());
    run(client.stop());
    close(servers_[1]);
  }
}

TEST_F(PathsTest, WhatWasNeverSentGoesAnotherWay) {
  const auto gone = open("127.0.0.1", Traffic::clients);
  open("127.0.0.2", Traffic::any);
  close(servers_[gone]);
  auto& client = client_for(Traffic::clients, false);
  EXPECT_TRUE(ask(client, "hello"));
}

TEST_F(PathsTest, AnAddressThatComesBackIsUsedAgain) {
  const auto preferred = open("127.0.0.1", Traffic::clients);
  open("127.0.0.2", Traffic::any);
  auto& client = client_for(Traffic::clients, true);
  ASSERT_TRUE(ask(client, "hello"));
  ASSERT_TRUE(all_up(client, 2));
  close(servers_[preferred]);
  ASSERT_TRUE(all_up(client, 1));
  servers_[preferred] = std::make_unique<Server>(context_, clock_, ServerOptions(), echo);
  ASSERT_TRUE(servers_[preferred]->listen({endpoint_.host, endpoint_.port, endpoint_.traffic, {}}));
  EXPECT_TRUE(all_up(client, 2)) << "without anybody asking for it";
  EXPECT_GT(failures(client), 0u);
}

TEST_F(PathsTest, AServerThatIsSlowLosesNoConnection) {
  for (int i = 1; i <= 2; ++i) {
    open("127.0.0." + std::to_string(i), Traffic::any, [](Request request) -> Task<Response> {
      co_await sleep_for(500ms);
      co_return co_await echo(std::move(request));
    });
  }
  auto& client = client_for(Traffic::clients, true);
  EXPECT_TRUE(ask(client, "slow"));
  EXPECT_TRUE(ask(client, "slow"));
  EXPECT_EQ(failures(client), 0u);
}

TEST_F(PathsTest, AnEndpointTravelsWithAllItsAddresses) {
  const Endpoint endpoint{"10.0.0.1", 7501, Traffic::any, {{"fd00::1", 7502, Traffic::copies, {}}}};
  EXPECT_EQ(Endpoint::from(endpoint.to_wire()), endpoint);
  auto odd = endpoint.to_wire();
  odd.set_port(70'000);
  odd.mutable_others(0)->set_traffic(static_cast<wire::Traffic>(99));
  EXPECT_EQ(Endpoint::from(odd).port, 0);
  EXPECT_EQ(Endpoint::from(odd).others.at(0).traffic, Traffic::any);
}

}  // namespace
}  // namespace reelfs::rpc
