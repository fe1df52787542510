#include "noded/service/leader_service.h"

#include <utility>

#include "common/wire/node.pb.h"
#include "noded/service/device_status.h"

namespace reelfs::noded {
namespace {

Task<rpc::Response> join(Leader& leader, const NodeIdentity& identity, rpc::Request request) {
  REELFS_CO_TRY(const auto message, request.parse<wire::JoinNodeRequest>());
  REELFS_CO_TRY(const auto cluster, Uuid::from_bytes(message.cluster()));
  if (cluster != identity.cluster || message.node_name() != identity.node_name) {
    co_return Error(Errc::not_permitted, "the internal port is that of node " + identity.node_name +
                                             " of cluster " + identity.cluster.to_string());
  }
  Leader::Joining joining;
  joining.worker = WorkerId(message.worker());
  joining.process.pid = message.pid();
  joining.process.start_ticks = message.start_ticks();
  joining.first = message.first();
  joining.sees_device = message.sees_device();
  REELFS_CO_TRY(const auto areas, co_await leader.join(joining));
  wire::JoinNodeReply reply;
  reply.set_incarnation(areas.incarnation.raw());
  reply.set_pid(areas.leader_pid);
  reply.set_process_shm(areas.process_shm);
  reply.set_unfilled_shm(areas.unfilled_shm);
  for (const auto& area : areas.devices) {
    auto& device = *reply.add_devices();
    device.set_device(area.device.value);
    device.set_shm_name(area.shm_name);
    device.set_path(area.path.string());
    device.set_life(area.life);
  }
  for (const auto& path : areas.awaited) reply.add_awaited(path.string());
  co_return rpc::Response(reply);
}

Task<rpc::Response> initialise(Leader& leader, rpc::Request request) {
  REELFS_CO_TRY(const auto message, request.parse<wire::InitialiseDeviceRequest>());
  NewDevice device;
  device.path = message.path();
  REELFS_CO_TRY(device.uuid, Uuid::from_bytes(message.uuid()));
  device.device = DeviceId(message.device());
  device.block_bytes = message.block_bytes();
  REELFS_CO_TRY(co_await leader.initialise_device(std::move(device)));
  co_return rpc::Response(wire::Empty());
}

Task<rpc::Response> attach(Leader& leader, rpc::Request request) {
  REELFS_CO_TRY(const auto message, request.parse<wire::AttachDeviceRequest>());
  REELFS_CO_TRY(leader.heed(message.path(), message.command()));
  REELFS_CO_TRY(const auto status, co_await leader.add_device(message.path(), message.block_bytes()));
  wire::AttachDeviceReply reply;
  to_wire(status, *reply.mutable_device());
  co_return rpc::Response(reply);
}

Task<rpc::Response> detach(Leader& leader, rpc::Request request) {
  REELFS_CO_TRY(const auto message, request.parse<wire::DetachDeviceRequest>());
  REELFS_CO_TRY(leader.heed(message.path(), message.command()));
  REELFS_CO_TRY(const auto status, co_await leader.remove_device(message.path()));
  wire::DetachDeviceReply reply;
  to_wire(status, *reply.mutable_device());
  co_return rpc::Response(reply);
}

}  // namespace

Task<rpc::Response> serve_follower(Leader& leader, const NodeIdentity& identity, rpc::Request request) {
  if (request.method == wire::Method::join_node)
    co_return co_await join(leader, identity, std::move(request));
  if (request.method == wire::Method::initialise_device)
    co_return co_await initialise(leader, std::move(request));
  if (request.method == wire::Method::attach_device) co_return co_await attach(leader, std::move(request));
  if (request.method == wire::Method::detach_device) co_return co_await detach(leader, std::move(request));
  co_return Error(Errc::unsupported,
                  "a leader does not answer " + std::string(wire::to_string(request.method)));
}

Task<NodeAreas> join_node(rpc::Client& leader, NodeIdentity identity, Joins joins, Deadline deadline) {
  wire::JoinNodeRequest request;
  request.set_cluster(identity.cluster.raw());
  request.set_node_name(identity.node_name);
  request.set_worker(identity.worker.value);
  request.set_pid(identity.process.pid);
  request.set_start_ticks(identity.process.start_ticks);
  request.set_first(joins.first);
  request.set_sees_device(joins.sees_device);
  REELFS_CO_TRY(const auto reply,
                co_await leader.call_for<wire::JoinNodeReply>(wire::Method::join_node, request, deadline));
  NodeAreas areas;
  REELFS_CO_TRY(areas.incarnation, Uuid::from_bytes(reply.incarnation()));
  areas.leader_pid = reply.pid();
  areas.process_shm = reply.process_shm();
  areas.unfilled_shm = reply.unfilled_shm();
  for (const auto& device : reply.devices()) {
    NodeAreas::DeviceArea area;
    area.device = DeviceId(device.device());
    area.shm_name = device.shm_name();
    area.path = device.path();
    area.life = device.life();
    areas.devices.push_back(std::move(area));
  }
  for (const auto& path : reply.awaited()) areas.awaited.emplace_back(path);
  co_return std::move(areas);
}

Task<void> forward_initialise_device(rpc::Client& leader, Uuid cluster, NewDevice device, Deadline deadline) {
  wire::InitialiseDeviceRequest request;
  request.set_path(device.path.string());
  request.set_uuid(device.uuid.raw());
  request.set_device(device.device.value);
  request.set_cluster(cluster.raw());
  request.set_block_bytes(device.block_bytes);
  REELFS_CO_TRY(co_await leader.call(wire::Method::initialise_device, request, deadline));
  co_return ok();
}

Task<wire::DeviceInfo> forward_attach_device(rpc::Client& leader, wire::AttachDeviceRequest request,
                                             Deadline deadline) {
  REELFS_CO_TRY(auto reply, co_await leader.call_for<wire::AttachDeviceReply>(wire::Method::attach_device,
                                                                              request, deadline));
  co_return std::move(*reply.mutable_device());
}

Task<wire::DeviceInfo> forward_detach_device(rpc::Client& leader, wire::DetachDeviceRequest request,
                                             Deadline deadline) {
  REELFS_CO_TRY(auto reply, co_await leader.call_for<wire::DetachDeviceReply>(wire::Method::detach_device,
                                                                              request, deadline));
  co_return std::move(*reply.mutable_device());
}

}  // namespace reelfs::noded
