#include <csignal>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include <CLI/CLI.hpp>
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/signal_set.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <prometheus/registry.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "common/async/blocking_pool.h"
#include "common/async/task_group.h"
#include "common/observe/log.h"
#include "common/observe/metrics_server.h"
#include "noded/device/local_devices.h"
#include "noded/shm/crash_point.h"
#include "noded/supervisor/supervisor.h"
#include "noded/worker/node_config.h"
#include "noded/worker/worker.h"

namespace {

using namespace reelfs;

constexpr std::size_t kSideThreads = 1;  // for describing the node

struct Arguments {
  std::filesystem::path config;
  std::uint32_t worker = 0;  // 0: the supervisor of all of them
};

/// Runs the worker until a signal or its failure, then stops it, and the loop where calls hang.
class Process {
 public:
  Process(asio::io_context& context, noded::Worker& worker, MetricsServer& metrics)
      : context_(context),
        worker_(worker),
        metrics_(metrics),
        signals_(context, SIGTERM, SIGINT),
        running_(context.get_executor()) {}

  asio::awaitable<void> run() {
    running_.spawn(run_worker());
    (void)co_await signals_.async_wait(asio::as_tuple(asio::use_awaitable));
    if (!failure_) logger("noded").info("stopping");
    co_await running_.stop();
    co_await worker_.stop();
    co_await metrics_.stop();
    if (worker_.hangs()) context_.stop();
  }
  const std::optional<Error>& failure() const { return failure_; }

 private:
  asio::awaitable<void> run_worker() {
    const auto ended = co_await worker_.run();
    if (ended.has_error()) failure_ = ended.error();
    signals_.cancel();
  }

  asio::io_context& context_;
  noded::Worker& worker_;
  MetricsServer& metrics_;
  asio::signal_set signals_;
  TaskGroup running_;
  std::optional<Error> failure_;
};

int tell(const Error& error, const Arguments& arguments) {
  std::fprintf(stderr, "noded: %s\n", error.describe().c_str());
  const bool refused = arguments.worker != 0 && error.code() == Errc::bad_config;
  return refused ? noded::kBadConfigStatus : 1;
}

Result<void> supervise(const Arguments& arguments, const noded::NodeConfig& config) {
  noded::Supervisor::Options options;
  options.config = arguments.config;
  options.workers = config.workers;
  const SystemClock clock;
  noded::Supervisor supervisor(clock, std::move(options));
  return supervisor.run();
}

Result<void> run_worker(const Arguments& arguments, const noded::NodeConfig& config) {
  if (arguments.worker > config.workers) {
    return Error(Errc::bad_config,
                 "node " + config.name + " has workers 1 to " + std::to_string(config.workers));
  }
  std::shared_ptr<const rpc::TlsContext> tls;
  if (!config.tls.empty()) {
    REELFS_TRY(tls, rpc::TlsContext::load(config.tls));
  }
  noded::LocalDevices devices(config.cluster, config.name, WorkerId(arguments.worker));
  BlockingPool side_pool(kSideThreads, "side");
  const SystemClock clock;
  asio::io_context context(1);
  noded::Worker::Options options;
  options.identity.cluster = config.cluster;
  options.identity.node_name = config.name;
  options.identity.worker = WorkerId(arguments.worker);
  options.identity.process = noded::ProcessIdentity::self();
  options.identity.boot = noded::machine_boot();
  options.rack = config.rack;
  options.indexes = config.indexes;
  options.addresses = config.addresses;
  options.internal_port = static_cast<std::uint16_t>(config.internal_port);
  options.leader.devices = config.devices;
  options.leader.device_list = config.device_list();
  options.device_limit = config.device_limit;
  options.scrub.worker = options.identity.worker;
  options.scrub.workers = config.workers;
  options.scrub.period = config.scrub_period;
  options.scrub.rate = config.scrub_rate;
  options.tls = tls;
  prometheus::Registry registry;
  MetricsServer metrics(context, registry, [] { return Result<void>(ok()); });
  if (config.metrics_listen) {
    const auto& listen = *config.metrics_listen;
    const auto own =
        listen.port == 0 ? 0 : listen.port + arguments.worker - 1;  // one configuration, several processes
    REELFS_TRY(const auto port, metrics.listen(listen.host, static_cast<std::uint16_t>(own)));
    logger("noded").info("metrics host={} port={}", listen.host, port);
  }
  noded::Worker worker(context, clock, side_pool, devices, registry, std::move(options));
  Process process(context, worker, metrics);
  TaskGroup main_group(context.get_executor());
  main_group.spawn(process.run());
  context.run();
  if (worker.hangs()) {
    // Threads are in calls that no signal ends: they cannot be joined, nor what they use be destroyed.
    logger("noded").error("ending while calls hang: what they have open stays in use until they return");
    _exit(process.failure() ? tell(*process.failure(), arguments) : 0);
  }
  if (process.failure()) return *process.failure();
  return ok();
}

Result<void> run(const Arguments& arguments) {
  auto config = noded::load_node_config(arguments.config);
  if (!config) return Error(Errc::bad_config, config.error().message());
  REELFS_TRY(init_logging(config.value().log, "noded"));
  return arguments.worker == 0 ? supervise(arguments, config.value()) : run_worker(arguments, config.value());
}

}  // namespace

int main(int argc, char** argv) {
  prctl(PR_SET_NAME,
        "noded");  // a supervisor starts its workers by way of /proc/self/exe, which would be the name
  CLI::App app("A reelfs storage node: all its worker processes, or one of them");
  Arguments arguments;
  app.add_option("--config", arguments.config, "The node's configuration file")->required();
  app.add_option("--worker", arguments.worker,
                 "Be this one of the node's workers, from 1, instead of starting all of them")
      ->check(CLI::Range(1, 1024));
  app.set_version_flag("--version", "noded " REELFS_VERSION);
  CLI11_PARSE(app, argc, argv);
  noded::arm_crash_point();
  const auto done = run(arguments);
  if (done) return 0;
  return tell(done.error(), arguments);
}
