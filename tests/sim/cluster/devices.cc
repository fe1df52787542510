#include "tests/sim/cluster/devices.h"

#include <algorithm>
#include <utility>

namespace reelfs::sim {
namespace {

using namespace std::chrono_literals;

class SimFile final : public noded::DeviceFile {
 public:
  explicit SimFile(MachineDisk& machine) : machine_(machine), process_(*world().current()) {
    if (std::exchange(machine_.user, &process_) != &process_) machine_.files = 0;  // those before are gone
    ++machine_.files;
  }
  ~SimFile() override {
    if (machine_.user == &process_) --machine_.files;
  }

  Task<void> read(std::uint64_t offset, std::span<std::byte> into) override {
    co_await take_time(20us, 300us);
    co_return co_await machine_.disk.read(offset, into);
  }
  Task<void> write(std::uint64_t offset, std::span<const std::byte> from) override {
    // Who is killed in the middle of a write has written it, or not.
    const bool early = world().one_in(2);
    if (early) {
      REELFS_CO_TRY(co_await machine_.disk.write(offset, from));
    }
    co_await take_time(30us, 800us);
    if (early) co_return ok();
    co_return co_await machine_.disk.write(offset, from);
  }
  Task<void> sync() override {
    const auto upto = machine_.disk.mark();
    co_await take_time(300us, 5ms);
    co_return machine_.disk.sync_upto(upto);
  }
  Task<void> sync_by(std::function<Result<void>(const BlockingSync&)> work) override {
    const auto upto = machine_.disk.mark();
    co_await take_time(300us, 5ms);
    co_return work([this, upto] { return machine_.disk.sync_upto(upto); });
  }
  Task<void> discard(std::uint64_t offset, std::uint64_t bytes) override {
    co_await take_time(50us, 3ms);
    co_return co_await machine_.disk.discard(offset, bytes);
  }
  std::uint64_t size() const override { return machine_.disk.size(); }
  std::optional<bool> in_use_by(WorkerId) const override { return false; }

 private:
  asio::awaitable<void> take_time(Duration least, Duration most) {
    auto takes = world().between(least, most);
    if (world().one_in(60)) takes += world().between(1ms, 60ms);
    co_await pass(takes);
    while (machine_.hangs_until > world().now()) co_await pass(machine_.hangs_until - world().now());
  }

  MachineDisk& machine_;
  Process& process_;
};

}  // namespace

Task<noded::DeviceSight> SimDevices::look(std::filesystem::path path) {
  co_await pass(world().between(10us, 100us));
  noded::DeviceSight sight;
  const auto found = disks_.find(path);
  sight.present = found != disks_.end();
  if (!sight.present) {
    sight.reason = "there is nothing at this path";
  } else {
    sight.inode = 1 + static_cast<std::uint64_t>(std::distance(disks_.begin(), found));
  }
  co_return sight;
}

Task<std::unique_ptr<noded::DeviceFile>> SimDevices::open(std::filesystem::path path, Use use) {
  co_await pass(world().between(10us, 200us));
  const auto found = disks_.find(path);
  if (found == disks_.end()) co_return Error(Errc::not_found, "there is nothing at this path");
  auto& machine = *found->second;
  if (use == Use::first && machine.user == world().current() && machine.files > 0)
    co_return Error(Errc::busy, "still in use");
  std::unique_ptr<noded::DeviceFile> file = std::make_unique<SimFile>(machine);
  co_return std::move(file);
}

}  // namespace reelfs::sim
