#include "indexd/placement/slow_watch.h"

#include <algorithm>
#include <chrono>
#include <cmath>

namespace reelfs::indexd {
namespace {

using namespace std::chrono_literals;

constexpr double kHalfLife = 0.3;       // seconds: a long call is forgotten before its device is slow for it
constexpr Duration kLately = 1s;        // a device does something
constexpr Duration kRemembered = 1min;  // what it took when it did something last
constexpr Duration kTold = 1s;          // what a process said of calls that have not ended holds
/// One that is slow is to be so much nearer to its peers to be fast again.
constexpr double kForgiven = 0.5;

double seconds(Duration duration) { return std::chrono::duration<double>(duration).count(); }
Duration duration(double seconds) {
  return std::chrono::duration_cast<Duration>(std::chrono::duration<double>(seconds));
}

}  // namespace

void SlowWatch::Mean::add(TimePoint now, std::uint64_t calls, Duration took) {
  if (calls == 0) return;
  const auto weight = std::exp2(-seconds(now - heard) / kHalfLife);
  count = count * weight + static_cast<double>(calls);
  time = time * weight + seconds(took);
  heard = now;
}

std::optional<double> SlowWatch::Mean::takes(TimePoint now, Duration remembered) const {
  Duration longest{};
  for (const auto& [worker, waits] : waiting) {
    if (now - waits.told < kTold) longest = std::max(longest, waits.time);
  }
  if (count > 0 && now - heard < remembered) return std::max(time / count, seconds(longest));
  return longest > Duration::zero() ? std::optional(seconds(longest)) : std::nullopt;
}

void SlowWatch::heard(DeviceId id, WorkerId worker, TimePoint now, const DeviceCalls& calls) {
  auto& device = devices_[id];
  device.writes.add(now, calls.writes, calls.write_time);
  device.writes.waiting[worker] = {calls.oldest_write, now};
  device.flushes.add(now, calls.flushes, calls.flush_time);
  device.flushes.waiting[worker] = {calls.oldest_flush, now};
}

std::optional<double> SlowWatch::median_of_others(DeviceId id, Mean Device::*which, TimePoint now) const {
  std::vector<double> others;
  for (const auto& [other, device] : devices_) {
    if (other == id) continue;
    if (const auto takes = (device.*which).takes(now, kRemembered)) others.push_back(*takes);
  }
  if (others.empty()) return std::nullopt;
  const auto middle = others.begin() + static_cast<std::ptrdiff_t>(others.size() / 2);
  std::nth_element(others.begin(), middle, others.end());
  return *middle;
}

SlowWatch::Judgement SlowWatch::judge(DeviceId id, const Device& device, TimePoint now) const {
  Judgement judged;
  judged.change.device = id;
  judged.fast = true;
  for (const auto which : {&Device::flushes, &Device::writes}) {
    const auto takes = (device.*which).takes(now, kLately);
    const auto peers = median_of_others(id, which, now);
    if (!takes || !peers) continue;
    judged.known = true;
    const auto floor = seconds(kFloor);
    const bool is_slow = *takes > floor && *takes > options_.factor * *peers;
    const bool is_near = *takes <= floor || *takes <= kForgiven * options_.factor * *peers;
    judged.fast = judged.fast && is_near;
    if (is_slow && !judged.slow) {
      judged.slow = true;
      judged.change.by_flushes = which == &Device::flushes;
    }
    if (is_slow || judged.change.takes == Duration::zero()) {
      judged.change.takes = duration(*takes);
      judged.change.peers_take = duration(*peers);
    }
  }
  return judged;
}

std::vector<SlowWatch::Change> SlowWatch::look(TimePoint now) {
  std::vector<Change> changes;
  for (auto& [id, device] : devices_) {
    auto judged = judge(id, device, now);
    const bool is_otherwise = judged.known && (device.slow ? judged.fast : judged.slow);
    if (!is_otherwise) {
      device.otherwise_since.reset();
      continue;
    }
    if (!device.otherwise_since) device.otherwise_since = now;
    if (now - *device.otherwise_since < (device.slow ? options_.fast_after : options_.slow_after)) continue;
    device.slow = !device.slow;
    device.otherwise_since.reset();
    judged.change.slow = device.slow;
    changes.push_back(judged.change);
  }
  return changes;
}

bool SlowWatch::slow(DeviceId id) const {
  const auto found = devices_.find(id);
  return found != devices_.end() && found->second.slow;
}

SlowWatch::Latency SlowWatch::latency(DeviceId id) const {
  const auto found = devices_.find(id);
  if (found == devices_.end()) return {};
  const auto mean = [](const Mean& calls) {
    return calls.count > 0 ? duration(calls.time / calls.count) : Duration::zero();
  };
  return {mean(found->second.writes), mean(found->second.flushes)};
}

}  // namespace reelfs::indexd
