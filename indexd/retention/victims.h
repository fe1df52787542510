#pragma once

#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "indexd/schema/transaction.h"
#include "indexd/tree/recordings.h"

namespace reelfs::indexd {

/// What is to go from a channel.
struct VictimsWanted {
  InodeId channel;
  std::uint64_t bytes = 0;              // at least, where so much may go
  std::optional<WallNs> older_than_ns;  // and all whose newest byte is older than this
  WallNs young_from_ns = 0;             // nothing whose newest byte is as new as this
  std::set<InodeId> being_written;      // none of these
};

struct Victim {
  InodeId inode;
  std::string path;  // one of them
  std::uint64_t bytes = 0;
  WallNs last_ns = 0;
  tree::Removed removed;
};

struct Victims {
  std::vector<Victim> victims;
  std::uint64_t bytes = 0;
  bool more = false;  // there may be others to go yet: a step takes a bounded number
};

/// Takes the names away of the channel's oldest recordings, the one whose newest byte is oldest first. None
/// that is held. Recordings without a byte go by age alone.
Result<Victims> remove_victims(Transaction& txn, const VictimsWanted& wanted, WallNs now);

}  // namespace reelfs::indexd
