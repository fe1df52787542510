#include "indexd/service/leases.h"

#include <deque>
#include <optional>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>
#include <gtest/gtest.h>
#include <prometheus/registry.h>

#include "tests/unit/common/run.h"

namespace reelfs::indexd {
namespace {

using namespace std::chrono_literals;
using Reply = wire::WatchChangesReply;

constexpr SessionId kReader{1};
constexpr SessionId kWriter{2};
constexpr InodeId kFile{10};
constexpr InodeId kDirectory{11};

class LeasesTest : public ::testing::Test {
 protected:
  asio::awaitable<void> ask(SessionId session, std::uint64_t stream, std::uint64_t confirmed,
                            std::optional<Reply>& into) {
    wire::WatchChangesRequest request;
    request.set_session(session.value);
    request.set_stream(stream);
    request.set_confirmed(confirmed);
    auto reply = co_await leases.watch(std::move(request));
    if (reply) into = std::move(reply.value());
  }
  /// Asks without waiting for the answer, which confirms what was told before.
  void ask_on(SessionId session, Reply before, std::optional<Reply>& into) {
    into.reset();
    asio::co_spawn(context, ask(session, before.stream(), before.upto(), into), asio::detached);
    settle();
  }
  Reply ask_first(SessionId session) {
    auto& into = reply();
    testing::run(context, ask(session, 0, 0, into));
    return into.value();
  }
  /// The session watches, and has forgotten what it knew before; its next answer goes to `into`.
  void begin(SessionId session, std::optional<Reply>& into) {
    const auto first = ask_first(session);
    EXPECT_TRUE(first.everything());
    ask_on(session, first, into);
  }
  void change(Touched touched, bool& done) {
    auto run = [](Leases& where, Touched what, bool& ended) -> asio::awaitable<void> {
      co_await where.changed(kWriter, what);
      ended = true;
    };
    asio::co_spawn(context, run(leases, std::move(touched), done), asio::detached);
    settle();
  }
  void settle() {
    context.restart();
    context.poll();
  }
  /// What is left must not outlive the test.
  void TearDown() override {
    leases.session_ended(kReader);
    leases.session_ended(kWriter);
    settle();
  }

  // What coroutines fill in lives until they have ended.
  std::optional<Reply>& reply() { return replies_.emplace_back(); }
  bool& flag() { return flags_.emplace_back(false); }

