#include "noded/service/node_check.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <optional>

#include <fmt/format.h>

namespace reelfs::noded {
namespace {

constexpr std::uint32_t kPagesAtOnce = 64;

bool is_clean(const PageSlot& page) {
  return page.written >= page.changes && page.writer == 0 && page.late == 0;
}

std::optional<std::string> fault_of_owner(DeviceTable& table, std::uint32_t block, const MappedAreas& areas) {
  const BlockAddress address{table.device(), block};
  const auto owner = table.slot(block).owner;
  if (owner == 0) return std::nullopt;
  const auto process = areas.processes.find(WorkerId(owner));
  std::string fault;
  if (process == areas.processes.end()) {
    fault = fmt::format("block {} of device {} belongs to worker {}, which has no shared memory", block,
                        address.device.value, owner);
  } else {
    const auto listed = process->second->blocks();
    const bool is_listed = std::find(listed.begin(), listed.end(), address) != listed.end();
    if (is_listed || process->second->overflowed()) return std::nullopt;
    fault = fmt::format("block {} of device {} belongs to worker {}, which does not have it on its list",
                        block, address.device.value, owner);
  }
  // Put on the list before it is taken, and taken off after it is given back: else it has just changed hands.
  if (table.slot(block).owner != owner) return std::nullopt;
  return fault;
}

std::optional<std::string> fault_of_flushes(DeviceTable& table, const MappedAreas& areas) {
  const auto flushes = table.flushes();
  if (flushes.stable > flushes.begun) {
    return fmt::format("device {}: flush {} has succeeded, and {} have begun", table.device().value,
                       flushes.stable, flushes.begun);
  }
  if (!flushes.flusher || areas.processes.contains(flushes.flusher)) return std::nullopt;
  // It may have ended, and its area be gone, since the areas were attached.
  if (table.flushes().flusher != flushes.flusher) return std::nullopt;
  return fmt::format("device {} is being flushed by worker {}, which has no shared memory",
                     table.device().value, flushes.flusher.value);
}

}  // namespace

std::vector<std::string> check_areas(const MappedAreas& areas) {
  std::vector<std::string> faults;
  std::vector<std::uint64_t> segments;
  std::array<BlockSlot, 256> slots;
  for (const auto& [id, device] : areas.devices) {
    if (const auto sound = device->check(); !sound) {
      faults.push_back(fmt::format("device {}: {}", id.value, sound.error().message()));
    }
    if (auto fault = fault_of_flushes(*device, areas)) faults.push_back(std::move(*fault));
    // While a device is out of service another one may take the segment; a block report frees one of the two.
    const bool serves = device->serving();
    std::uint32_t first = 0;
    while (const auto count = device->copy_slots(first, slots)) {
      for (std::uint32_t i = 0; i < count; ++i) {
        const bool in_use = slots[i].descriptor.state != BlockState::free;
        if (in_use && serves) segments.push_back(slots[i].descriptor.segment);
        if (slots[i].owner == 0) continue;
        if (auto fault = fault_of_owner(*device, first + i, areas)) faults.push_back(std::move(*fault));
      }
      first += static_cast<std::uint32_t>(count);
    }
  }
  std::sort(segments.begin(), segments.end());
  for (auto twice = std::adjacent_find(segments.begin(), segments.end()); twice != segments.end();
       twice = std::adjacent_find(twice + 1, segments.end())) {
    faults.push_back(fmt::format("segment {} has two blocks", *twice));
  }
  return faults;
}

Task<std::vector<std::string>> check_device(DevicePtr device) {
  auto& table = device->table();
  const auto pages = table.page_count();
  std::vector<std::string> faults;
  std::array<PageSlot, kPagesAtOnce> before;
  Buffer memory(kPageBytes);
  for (std::uint32_t first = 0; first < pages; first += kPagesAtOnce) {
    const auto count = std::min(kPagesAtOnce, pages - first);
    table.copy_pages(first, std::span(before).first(count));
    auto disk = std::make_shared<Buffer>(count * kPageBytes);
    REELFS_CO_TRY(co_await device->read(table.geometry().table_offset + first * kPageBytes, disk));
    for (std::uint32_t i = 0; i < count; ++i) {
      const auto now = table.copy_page(first + i, memory.span());
      if (!is_clean(before[i]) || !is_clean(now) || before[i].changes != now.changes) continue;
      if (std::memcmp(memory.data(), disk->data() + i * kPageBytes, kPageBytes) == 0) continue;
      faults.push_back(fmt::format("device {}: page {} of its descriptor table is not what was written there",
                                   table.device().value, first + i));
    }
  }
  co_return std::move(faults);
}

}  // namespace reelfs::noded
