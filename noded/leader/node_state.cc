#include "noded/leader/node_state.h"

#include <algorithm>
#include <cctype>
#include <utility>

namespace reelfs::noded {
namespace {

/// Whether an area's name is one of this node's, not that of a node whose name begins with ours.
bool is_own_area(std::string_view suffix) {
  if (suffix == "unfilled") return true;
  for (const std::string_view kind : {"dev-", "proc-"}) {
    if (!suffix.starts_with(kind)) continue;
    const auto number = suffix.substr(kind.size());
    return !number.empty() &&
           std::all_of(number.begin(), number.end(), [](unsigned char c) { return std::isdigit(c); });
  }
  return false;
}

}  // namespace

std::vector<std::string> NodeState::own_areas(const std::string& prefix) const {
  auto areas = list_shm(prefix);
  std::erase_if(areas, [&](const std::string& name) {
    return !is_own_area(std::string_view(name).substr(names.prefix().size()));
  });
  return areas;
}

std::optional<Uuid> NodeState::node_is_alive() const {
  for (const auto& name : own_areas(names.process_prefix())) {
    const auto area = ProcessTable::attach(name, identity.cluster, Uuid{});
    if (area && is_alive(area.value()->process())) return area.value()->node_incarnation();
  }
  return std::nullopt;
}

Result<void> attach_areas(NodeState& state, const NodeAreas& areas) {
  const auto& cluster = state.identity.cluster;
  if (!state.attached()) {
    REELFS_TRY(auto unfilled, UnfilledTable::attach(areas.unfilled_shm, cluster, areas.incarnation));
    REELFS_TRY(auto process, ProcessTable::attach(areas.process_shm, cluster, areas.incarnation));
    state.incarnation = areas.incarnation;
    state.unfilled = std::move(unfilled);
    state.process = std::move(process);
    state.store.attach(*state.process, *state.unfilled);
  } else if (state.incarnation != areas.incarnation) {
    return Error(Errc::stale_handle, "the node's shared memory was made anew");
  }
  for (const auto& area : areas.devices) {
    if (state.store.find_device(area.device) != nullptr) continue;
    REELFS_TRY(auto table, DeviceTable::attach(area.shm_name, cluster, areas.incarnation));
    REELFS_TRY(auto file, state.open_device(area.path));
    state.store.add_device(std::move(file), std::move(table));
  }
  return ok();
}

}  // namespace reelfs::noded
