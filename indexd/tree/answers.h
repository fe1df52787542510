#pragma once

#include <functional>
#include <string>

#include "indexd/schema/transaction.h"

namespace reelfs::indexd::tree {

/// Which request this is, for carrying it out once.
struct Request {
  SessionId session;
  RequestId request;                     // none: carried out as often as it comes
  std::uint64_t acknowledged_below = 0;  // answers to requests below this one have arrived
};

/// A session's older answers are forgotten when it has this many.
inline constexpr std::uint64_t kMaxAnswers = 16384;

/// Carries a request out and remembers the serialised answer, or gives the answer of the first time. An error
/// is not remembered: what failed has changed nothing and may be tried again.
/// @errors no_session, invalid (acknowledged before), those of carry_out
Result<std::string> answer_once(Transaction& txn, const Request& request,
                                const std::function<Result<std::string>()>& carry_out);

/// Whether the request has been carried out before: answer_once() would not do it again.
Result<bool> is_answered(const Reader& reader, const Request& request);

/// With the session go its answers.
Result<void> forget_answers(Transaction& txn, SessionId session);

}  // namespace reelfs::indexd::tree
