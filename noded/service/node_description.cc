#include "noded/service/node_description.h"

#include <algorithm>
#include <array>
#include <map>
#include <utility>

#include "noded/service/device_status.h"

namespace reelfs::noded {
namespace {

constexpr int kMaxBlocksTold = 256;  // of each process
constexpr int kMaxUnfilledTold = 4096;

/// By worker, in its order.
using Processes = std::map<WorkerId, wire::ProcessDescription>;

void count_block(const BlockSlot& slot, wire::DeviceDescription& told) {
  told.set_appends_in_flight(told.appends_in_flight() + slot.in_flight);
  switch (slot.descriptor.state) {
    case BlockState::free:
      if (slot.discarding != 0) return told.set_freeing_blocks(told.freeing_blocks() + 1);
      return told.set_free_blocks(told.free_blocks() + 1);
    case BlockState::open:
      if (slot.owner != 0 || slot.descriptor.fenced == 1) return told.set_open_blocks(told.open_blocks() + 1);
      return told.set_unfilled_blocks(told.unfilled_blocks() + 1);
    case BlockState::sealed:
      return told.set_sealed_blocks(told.sealed_blocks() + 1);
  }
}

void count_owned(BlockAddress address, const BlockSlot& slot, Processes& processes) {
  const auto owner = processes.find(WorkerId(slot.owner));
  if (owner == processes.end()) return;
  auto& told = owner->second;
  told.set_owned_blocks(told.owned_blocks() + 1);
  told.set_appends_in_flight(told.appends_in_flight() + slot.in_flight);
  if (told.blocks_size() >= kMaxBlocksTold) return;
  auto& block = *told.add_blocks();
  block.set_device(address.device.value);
  block.set_block(address.block);
  block.set_segment(slot.descriptor.segment);
  block.set_appends_in_flight(slot.in_flight);
}

wire::DeviceDescription describe_device(DeviceTable& table, Processes& processes) {
  wire::DeviceDescription told;
  told.set_device(table.device().value);
  told.set_uuid(table.uuid().raw());
  told.set_path(table.path());
  const auto verdict = table.verdict();
  told.set_state(to_wire(verdict.health));
  told.set_reason(verdict.reason);
  told.set_block_bytes(table.geometry().block_bytes);
  told.set_repairs(table.repair_count());
  std::array<BlockSlot, 256> slots;
  std::uint32_t first = 0;
  while (const auto count = table.copy_slots(first, slots)) {
    for (std::uint32_t i = 0; i < count; ++i) {
      count_block(slots[i], told);
      if (slots[i].owner != 0) count_owned({table.device(), first + i}, slots[i], processes);
    }
    first += static_cast<std::uint32_t>(count);
  }
  std::array<PageSlot, 256> pages;
  first = 0;
  while (const auto count = table.copy_pages(first, pages)) {
    for (std::uint32_t i = 0; i < count; ++i) {
      if (pages[i].written < pages[i].changes || pages[i].late != 0)
        told.set_dirty_pages(told.dirty_pages() + 1);
      const auto writer = processes.find(WorkerId(pages[i].writer));
      if (writer == processes.end()) continue;
      writer->second.set_claimed_pages(writer->second.claimed_pages() + 1);
    }
    first += static_cast<std::uint32_t>(count);
  }
  return told;
}

void describe_unfilled(UnfilledTable& table, wire::DescribeNodeReply& reply) {
  reply.set_epoch(table.epoch().value);
  const auto entries = table.entries();
  reply.set_unfilled_entries(static_cast<std::uint32_t>(entries.size()));
  for (const auto& entry : entries) {
    if (reply.unfilled_size() >= kMaxUnfilledTold) return;
    auto& told = *reply.add_unfilled();
    told.set_device(entry.device);
    told.set_block(entry.block);
    told.set_segment(entry.segment);
    told.set_length(entry.length);
  }
}

}  // namespace

MappedAreas MappedAreas::attach(const DescriptionOrder& order) {
  MappedAreas areas;
  for (const auto& name : order.areas) {
    // Whichever kind it is: each refuses the others.
    if (auto process = ProcessTable::attach(name, order.cluster, order.incarnation)) {
      const auto worker = process.value()->worker();
      areas.processes[worker] = std::move(process).value();
    } else if (auto device = DeviceTable::attach(name, order.cluster, order.incarnation)) {
      const auto id = device.value()->device();
      areas.devices[id] = std::move(device).value();
    } else if (auto unfilled = UnfilledTable::attach(name, order.cluster, order.incarnation)) {
      areas.unfilled = std::move(unfilled).value();
    }
  }
  return areas;
}

wire::DescribeNodeReply describe_node(const DescriptionOrder& order, const MappedAreas& areas) {
  wire::DescribeNodeReply reply;
  reply.set_incarnation(order.incarnation.raw());
  Processes processes;
  for (const auto& [worker, process] : areas.processes) {
    const auto identity = process->process();
    auto& told = processes[worker];
    told.set_worker(worker.value);
    told.set_pid(identity.pid);
    told.set_leader(identity.pid == order.leader_pid);
    told.set_alive(is_running(identity));
    told.set_started_ns(started_at_ns(identity, order.wall_ns));
  }
  if (areas.unfilled) describe_unfilled(*areas.unfilled, reply);
  for (const auto& [id, device] : areas.devices) *reply.add_devices() = describe_device(*device, processes);
  for (auto& [worker, process] : processes) *reply.add_processes() = std::move(process);
  return reply;
}

}  // namespace reelfs::noded