  std::deque<std::optional<Reply>> replies_;
  std::deque<bool> flags_;
  asio::io_context context;
  SystemClock clock;
  prometheus::Registry registry;
  Leases leases{clock, 10s, registry};
};

TEST_F(LeasesTest, OnlyWhoWatchesGetsOne) {
  EXPECT_EQ(leases.grant(kReader, {kFile}, leases.mark()), 0u);
  const auto first = ask_first(kReader);
  EXPECT_TRUE(first.everything());
  EXPECT_EQ(leases.grant(kReader, {kFile}, leases.mark()), 0u) << "it has not yet forgotten what it knew";
  auto& news = reply();
  ask_on(kReader, first, news);
  EXPECT_EQ(leases.grant(kReader, {kFile}, leases.mark()), 10'000u);
}

TEST_F(LeasesTest, AChangeWaitsUntilTheHolderHasForgotten) {
  auto& news = reply();
  begin(kReader, news);
  ASSERT_GT(leases.grant(kReader, {kFile, kDirectory}, leases.mark()), 0u);
  auto& done = flag();
  change({{kFile}, {{kDirectory, "a"}}}, done);
  ASSERT_TRUE(news);
  EXPECT_FALSE(done);
  EXPECT_FALSE(news->everything());
  ASSERT_EQ(news->inodes_size(), 1);
  EXPECT_EQ(news->inodes(0), kFile.value);
  ASSERT_EQ(news->names_size(), 1);
  EXPECT_EQ(news->names(0).parent(), kDirectory.value);
  EXPECT_EQ(news->names(0).name(), "a");
  auto& next = reply();
  ask_on(kReader, *news, next);
  EXPECT_TRUE(done);
  EXPECT_FALSE(next);
}

TEST_F(LeasesTest, WhoHoldsNoneIsNotToldAndWhoChangesIsNot) {
  auto& readers = reply();
  auto& writers = reply();
  begin(kReader, readers);
  begin(kWriter, writers);
  ASSERT_GT(leases.grant(kReader, {kDirectory}, leases.mark()), 0u);
  ASSERT_GT(leases.grant(kWriter, {kFile}, leases.mark()), 0u);
  auto& done = flag();
  change({{kFile}, {}}, done);
  EXPECT_TRUE(done);
  EXPECT_FALSE(readers || writers);
}

TEST_F(LeasesTest, WhatWasReadBeforeAChangeIsNotLeasedAfterIt) {
  auto& news = reply();
  begin(kReader, news);
  const auto mark = leases.mark();
  auto& done = flag();
  change({{kDirectory}, {}}, done);
  EXPECT_EQ(leases.grant(kReader, {kDirectory, kFile}, mark), 0u);
  EXPECT_GT(leases.grant(kReader, {kFile}, mark), 0u) << "another was changed";
  for (std::uint64_t other = 100; other < 10'000; ++other) change({{InodeId{other}}, {}}, done);
  EXPECT_EQ(leases.grant(kReader, {kFile}, mark), 0u) << "too long ago to know";
  EXPECT_GT(leases.grant(kReader, {kDirectory, kFile}, leases.mark()), 0u);
}

TEST_F(LeasesTest, AChangeIsToldAlsoWhereNobodyAwaitsIt) {
  auto& news = reply();
  begin(kReader, news);
  ASSERT_GT(leases.grant(kReader, {kFile}, leases.mark()), 0u);
  { const auto given_up = leases.changed(kWriter, {{kFile}, {}}); }
  settle();
  ASSERT_TRUE(news);
  EXPECT_EQ(news->inodes_size(), 1);
}

TEST_F(LeasesTest, WhoDoesNotConfirmIsWaitedForOnceAndGetsNoLeases) {
  auto& news = reply();
  begin(kReader, news);
  ASSERT_GT(leases.grant(kReader, {kFile}, leases.mark()), 0u);
  const auto began = clock.now();
  testing::run(context, leases.changed(kWriter, {{kFile}, {}}));
  EXPECT_GE(clock.now() - began, Leases::kPatience);
  auto& done = flag();
  change({{kFile}, {}}, done);
  EXPECT_TRUE(done);
  EXPECT_EQ(leases.grant(kReader, {kFile}, leases.mark()), 0u);

  ASSERT_TRUE(news);
  auto& rest = reply();
  ask_on(kReader, *news, rest);
  ASSERT_TRUE(rest) << "the second change was not in the first answer";
  ask_on(kReader, *rest, news);
  EXPECT_GT(leases.grant(kReader, {kFile}, leases.mark()), 0u);
}

TEST_F(LeasesTest, AnAnswerThatWasLostIsGivenAgain) {
  auto& news = reply();
  begin(kReader, news);
  ASSERT_GT(leases.grant(kReader, {kFile}, leases.mark()), 0u);
  auto& done = flag();
  change({{kFile}, {}}, done);
  ASSERT_TRUE(news);
  Reply before = *news;
  before.set_upto(before.upto() - 1);
  ask_on(kReader, before, news);
  ASSERT_TRUE(news);
  EXPECT_EQ(news->inodes_size(), 1);
  EXPECT_FALSE(done);
  ask_on(kReader, *news, news);
  EXPECT_TRUE(done);
}

TEST_F(LeasesTest, WhoComesWithoutAStreamForgetsEverything) {
  auto& news = reply();
  begin(kReader, news);
  EXPECT_TRUE(ask_first(kReader).everything());
  EXPECT_EQ(leases.grant(kReader, {kFile}, leases.mark()), 0u);
}

TEST_F(LeasesTest, WhoIsTooFarBehindForgetsEverything) {
  auto& news = reply();
  begin(kReader, news);
  ASSERT_GT(leases.grant(kReader, {kFile}, leases.mark()), 0u);
  auto& done = flag();
  for (int i = 0; i < 20'000; ++i) change({{kFile}, {}}, done);
  ASSERT_TRUE(news);
  auto& rest = reply();
  ask_on(kReader, *news, rest);
  ASSERT_TRUE(rest);
  EXPECT_TRUE(rest->everything());
  EXPECT_EQ(rest->inodes_size(), 0);
  EXPECT_EQ(leases.grant(kReader, {kFile}, leases.mark()), 0u);
  ask_on(kReader, *rest, news);
  EXPECT_GT(leases.grant(kReader, {kFile}, leases.mark()), 0u);
}

TEST_F(LeasesTest, NobodyWaitsForASessionThatHasEnded) {
  auto& news = reply();
  begin(kReader, news);
  ASSERT_GT(leases.grant(kReader, {kFile}, leases.mark()), 0u);
  auto& done = flag();
  change({{kFile}, {}}, done);
  EXPECT_FALSE(done);
  leases.session_ended(kReader);
  settle();
  EXPECT_TRUE(done);
}

}  // namespace
}  // namespace reelfs::indexd
