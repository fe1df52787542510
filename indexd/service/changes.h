#pragma once

#include <string>
#include <utility>

#include "common/async/task.h"
#include "common/base/clock.h"
#include "common/rpc/server.h"
#include "common/wire/index.pb.h"
#include "indexd/journal/executor.h"
#include "indexd/service/sessions.h"
#include "indexd/tree/answers.h"

namespace reelfs::indexd {

/// Carries out what sessions ask to be changed: each request once, however often it comes.
class Changes {
 public:
  Changes(Executor& index, Sessions& sessions, const Clock& clock)
      : index_(index), sessions_(sessions), clock_(clock) {}

  /// @param op  takes (Transaction&, WallNs now), returns a Result of the reply message. It runs the first
  /// time only, on another
  ///            thread, while the caller waits: it may fill in the caller's locals.
  /// @return the serialised reply, the same for a repetition
  /// @errors no_session, those of op
  template <class Op>
  Task<std::string> once(wire::RequestHeader header, Op op) {
    const auto request = request_of(header);
    REELFS_CO_TRY(sessions_.renew(request.session));
    const auto now = wall_ns();
    auto change = [&op, request, now](Transaction& txn) {
      return tree::answer_once(txn, request, [&]() -> Result<std::string> {
        REELFS_TRY(const auto reply, op(txn, now));
        return reply.SerializeAsString();
      });
    };
    co_return co_await index_.run(std::move(change));
  }

  static tree::Request request_of(const wire::RequestHeader& header) {
    return {SessionId{header.session()}, RequestId{header.request()}, header.acknowledged_below()};
  }
  WallNs wall_ns() const { return clock_.wall().time_since_epoch().count(); }

  static rpc::Response response(std::string message) {
    rpc::Response response;
    response.message = std::move(message);
    return response;
  }

 private:
  Executor& index_;
  Sessions& sessions_;
  const Clock& clock_;
};

}  // namespace reelfs::indexd
