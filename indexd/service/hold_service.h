#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "common/async/task.h"
#include "common/base/clock.h"
#include "common/wire/index.pb.h"
#include "indexd/schema/transaction.h"
#include "indexd/service/dispatcher.h"

namespace prometheus {
class Gauge;
class Registry;
}  // namespace prometheus

namespace reelfs::indexd {

class Changes;
class Executor;
class Leases;
class Sessions;

/// Answers what operators ask about holds, and counts them. docs/guide/operations.md, "Holds"
class HoldService {
 public:
  HoldService(const Clock& clock, Executor& index, Sessions& sessions, Changes& changes, Leases& leases,
              prometheus::Registry& registry);
  void register_with(Dispatcher& dispatcher);
  /// Counts those that there are. @errors io, corrupt
  Task<void> start();

  Task<wire::AddHoldsReply> add_holds(wire::AddHoldsRequest request);
  Task<wire::ReleaseHoldsReply> release_holds(wire::ReleaseHoldsRequest request);
  Task<wire::ListHoldsReply> list_holds(wire::ListHoldsRequest request);

  /// A hold that is put on or released by an extended attribute. In words, who asks: "uid 1000 on recorder1".
  static Result<std::string> who(const Reader& reader, SessionId session, std::optional<std::uint32_t> uid);
  struct Changed {
    InodeId inode;
    std::string who;
    std::optional<std::string> reason;  // none: released
    std::uint64_t holds = 0;            // that there are now
  };
  /// To be told when it has been done.
  void changed(const Changed& change);

 private:
  /// Changes these, a few in one operation, and tells of it. What is gone meanwhile is passed over.
  /// @param change  takes (Transaction&, InodeId, WallNs now), returns a Result<void>
  /// @return how many were changed
  template <class Change>
  Task<std::uint64_t> change_all(SessionId session, std::vector<InodeId> inodes, Change change);

  const Clock& clock_;
  Executor& index_;
  Sessions& sessions_;
  Changes& changes_;
  Leases& leases_;
  prometheus::Gauge& holds_;
};

}  // namespace reelfs::indexd
