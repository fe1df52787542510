// BlockingPool without threads: what may block takes its time in the world instead. Linked instead of
// common/async/blocking_pool.cc. And threads have no descriptors of their own where there is one: instead of
// noded/device/own_descriptors.cc.
#include <boost/asio/this_coro.hpp>

#include "common/async/blocking_pool.h"
#include "noded/device/own_descriptors.h"
#include "tests/sim/cluster/world.h"

namespace reelfs {

using namespace std::chrono_literals;

struct BlockingPool::State {};

BlockingPool::BlockingPool(std::size_t, const char*, Duration) : state_(std::make_shared<State>()) {}
BlockingPool::~BlockingPool() = default;

void BlockingPool::post(std::function<void()> work) {
  sim::world().after(*sim::world().current(), sim::world().between(10us, 300us), std::move(work));
}

asio::awaitable<void> BlockingPool::run_erased(const std::function<void()>& work) {
  co_await sim::pass(sim::world().between(5us, 150us));
  work();
  co_await sim::pass(sim::world().between(5us, 150us));
}

}  // namespace reelfs

namespace reelfs::noded {

void use_own_descriptors(std::initializer_list<int>) {}

}  // namespace reelfs::noded
