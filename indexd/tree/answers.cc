#include "indexd/tree/answers.h"

#include <algorithm>
#include <limits>
#include <vector>

namespace reelfs::indexd::tree {
namespace {

Result<void> erase_answers(Transaction& txn, SessionId session, std::uint64_t from, std::uint64_t below) {
  std::vector<AnswerKey> gone;
  REELFS_TRY(txn.scan(AnswerKey{session, from}, AnswerKey{session, below},
                      [&](const AnswerKey& key, const AnswerRow&) {
                        gone.push_back(key);
                        return true;
                      }));
  for (const auto& key : gone) txn.erase(key);
  return ok();
}

}  // namespace

Result<std::string> answer_once(Transaction& txn, const Request& request,
                                const std::function<Result<std::string>()>& carry_out) {
  if (!request.request) return carry_out();
  const auto number = request.request.value;
  REELFS_TRY(const auto is_open, txn.has(SessionKey{request.session}));
  if (!is_open) return Error(Errc::no_session);
  const AnswerKey key{request.session, number};
  REELFS_TRY(auto first, txn.find(key));
  if (first) return std::move(first->answer);

  const AcknowledgedKey acknowledged_key{request.session};
  REELFS_TRY(auto stored, txn.find(acknowledged_key));
  auto acknowledged = stored.value_or(AcknowledgedRow{});
  if (number < acknowledged.below)
    return Error(Errc::invalid, "the answer to this request has been acknowledged");
  const auto oldest_kept = number > kMaxAnswers ? number - kMaxAnswers : 0;
  const auto below = std::min(number, std::max(request.acknowledged_below, oldest_kept));
  if (below > acknowledged.below) {
    REELFS_TRY(erase_answers(txn, request.session, acknowledged.below, below));
    acknowledged.below = below;
    txn.put(acknowledged_key, acknowledged);
  }
  REELFS_TRY(auto answer, carry_out());
  txn.put(key, AnswerRow{answer});
  return answer;
}

Result<bool> is_answered(const Reader& reader, const Request& request) {
  if (!request.request) return false;
  REELFS_TRY(const auto acknowledged, reader.find(AcknowledgedKey{request.session}));
  if (acknowledged && request.request.value < acknowledged->below) return true;
  return reader.has(AnswerKey{request.session, request.request.value});
}

Result<void> forget_answers(Transaction& txn, SessionId session) {
  txn.erase(AcknowledgedKey{session});
  return erase_answers(txn, session, 0, std::numeric_limits<std::uint64_t>::max());
}

}  // namespace reelfs::indexd::tree
