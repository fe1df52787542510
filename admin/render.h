#pragma once

#include <string>

#include <nlohmann/json_fwd.hpp>

#include "common/wire/index.pb.h"

namespace reelfs::admin {

/// "online", "offline", "blank", "foreign", "failed", "suspect", "removed", "unknown"
std::string state_name(wire::State state);
/// "open", "sealed", …
std::string state_name(wire::SegmentState state);
/// "sealed", "behind", …
std::string state_name(wire::CopyState state);
std::string endpoint_text(const wire::Endpoint& endpoint);

/// As `reelctl … --json` gives them: the fields of the message by their names, with states in words.
nlohmann::json describe_node(const wire::NodeInfo& node);
nlohmann::json describe_device(const wire::DeviceInfo& device);
nlohmann::json describe_repair(const wire::RepairStatus& status);
nlohmann::json describe_damage(const wire::DamageCounts& counts);
/// What is at risk and what is being done about it, in a line; empty where there is nothing to tell.
std::string repair_line(const wire::RepairStatus& status);
/// The same of what is moved, so that nodes and devices are about equally full.
std::string rebalance_line(const wire::RebalanceStatus& status);
/// "slow for 3 min: a write takes 0.2 ms, a flush 130.1 ms"; empty where it is not slow.
std::string slow_text(const wire::DeviceInfo& device);
/// @param nodes  where names of nodes and paths of devices are looked up; a copy on one that is not there has
/// none
nlohmann::json describe_segment(const wire::SegmentInfo& segment, const wire::ListNodesReply& nodes);

}  // namespace reelfs::admin
