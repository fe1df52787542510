#pragma once

#include <string>

#include <nlohmann/json_fwd.hpp>

#include "common/wire/index.pb.h"

namespace reelfs::admin {

/// "online", "offline", "blank", "foreign", "failed", "suspect", "removed", "unknown"
std::string state_name(wire::State state);
/// "open", "sealed", …
std::string state_name(wire::SegmentState state);
std::string endpoint_text(const wire::Endpoint& endpoint);

/// As `reelctl … --json` gives them: the fields of the message by their names, with states in words.
nlohmann::json describe_node(const wire::NodeInfo& node);
nlohmann::json describe_device(const wire::DeviceInfo& device);
nlohmann::json describe_repair(const wire::RepairStatus& status);
/// What is at risk and what is being done about it, in a line; empty where there is nothing to tell.
std::string repair_line(const wire::RepairStatus& status);
/// @param nodes  where names of nodes and paths of devices are looked up; a copy on one that is not there has
/// none
nlohmann::json describe_segment(const wire::SegmentInfo& segment, const wire::ListNodesReply& nodes);

}  // namespace reelfs::admin
