#include "indexd/tree/answers.h"

#include "tests/unit/indexd/tree/tree_test.h"

namespace reelfs::indexd::tree {
namespace {

class Answers : public TreeTest {
 protected:
  Answers() {
    txn_->put(SessionKey{SessionId{1}}, SessionRow{});
    txn_->put(SessionKey{SessionId{2}}, SessionRow{});
    txn_->keep();
  }
  Result<std::string> ask(std::uint64_t session, std::uint64_t request,
                          std::uint64_t acknowledged_below = 0) {
    return run([&] {
      return answer_once(*txn_,
                         {.session = SessionId{session},
                          .request = RequestId{request},
                          .acknowledged_below = acknowledged_below},
                         [&]() -> Result<std::string> {
                           ++carried_out_;
                           if (fails_) return Error(Errc::not_empty);
                           return fmt::format("answer {}", carried_out_);
                         });
    });
  }
  std::size_t kept() {
    std::size_t count = 0;
    EXPECT_TRUE(txn_->scan_table<AnswerKey>([&](const AnswerKey&, const AnswerRow&) { return ++count > 0; }));
    return count;
  }
  int carried_out_ = 0;
  bool fails_ = false;
};

TEST_F(Answers, ARepetitionGetsTheFirstAnswer) {
  EXPECT_EQ(ask(1, 5).value(), "answer 1");
  EXPECT_EQ(ask(1, 6).value(), "answer 2");
  EXPECT_EQ(ask(1, 5).value(), "answer 1");
  EXPECT_EQ(ask(2, 5).value(), "answer 3") << "another session's";
  EXPECT_EQ(ask(1, 4).value(), "answer 4") << "requests arrive in any order";
  EXPECT_EQ(carried_out_, 4);
}

TEST_F(Answers, AnErrorIsNotRemembered) {
  fails_ = true;
  EXPECT_EQ(code(ask(1, 5)), Errc::not_empty);
  fails_ = false;
  EXPECT_EQ(ask(1, 5).value(), "answer 2");
}

TEST_F(Answers, WithoutANumberEveryTimeIsTheFirst) {
  EXPECT_EQ(ask(1, 0).value(), "answer 1");
  EXPECT_EQ(ask(1, 0).value(), "answer 2");
  EXPECT_EQ(kept(), 0U);
}

TEST_F(Answers, GoWhenAcknowledgedAndAreNotCarriedOutAgain) {
  for (std::uint64_t request = 1; request <= 10; ++request) ASSERT_TRUE(ask(1, request));
  ASSERT_TRUE(ask(1, 11, 9));
  EXPECT_EQ(kept(), 3U);
  EXPECT_EQ(code(ask(1, 8)), Errc::invalid);
  EXPECT_EQ(ask(1, 9).value(), "answer 9");
  EXPECT_EQ(ask(1, 12, 500).value(), "answer 12") << "one cannot acknowledge what one is asking";
  EXPECT_EQ(ask(1, 12).value(), "answer 12");
  EXPECT_EQ(carried_out_, 12);
}

TEST_F(Answers, AreBoundedForASessionThatNeverAcknowledges) {
  ASSERT_TRUE(ask(1, 1));
  ASSERT_TRUE(ask(1, kMaxAnswers));
  EXPECT_EQ(kept(), 2U);
  ASSERT_TRUE(ask(1, kMaxAnswers + 2));
  EXPECT_EQ(kept(), 2U);
}

TEST_F(Answers, GoWithTheSession) {
  ASSERT_TRUE(ask(1, 1));
  ASSERT_TRUE(ask(1, 2, 2));
  ASSERT_TRUE(ask(2, 1));
  ASSERT_TRUE(run([&] {
    txn_->erase(SessionKey{SessionId{1}});
    return forget_answers(*txn_, SessionId{1});
  }));
  EXPECT_EQ(kept(), 1U);
  EXPECT_EQ(code(ask(1, 1)), Errc::no_session);
}

}  // namespace
}  // namespace reelfs::indexd::tree
