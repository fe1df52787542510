#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>

#include "tests/unit/indexd/service/index_fixture.h"

namespace reelfs::indexd {
namespace {

class LockServiceTest : public IndexTest {
 protected:
  LockServiceTest() { options.boot_id = "first run"; }

  static wire::Lock write_lock(std::uint64_t owner) {
    wire::Lock lock;
    lock.set_inode(1);
    lock.set_kind(wire::LOCK_KIND_POSIX);
    lock.set_owner(owner);
    lock.set_last(9);
    lock.set_type(wire::LOCK_TYPE_WRITE);
    return lock;
  }
  wire::SetLockRequest request(std::uint64_t session, const wire::Lock& lock, std::uint64_t wait = 0) {
    wire::SetLockRequest message;
    message.set_session(session);
    message.set_assertion(assertions[session]);
    *message.mutable_lock() = lock;
    message.set_wait(wait);
    message.set_patience_ms(60'000);
    return message;
  }
  wire::LockOutcome set(std::uint64_t session, const wire::Lock& lock, std::uint64_t wait = 0) {
    const auto reply = call<wire::SetLockReply>(Method::set_lock, request(session, lock, wait));
    EXPECT_TRUE(reply) << reply.error().describe();
    return reply ? reply.value().outcome() : wire::LOCK_OUTCOME_UNKNOWN;
  }
  /// Asks, and does not wait for the answer.
  void begin(std::uint64_t session, const wire::Lock& lock, std::uint64_t wait,
             std::optional<Result<wire::SetLockReply>>& into) {
    auto asked = client->call_for<wire::SetLockReply>(Method::set_lock, request(session, lock, wait),
                                                      Deadline::after(clock, kPatience));
    asio::co_spawn(context, testing::store(std::move(asked), into), asio::detached);
  }
  Result<wire::OpenSessionReply> resume(std::uint64_t session, std::vector<wire::Lock> held) {
    wire::OpenSessionRequest message;
    message.set_resume(session);
    message.set_lock_assertion(++assertions[session]);
    for (const auto& lock : held) *message.add_locks() = lock;
    return call<wire::OpenSessionReply>(Method::open_session, message);
  }
  std::vector<wire::LockInfo> list() {
    wire::ListLocksRequest message;
    message.set_limit(100);
    const auto reply = call<wire::ListLocksReply>(Method::list_locks, message);
    EXPECT_TRUE(reply && reply.value().end());
    return reply ? std::vector(reply.value().locks().begin(), reply.value().locks().end())
                 : std::vector<wire::LockInfo>();
  }
  std::size_t waiting() {
    const auto all = list();
    return static_cast<std::size_t>(
        std::count_if(all.begin(), all.end(), [](const auto& info) { return info.waiting(); }));
  }
  wire::Lock unlock(wire::Lock lock) {
    lock.set_type(wire::LOCK_TYPE_NONE);
    return lock;
  }

  std::map<std::uint64_t, std::uint64_t> assertions;
};

TEST_F(LockServiceTest, AWaitIsAnsweredWhenTheLockIsFree) {
  start();
  const auto one = open_session();
  const auto two = open_session();
  EXPECT_EQ(set(one, write_lock(1)), wire::LOCK_OUTCOME_GRANTED);
  EXPECT_EQ(set(two, write_lock(1)), wire::LOCK_OUTCOME_REFUSED);
  std::optional<Result<wire::SetLockReply>> answer;
  begin(two, write_lock(1), 1, answer);
  while (waiting() == 0) {
  }
  EXPECT_FALSE(answer);
  EXPECT_EQ(set(one, unlock(write_lock(1))), wire::LOCK_OUTCOME_GRANTED);
  ASSERT_TRUE(eventually([&] { return answer.has_value(); }));
  EXPECT_EQ(answer->value().outcome(), wire::LOCK_OUTCOME_GRANTED);
  ASSERT_EQ(list().size(), 1U);
  EXPECT_EQ(list().front().session(), two);
}

TEST_F(LockServiceTest, AWaitIsAnsweredNowAndThen) {
  start();
  const auto one = open_session();
  const auto two = open_session();
  set(one, write_lock(1));
  const auto before = clock.now();
  EXPECT_EQ(set(two, write_lock(1), 1), wire::LOCK_OUTCOME_WAITING);
  EXPECT_GE(clock.now() - before, std::chrono::milliseconds(900));
  EXPECT_EQ(waiting(), 1U);
  close_session(one);
  EXPECT_EQ(set(two, write_lock(1), 1), wire::LOCK_OUTCOME_GRANTED);
  EXPECT_EQ(waiting(), 0U);
}

TEST_F(LockServiceTest, LocksAreThereAfterARestartAndWantToBeAsserted) {
  start();
  const auto one = open_session();
  const auto two = open_session();
  set(one, write_lock(1));
  restart();
  ASSERT_EQ(list().size(), 1U);
  ASSERT_TRUE(resume(two, {}));
  EXPECT_EQ(set(two, write_lock(1)), wire::LOCK_OUTCOME_REFUSED);  // at once: nothing can have been lost
  const auto early = call<wire::SetLockReply>(Method::set_lock, request(one, unlock(write_lock(1))));
  EXPECT_EQ(early.error().code(), Errc::no_session);
  ASSERT_TRUE(resume(one, {write_lock(1)}));
  EXPECT_EQ(set(two, write_lock(1)), wire::LOCK_OUTCOME_REFUSED);
  ASSERT_TRUE(resume(one, {}));
  EXPECT_EQ(set(two, write_lock(1)), wire::LOCK_OUTCOME_GRANTED);
  const auto late = resume(one, {write_lock(1)});
  ASSERT_TRUE(late);
  EXPECT_EQ(late.value().lost_locks_size(), 1);
}

TEST_F(LockServiceTest, AfterARestartOfTheMachineAllAreHeardFirst) {
  start();
  const auto one = open_session();
  const auto two = open_session();
  set(one, write_lock(1));
  options.boot_id = "second run";
  restart();
  ASSERT_TRUE(resume(two, {}));
  std::optional<Result<wire::SetLockReply>> answer;
  auto other = write_lock(1);
  other.set_first(100);
  other.set_last(100);
  begin(two, other, 0, answer);
  wire::GetAttributesRequest root;
  root.set_inode(1);
  ASSERT_TRUE(call<wire::AttributesReply>(Method::get_attributes, root));
  EXPECT_FALSE(answer);
  ASSERT_TRUE(resume(one, {write_lock(1)}));
  ASSERT_TRUE(eventually([&] { return answer.has_value(); }));
  EXPECT_EQ(answer->value().outcome(), wire::LOCK_OUTCOME_GRANTED);
}

TEST_F(LockServiceTest, WhatNoFileHasIsRefused) {
  start();
  const auto one = open_session();
  for (int broken = 0; broken < 5; ++broken) {
    auto lock = write_lock(1);
    if (broken == 0) lock.set_first(10);
    if (broken == 1) lock.set_last(UINT64_MAX);
    if (broken == 2) lock.set_inode(0);
    if (broken == 3) lock.set_kind(wire::LOCK_KIND_UNKNOWN);
    if (broken == 4) lock.set_type(static_cast<wire::LockType>(77));
    const auto reply = call<wire::SetLockReply>(Method::set_lock, request(one, lock));
    EXPECT_EQ(reply.error().code(), Errc::invalid) << broken;
  }
  EXPECT_TRUE(list().empty());
}

}  // namespace
}  // namespace reelfs::indexd
