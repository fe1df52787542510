#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <vector>

#include "common/base/ids.h"
#include "common/wire/method.h"

namespace google::protobuf {
class MessageLite;
}
namespace reelfs::wire {
class JournalMark;
}

namespace reelfs::client {

/// Changes that an index server has answered and forgets where its machine loses power now: kept, in the
/// order of their answers, until its journal is known to be on stable storage behind them.
/// docs/design/durability.md
///
/// Holds no clock and no connection: IndexClient asks again.
class UnsettledChanges {
 public:
  struct Change {
    RequestId number;
    wire::Method method = wire::Method::none;
    std::shared_ptr<google::protobuf::MessageLite> request;  // with its header
    Epoch epoch;                                             // of who answered
    std::set<std::uint64_t> refused;                         // inodes that were refused, or gone, even then
  };

  void add(Change change);
  /// How many were added so far. Who asks for a mark notes it before.
  std::uint64_t added() const { return added_; }
  /// An index server said how far its journal goes, and how far it is on stable storage, when it was asked
  /// after so many had been added.
  void marked(std::uint64_t added_then, const wire::JournalMark& mark);
  /// The first so many are on stable storage, whoever answered them.
  void settled(std::uint64_t added_then);
  /// Forgets what is not to be asked for again. @return so many
  template <class Predicate>
  std::size_t drop_if(Predicate&& is_dropped) {
    const auto dropped =
        std::erase_if(kept_, [&](const auto& each) { return is_dropped(each.second.change); });
    number_anew();
    return dropped;
  }

  std::size_t size() const { return kept_.size(); }
  /// Answered by another index server than this one, so that it may not know of them.
  bool any_before(Epoch epoch) const;
  std::vector<Change> all() const;
  /// Requests below this number are settled.
  std::optional<std::uint64_t> lowest_number() const;

 private:
  struct Kept {
    Change change;
    std::uint64_t index = 0;  // it lies at or before this entry of the journal; 0: not known
  };
  void number_anew();

  std::map<std::uint64_t, Kept> kept_;  // by when they were added
  std::set<std::uint64_t> numbers_;     // of those
  std::uint64_t added_ = 0;
};

}  // namespace reelfs::client
