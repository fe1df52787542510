#include "tests/sim/cluster/planted.h"

namespace reelfs::sim {
namespace {

Bug the_bug = Bug::none;

}  // namespace

void plant(Bug bug) { the_bug = bug; }
bool planted(Bug bug) { return the_bug == bug; }

std::string_view to_string(Bug bug) {
  switch (bug) {
    case Bug::none:
      return "none";
    case Bug::place_after_first_copy:
      return "place_after_first_copy";
    case Bug::accept_old_generation:
      return "accept_old_generation";
    case Bug::fence_without_waiting:
      return "fence_without_waiting";
    case Bug::trust_torn:
      return "trust_torn";
    case Bug::drop_short_copy:
      return "drop_short_copy";
    case Bug::flush_without_length:
      return "flush_without_length";
    case Bug::flush_nothing:
      return "flush_nothing";
    case Bug::seal_before_sync:
      return "seal_before_sync";
    case Bug::commit_unchecked:
      return "commit_unchecked";
    case Bug::free_any_generation:
      return "free_any_generation";
    case Bug::grant_before_sync:
      return "grant_before_sync";
    case Bug::journal_sync_nothing:
      return "journal_sync_nothing";
  }
  return "unknown";
}

}  // namespace reelfs::sim
