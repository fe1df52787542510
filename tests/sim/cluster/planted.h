#pragma once

#include <string_view>

namespace reelfs::sim {

/// Mistakes that are planted, to see that they are found. Each takes out one rule of docs/design: in copies
/// of the product's sources, made by planted.cmake and linked into sim_cluster_planted alone.
enum class Bug {
  none,
  place_after_first_copy,  // the writer takes one copy's acknowledgement for all
  accept_old_generation,   // a node looks neither at generations nor at the fence
  fence_without_waiting,   // a fence does not wait for writes under way, nor makes anything durable
  trust_torn,              // the index takes the length of a copy that lost power for that of any other
  drop_short_copy,         // a copy that is behind is given back before it is made anew
  flush_without_length,    // a flush confirms whatever is there
  flush_nothing,           // a flush is answered without one
  seal_before_sync,        // copies are cut to a length that the index may forget
  commit_unchecked,        // an extent may lie behind the end of a sealed segment
  free_any_generation,     // a late order to free a copy reaches the one that was made since
  grant_before_sync,       // a grant is given before its row is on stable storage
  journal_sync_nothing,    // the index answers a sync without one
};
inline constexpr Bug kAllBugs[] = {
    Bug::place_after_first_copy, Bug::accept_old_generation,
    Bug::fence_without_waiting,  Bug::trust_torn,
    Bug::drop_short_copy,        Bug::flush_without_length,
    Bug::flush_nothing,          Bug::seal_before_sync,
    Bug::commit_unchecked,       Bug::free_any_generation,
    Bug::grant_before_sync,      Bug::journal_sync_nothing,
};
std::string_view to_string(Bug bug);

void plant(Bug bug);
bool planted(Bug bug);

}  // namespace reelfs::sim
