#include "noded/service/device_status.h"

namespace reelfs::noded {
namespace {

wire::State to_wire(DeviceStatus::State state) {
  switch (state) {
    case DeviceStatus::State::online:
      return wire::STATE_ONLINE;
    case DeviceStatus::State::blank:
      return wire::STATE_BLANK;
    case DeviceStatus::State::foreign:
      return wire::STATE_FOREIGN;
    case DeviceStatus::State::failed:
      return wire::STATE_FAILED;
    case DeviceStatus::State::offline:
      return wire::STATE_OFFLINE;
    case DeviceStatus::State::removed:
      return wire::STATE_REMOVED;
  }
  return wire::STATE_UNKNOWN;
}

}  // namespace

void to_wire(const DeviceStatus& status, wire::DeviceInfo& info) {
  info.set_device(status.device.value);
  if (!status.uuid.is_nil()) info.set_uuid(status.uuid.raw());
  info.set_path(status.path.string());
  info.set_state(to_wire(status.state));
  info.set_reason(status.reason);
  info.set_since_ns(status.since_ns);
}

wire::State to_wire(DeviceHealth health) {
  switch (health) {
    case DeviceHealth::serving:
      return wire::STATE_ONLINE;
    case DeviceHealth::stuck:
    case DeviceHealth::failed:
      return wire::STATE_FAILED;
    case DeviceHealth::offline:
      return wire::STATE_OFFLINE;
    case DeviceHealth::removed:
      return wire::STATE_REMOVED;
  }
  return wire::STATE_UNKNOWN;
}

}  // namespace reelfs::noded
