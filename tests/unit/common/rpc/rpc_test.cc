#include <algorithm>
#include <numeric>
#include <string>

#include <boost/asio/co_spawn.hpp>
#include <fmt/format.h>

#include "common/async/event.h"
#include "common/async/task_group.h"
#include "common/async/timeout.h"
#include "common/wire/frame.h"
#include "tests/unit/common/rpc/rpc_fixture.h"

namespace reelfs::rpc {
namespace {

asio::awaitable<void> call_and_store(Client& client, std::string text, Deadline deadline,
                                     std::vector<std::string>& replies) {
  wire::ErrorReply request;
  request.set_message(text);
  const auto reply = co_await client.call(wire::Method::lookup, request, deadline);
  replies.push_back(reply ? text_of(reply.value()) : std::string(to_string(reply.error().code())));
}

TEST_F(RpcTest, AnswersWithMessageAndPayload) {
  start_server(echo);
  auto& client = new_client();
  EXPECT_FALSE(client.connected());
  const auto reply = ask(client, "hello", 10s, pattern(12345));
  ASSERT_TRUE(reply) << reply.error().describe();
  EXPECT_EQ(text_of(reply.value()), "hello");
  EXPECT_EQ(reply.value().payload.view(), pattern(12345)->view());
  EXPECT_TRUE(client.connected());
}

TEST_F(RpcTest, CarriesLargePayloadsBothWaysPageAligned) {
  start_server(echo);
  auto& client = new_client();
  for (const std::size_t bytes :
       {std::size_t{1}, std::size_t{4095}, std::size_t{4096}, std::size_t{4 << 20}}) {
    const auto reply = ask(client, "large", 10s, pattern(bytes));
    ASSERT_TRUE(reply) << reply.error().describe();
    EXPECT_EQ(reply.value().payload.view(), pattern(bytes)->view());
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(reply.value().payload.data()) % kPageBytes, 0u);
  }
}

TEST_F(RpcTest, SendsTheAskedPartOfAPayload) {
  const auto whole = pattern(10000);
  auto part = [whole](Request) -> Task<Response> {
    Response response;
    response.payload = whole;
    response.payload_offset = 5000;
    response.payload_bytes = 100;
    co_return response;
  };
  start_server(part);
  const auto reply = ask(new_client(), "part");
  ASSERT_TRUE(reply);
  EXPECT_EQ(reply.value().payload.view(), whole->view().substr(5000, 100));
}

TEST_F(RpcTest, CarriesManyCallsAtOnce) {
  start_server(echo);
  auto& client = new_client();
  TaskGroup group(context_.get_executor());
  std::vector<std::string> replies;
  std::vector<std::string> expected;
  for (int i = 0; i < 1000; ++i) {
    expected.push_back(fmt::format("call {}", i));
    group.spawn(call_and_store(client, expected.back(), in(30s), replies));
  }
  while (group.size() > 0) context_.run_one();
  std::sort(replies.begin(), replies.end());
  std::sort(expected.begin(), expected.end());
  EXPECT_EQ(replies, expected);
}

TEST_F(RpcTest, EntersHandlersInTheOrderOfTheCalls) {
  std::vector<std::string> entered;
  auto handler = [&](Request request) -> Task<Response> {
    entered.push_back(request.parse<wire::ErrorReply>().value().message());
    // The earlier ones take longer, so that they end in another order.
    co_await sleep_for(std::chrono::milliseconds(20 - std::min<std::size_t>(entered.size(), 20)));
    co_return Response();
  };
  start_server(handler);
  auto& client = new_client();
  TaskGroup group(context_.get_executor());
  std::vector<std::string> replies;
  std::vector<std::string> expected;
  for (int i = 0; i < 50; ++i) {
    expected.push_back(fmt::format("{}", i));
    group.spawn(call_and_store(client, expected.back(), in(30s), replies));
  }
  while (group.size() > 0) context_.run_one();
  EXPECT_EQ(entered, expected);
}

TEST_F(RpcTest, PassesErrorsThrough) {
  auto handler = [](Request) -> Task<Response> { co_return Error(Errc::no_attribute, "no user.reel.x"); };
  start_server(handler);
  const auto reply = ask(new_client(), "x");
  ASSERT_FALSE(reply);
  EXPECT_EQ(reply.error().code(), Errc::no_attribute);
  EXPECT_EQ(reply.error().message(), "no user.reel.x");
}

TEST_F(RpcTest, TellsTheServerEpochMethodAndTimeLeft) {
  std::optional<Request> seen;
  auto handler = [&](Request request) -> Task<Response> {
    seen.emplace(std::move(request));
    co_return Response();
  };
  start_server(handler);
  auto& client = new_client();
  client.set_epoch(Epoch(42));
  ASSERT_TRUE(ask(client, "x", 5s));
  EXPECT_EQ(seen->epoch, Epoch(42));
  EXPECT_EQ(seen->method, wire::Method::lookup);
  EXPECT_GT(seen->connection, 0u);
  EXPECT_TRUE(seen->peer.starts_with("127.0.0.1:"));
  const auto left = seen->deadline.left(clock_);
  EXPECT_GT(left, 2s);
  EXPECT_LE(left, 5s);
}

TEST_F(RpcTest, EndsACallAtItsDeadlineAndCancelsItsHandler) {
  Event never;
  Event cancelled;
  auto handler = [&](Request) -> Task<Response> {
    const bool woken = co_await never.wait();
    if (!woken) cancelled.set();
    co_return Response();
  };
  start_server(handler);
  const auto begin = clock_.now();
  const auto reply = ask(new_client(), "slow", 50ms);
  ASSERT_FALSE(reply);
  EXPECT_EQ(reply.error().code(), Errc::timed_out);
  EXPECT_GE(clock_.now() - begin, 50ms);
  EXPECT_LT(clock_.now() - begin, 5s);
  EXPECT_TRUE(run(cancelled.wait()));
}

TEST_F(RpcTest, RefusesADeadlineThatHasPassed) {
  start_server(echo);
  const auto reply = ask(new_client(), "late", -1ms);
  ASSERT_FALSE(reply);
  EXPECT_EQ(reply.error().code(), Errc::timed_out);
}

TEST_F(RpcTest, CancellingACallCancelsItsHandler) {
  Event never;
  Event entered;
  Event cancelled;
  auto handler = [&](Request) -> Task<Response> {
    entered.set();
    const bool woken = co_await never.wait();
    if (!woken) cancelled.set();
    co_return Response();
  };
  start_server(handler);
  auto& client = new_client();
  TaskGroup group(context_.get_executor());
  std::vector<std::string> replies;
  group.spawn(call_and_store(client, "x", in(30s), replies));
  EXPECT_TRUE(run(entered.wait()));
  testing::run(context_, group.stop());
  EXPECT_EQ(replies, std::vector<std::string>{"cancelled"});
  EXPECT_TRUE(run(cancelled.wait()));
  EXPECT_TRUE(client.connected());
}

TEST_F(RpcTest, OneSlowCallDoesNotHoldUpOthers) {
  Event release;
  auto handler = [&](Request request) -> Task<Response> {
    const auto text = request.parse<wire::ErrorReply>().value().message();
    if (text == "slow") co_await release.wait();
    co_return Response();
  };
  start_server(handler);
  auto& client = new_client();
  TaskGroup group(context_.get_executor());
  std::vector<std::string> replies;
  group.spawn(call_and_store(client, "slow", in(30s), replies));
  ASSERT_TRUE(ask(client, "fast"));
  EXPECT_TRUE(replies.empty());
  release.set();
  while (group.size() > 0) context_.run_one();
  EXPECT_EQ(replies.size(), 1u);
}

TEST_F(RpcTest, IsUnavailableWhereNobodyListens) {
  start_server(echo);
  stop_server();
  const auto reply = ask(new_client(), "x");
  ASSERT_FALSE(reply);
  EXPECT_EQ(reply.error().code(), Errc::unavailable);
}

TEST_F(RpcTest, ABrokenConnectionEndsCallsAndTheNextCallConnectsAgain) {
  Event entered;
  Event never;
  auto handler = [&](Request) -> Task<Response> {
    entered.set();
    (void)co_await never.wait();
    co_return Response();
  };
  start_server(handler);
  auto& client = new_client();
  TaskGroup group(context_.get_executor());
  std::vector<std::string> replies;
  group.spawn(call_and_store(client, "x", in(30s), replies));
  EXPECT_TRUE(run(entered.wait()));
  stop_server();
  while (group.size() > 0) context_.run_one();
  EXPECT_EQ(replies, std::vector<std::string>{"unavailable"});
  EXPECT_FALSE(client.connected());
  start_server(echo);
  const auto reply = ask(client, "again");
  ASSERT_TRUE(reply) << reply.error().describe();
  EXPECT_EQ(text_of(reply.value()), "again");
}

TEST_F(RpcTest, StoppingTheClientCancelsItsCalls) {
  Event entered;
  Event never;
  auto handler = [&](Request) -> Task<Response> {
    entered.set();
    (void)co_await never.wait();
    co_return Response();
  };
  start_server(handler);
  auto& client = new_client();
  TaskGroup group(context_.get_executor());
  std::vector<std::string> replies;
  group.spawn(call_and_store(client, "x", in(30s), replies));
  EXPECT_TRUE(run(entered.wait()));
  testing::run(context_, client.stop());
  while (group.size() > 0) context_.run_one();
  EXPECT_EQ(replies, std::vector<std::string>{"cancelled"});
  const auto reply = ask(client, "after stop");
  ASSERT_FALSE(reply);
  EXPECT_EQ(reply.error().code(), Errc::cancelled);
}

TEST_F(RpcTest, TellsOfDisconnectedClients) {
  start_server(echo);
  std::uint64_t gone = 0;
  Event told;
  server_->on_disconnect([&](std::uint64_t connection) {
    gone = connection;
    told.set();
  });
  auto& client = new_client();
  ASSERT_TRUE(ask(client, "x"));
  testing::run(context_, client.stop());
  EXPECT_TRUE(run(told.wait()));
  EXPECT_EQ(gone, 1u);
}

TEST_F(RpcTest, ReadingPausesAboveTheLimitOfRequestsInFlight) {
  std::size_t running = 0;
  std::size_t most = 0;
  auto handler = [&](Request) -> Task<Response> {
    most = std::max(most, ++running);
    co_await sleep_for(1ms);
    --running;
    co_return Response();
  };
  ServerOptions options;
  options.max_in_flight_requests = 3;
  start_server(handler, options);
  auto& client = new_client();
  TaskGroup group(context_.get_executor());
  std::vector<std::string> replies;
  for (int i = 0; i < 20; ++i) group.spawn(call_and_store(client, "x", in(30s), replies));
  while (group.size() > 0) context_.run_one();
  EXPECT_EQ(replies.size(), 20u);
  EXPECT_EQ(most, 3u);
}

TEST_F(RpcTest, ReadingPausesAboveTheLimitOfBytesInFlight) {
  std::size_t bytes = 0;
  std::size_t most = 0;
  auto handler = [&](Request request) -> Task<Response> {
    const auto mine = request.payload.size();
    bytes += mine;
    most = std::max(most, bytes);
    co_await sleep_for(1ms);
    bytes -= mine;
    co_return Response();
  };
  ServerOptions options;
  options.max_in_flight_bytes = 250'000;
  start_server(handler, options);
  TaskGroup group(context_.get_executor());
  int good = 0;
  auto send = [&](Client& client) -> asio::awaitable<void> {
    for (int i = 0; i < 5; ++i) {
      const wire::Empty request;
      const auto reply = co_await client.call(wire::Method::append, request, in(30s), pattern(100'000));
      if (reply) ++good;
    }
  };
  for (int i = 0; i < 8; ++i) group.spawn(send(new_client()));
  while (group.size() > 0) context_.run_one();
  EXPECT_EQ(good, 40);
  EXPECT_LE(most, 250'000u);
  EXPECT_GT(most, 100'000u);
}

TEST_F(RpcTest, PlainTcpIsForLoopbackOnly) {
  Server server(context_, clock_, {}, echo);
  const auto bound = server.listen({"0.0.0.0", 0});
  ASSERT_FALSE(bound);
  EXPECT_EQ(bound.error().code(), Errc::bad_config);
  endpoint_ = {"192.0.2.1", 7400};
  const auto reply = ask(new_client(), "x");
  ASSERT_FALSE(reply);
  EXPECT_EQ(reply.error().code(), Errc::bad_config);
}

TEST_F(RpcTest, ConnectsByName) {
  start_server(echo);
  endpoint_.host = "localhost";
  EXPECT_TRUE(ask(new_client(), "x"));
}

TEST_F(RpcTest, AnAddressInUseIsBusy) {
  start_server(echo);
  Server second(context_, clock_, {}, echo);
  const auto bound = second.listen(endpoint_);
  ASSERT_FALSE(bound);
  EXPECT_EQ(bound.error().code(), Errc::busy);
}

TEST_F(RpcTest, RefusesWhatAFrameCannotCarry) {
  start_server(echo);
  const auto reply = ask(new_client(), "x", 10s, pattern(wire::kMaxPayloadBytes + 1));
  ASSERT_FALSE(reply);
  EXPECT_EQ(reply.error().code(), Errc::too_big);
}

TEST(Endpoint, ParsesHostAndPort) {
  EXPECT_EQ(Endpoint::parse("127.0.0.1:7400").value(), (Endpoint{"127.0.0.1", 7400}));
  EXPECT_EQ(Endpoint::parse("index.example:1").value(), (Endpoint{"index.example", 1}));
  EXPECT_EQ(Endpoint::parse("[::1]:65535").value(), (Endpoint{"::1", 65535}));
  EXPECT_EQ(Endpoint::parse("[::1]:65535").value().to_string(), "[::1]:65535");
  for (const auto* text : {"", ":1", "host", "host:", "host:x", "host:65536", "host:1x", "::1:5", "[::1:5",
                           "[[x]y]:7", "a b:1", "host:-1"}) {
    const auto parsed = Endpoint::parse(text);
    ASSERT_FALSE(parsed) << text;
    EXPECT_EQ(parsed.error().code(), Errc::invalid);
  }
}

}  // namespace
}  // namespace reelfs::rpc
