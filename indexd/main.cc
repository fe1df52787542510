// indexd: keeps a cluster's names, attributes, extents, segments and nodes.
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <optional>
#include <string>

#include <CLI/CLI.hpp>
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/signal_set.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <prometheus/registry.h>
#include <sys/resource.h>

#include "common/async/task_group.h"
#include "common/observe/log.h"
#include "common/observe/metrics_server.h"
#include "common/rpc/server.h"
#include "indexd/index_config.h"
#include "indexd/journal/executor.h"
#include "indexd/service/index_service.h"
#include "indexd/service/restore.h"

namespace {

using namespace reelfs;
using namespace reelfs::indexd;

spdlog::logger& log() {
  static auto& instance = logger("indexd");
  return instance;
}

/// Serves until a signal comes.
class Process {
 public:
  Process(asio::io_context& context, const IndexConfig& config, Executor& index, IndexService& service,
          rpc::Server& server, MetricsServer& metrics)
      : config_(config),
        index_(index),
        service_(service),
        server_(server),
        metrics_(metrics),
        signals_(context, SIGTERM, SIGINT) {}

  asio::awaitable<void> run() {
    auto serving = serve();
    const auto started = co_await std::move(serving);
    service_.on_collected([this] {
      opens_anew_ = true;
      signals_.cancel();
    });
    if (started) {
      (void)co_await signals_.async_wait(asio::as_tuple(asio::use_awaitable));
      log().info(opens_anew_ ? "opening the index anew" : "stopping");
    } else {
      failure_ = started.error();
    }
    co_await server_.stop();
    co_await metrics_.stop();
    co_await service_.stop();
    const auto synced = co_await index_.sync();
    if (!synced && !failure_) failure_ = synced.error();
  }
  const std::optional<Error>& failure() const { return failure_; }
  /// It ended because the index is to be made of what was collected.
  bool opens_anew() const { return opens_anew_; }

 private:
  Task<void> serve() {
    REELFS_CO_TRY(co_await service_.start());
    if (config_.metrics_listen) {
      REELFS_CO_TRY(const auto port,
                    metrics_.listen(config_.metrics_listen->host, config_.metrics_listen->port));
      log().info("metrics host={} port={}", config_.metrics_listen->host, port);
    }
    std::string listening;
    for (const auto& address : config_.listen) {
      REELFS_CO_TRY(const auto endpoint, server_.listen(address));
      listening += (listening.empty() ? "" : ",") + endpoint.to_string();
    }
    log().info("active name={} cluster={} epoch={} listen={}", config_.name, config_.cluster.to_string(),
               index_.epoch().value, listening);
    co_return ok();
  }

  const IndexConfig& config_;
  Executor& index_;
  IndexService& service_;
  rpc::Server& server_;
  MetricsServer& metrics_;
  asio::signal_set signals_;
  std::optional<Error> failure_;
  bool opens_anew_ = false;
};

/// Before anything else is made of it: is this our cluster's data?
Result<ClusterIdentity> claim(asio::io_context& context, Executor& index, const Clock& clock,
                              const IndexConfig& config) {
  std::optional<Result<ClusterIdentity>> claimed;
  const ClusterIdentity wanted{config.cluster, config.block_bytes};
  auto work = [&]() -> asio::awaitable<void> {
    claimed.emplace(co_await claim_cluster(index, clock, wanted));
  };
  TaskGroup group(context.get_executor());
  group.spawn(work());
  context.run();
  context.restart();
  return std::move(*claimed);
}

/// Differs after each start of the machine; empty where the kernel does not tell.
std::string boot_id() {
  std::ifstream file("/proc/sys/kernel/random/boot_id");
  std::string id;
  std::getline(file, id);
  return id;
}

/// One descriptor a connection: the limit that login shells get is too low.
void raise_descriptor_limit() {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur >= limit.rlim_max) return;
  limit.rlim_cur = limit.rlim_max;
  if (setrlimit(RLIMIT_NOFILE, &limit) != 0) log().warn("descriptor limit not raised errno={}", errno);
}

/// @return whether to begin anew, with the index that is to be made of what was collected
Result<bool> serve(const IndexConfig& config, LostJournal lost_journal) {
  rpc::ClientOptions client_options;
  rpc::ServerOptions server_options;
  if (!config.tls.empty()) {
    REELFS_TRY(const auto tls, rpc::TlsContext::load(config.tls));
    client_options.tls = tls;
    server_options.tls = tls;
  }
  const SystemClock clock;
  asio::io_context context(1);
  REELFS_TRY(restore_collected(context, config.data_dir));
  Executor::Options store;
  store.directory = config.data_dir;
  store.lost_journal = lost_journal;
  REELFS_TRY(const auto index, Executor::open(std::move(store)));
  REELFS_TRY(const auto identity, claim(context, *index, clock, config));

  ServiceOptions options;
  options.cluster = identity.cluster;
  options.epoch = index->epoch();
  options.boot_id = boot_id();
  options.block_bytes = identity.block_bytes;
  options.copies = config.copies;
  options.journal_copies = config.journal_copies;
  options.is_new = identity.is_new;
  options.data_dir = config.data_dir;
  options.compaction_rate = config.compaction_rate;
  options.repair_rate = config.repair_rate;
  options.repair_delay = config.repair_delay;
  options.adopt_blank_devices = config.adopt_blank_devices;
  prometheus::Registry registry;
  IndexService service(context, clock, *index, std::move(options), std::move(client_options), registry);
  rpc::Server server(context, clock, std::move(server_options),
                     [&service](rpc::Request request) { return service.handle(std::move(request)); });
  server.on_disconnect([&service](std::uint64_t connection) { service.disconnected(connection); });
  MetricsServer metrics(context, registry, [&index] { return index->health(); });
  Process process(context, config, *index, service, server, metrics);
  TaskGroup group(context.get_executor());
  group.spawn(process.run());
  context.run();
  if (process.failure()) return *process.failure();
  return process.opens_anew();
}

Result<void> run(const std::filesystem::path& config_file, LostJournal lost_journal) {
  REELFS_TRY(const auto config, IndexConfig::load(config_file));
  REELFS_TRY(init_logging(config.log, "indexd"));
  raise_descriptor_limit();
  for (bool again = true; again;) {
    REELFS_TRY(again, serve(config, lost_journal));
  }
  log().info("stopped");
  return ok();
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Keeps a reelfs cluster's names, attributes, extents, segments and nodes.", "indexd");
  std::filesystem::path config;
  app.add_option("--config", config, "The index server's configuration file, see indexd(8)")->required();
  bool without_journal = false;
  app.add_flag("--without-journal", without_journal,
               "Start though journal files are lost, and lose what only they held");
  app.set_version_flag("--version", "indexd " REELFS_VERSION);
  CLI11_PARSE(app, argc, argv);
  std::signal(SIGPIPE, SIG_IGN);
  const auto ended = run(config, without_journal ? LostJournal::go_on_without : LostJournal::refuse);
  if (ended) return 0;
  std::fprintf(stderr, "indexd: %s\n", ended.error().describe().c_str());
  return 1;
}
