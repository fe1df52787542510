// reelfs: mounts a cluster.
#include <array>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include <poll.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include "client/cluster_config.h"
#include "client/filesystem.h"
#include "common/async/timeout.h"
#include "common/base/clock.h"
#include "common/observe/log.h"
#include "fuse/ops/forgetting.h"
#include "fuse/ops/mount.h"
#include "fuse/ops/operations.h"
#include "fuse/session/daemon.h"
#include "fuse/session/kernel_channel.h"
#include "fuse/session/operations.h"
#include "fuse/session/options.h"

namespace reelfs::fuse {
namespace {

constexpr std::chrono::seconds kBetweenAttempts{1};
constexpr std::chrono::milliseconds kDetachPatience{500};

/// Makes the root known, after which calls are let through.
Task<void> find_root(Mount& mount, std::string channel) {
  if (channel.empty()) {
    REELFS_CO_TRY(co_await mount.files.get_attributes(kRootInode));
  } else {
    auto found = co_await mount.files.lookup(kRootInode, channel);
    if (!found && found.error().code() == Errc::not_found) {
      co_return Error(Errc::not_found,
                      "there is no channel " + channel + ": `reelctl channel list` has those there are");
    }
    if (!found) co_return std::move(found.error()).within("channel " + channel);
    mount.nodes.set_root(found.value().inode);
  }
  mount.connected = true;
  co_return ok();
}

Task<void> connect(Mount& mount, std::string channel) {
  REELFS_CO_TRY(co_await mount.files.start());
  co_return co_await find_root(mount, std::move(channel));
}

/// With -o bg. Ends when it has succeeded, or is cancelled.
Operation keep_connecting(Mount& mount, std::string channel) {
  auto connected = co_await connect(mount, channel);
  while (!connected) {
    logger("fuse").warn("not connected yet error=\"{}\"", connected.error().describe());
    co_await sleep_for(kBetweenAttempts);
    connected = co_await find_root(mount, channel);  // the client goes on by itself where its start failed
  }
  logger("fuse").info("connected");
}

asio::awaitable<void> finish(Mount& mount) {
  mount.open_files.clear();
  co_await mount.files.stop();
}

/// Signals that mean: unmount and go.
class EndSignals {
 public:
  EndSignals() {
    sigemptyset(&set_);
    for (const int signal : {SIGTERM, SIGINT, SIGHUP}) sigaddset(&set_, signal);
    ::sigprocmask(SIG_BLOCK, &set_, nullptr);
    descriptor_ = ::signalfd(-1, &set_, SFD_CLOEXEC);
  }
  ~EndSignals() { ::close(descriptor_); }
  EndSignals(const EndSignals&) = delete;
  EndSignals& operator=(const EndSignals&) = delete;

  /// Returns when one has come or `other` is readable.
  void wait(int other) const {
    std::array<pollfd, 2> descriptors{pollfd{descriptor_, POLLIN, 0}, pollfd{other, POLLIN, 0}};
    while (::poll(descriptors.data(), descriptors.size(), -1) < 0 && errno == EINTR) {
    }
  }

 private:
  sigset_t set_{};
  int descriptor_ = -1;
};

KernelChannel::Options channel_options(const Options& options) {
  KernelChannel::Options kernel;
  kernel.mountpoint = options.mountpoint.string();
  kernel.source = options.cluster.string();
  kernel.flags = options.kernel_flags;
  kernel.flags.insert(kernel.flags.end(), {"subtype=reelfs", "default_permissions"});
  if (options.allow_other) kernel.flags.emplace_back("allow_other");
  kernel.debug = options.debug;
  return kernel;
}

/// Mounts, and serves until told to end.
Result<void> serve(const Options& options, Mount& mount, std::optional<Daemon>& daemon) {
  if (options.background_start) {
    mount.operations.start_background(keep_connecting(mount, options.channel));
  } else {
    REELFS_TRY(mount.operations.run(connect(mount, options.channel)));
  }
  const EndSignals signals;
  REELFS_TRY(auto channel, KernelChannel::mount(channel_options(options), operations(), &mount));
  channel->serve();
  mount.invalidator.attach(*channel);
  if (daemon) daemon->ready();
  logger("fuse").info("mounted mountpoint={} cluster={}", options.mountpoint.string(),
                      options.cluster.string());
  signals.wait(channel->ended());
  // Where the kernel waits for a call before it forgets something, that call is answered first.
  if (!mount.invalidator.detach(kDetachPatience)) mount.operations.stop();
  channel->stop_serving();
  mount.operations.stop();  // answers what is under way, before the descriptor closes
  channel.reset();
  logger("fuse").info("unmounted mountpoint={}", options.mountpoint.string());
  return ok();
}

Result<void> run(const Options& options, std::optional<Daemon>& daemon) {
  REELFS_TRY(init_logging(options.log, "reelfs"));
  REELFS_TRY(auto cluster, client::ClusterConfig::load(options.cluster));
  client::FileSystemOptions settings;
  settings.purpose = "mount " + options.mountpoint.string();
  settings.timeout = options.timeout;
  settings.max_dirty_bytes = options.max_dirty_bytes;

  const SystemClock clock;
  Operations loop;
  client::FileSystem files(loop.context(), clock, std::move(cluster), settings);
  Mount mount(files, loop, clock);
  files.on_change([&mount](client::Change change) { return forget(mount, std::move(change)); });
  auto served = serve(options, mount, daemon);
  if (!served) loop.stop();
  loop.run(finish(mount));
  return served;
}

int fail(const Error& error) {
  std::fprintf(stderr, "reelfs: %s\n",
               error.message().empty() ? error.describe().c_str() : error.message().c_str());
  return 1;
}

int start(std::vector<std::string> arguments) {
  auto parsed = Options::parse(std::move(arguments), ::geteuid() == 0);
  if (!parsed) return fail(parsed.error());
  auto& options = parsed.value();
  if (options.action == Options::Action::help) return std::fputs(usage().c_str(), stdout) < 0;
  if (options.action == Options::Action::version) return std::puts("reelfs " REELFS_VERSION) < 0;

  std::optional<Daemon> daemon;
  if (!options.foreground) {
    if (options.log.file.empty()) options.log.file = kSystemLog;
    auto entered = Daemon::enter();
    if (!entered) return fail(entered.error());
    daemon.emplace(std::move(entered.value()));
  }
  const auto ran = run(options, daemon);
  return ran ? 0 : fail(ran.error());
}

}  // namespace
}  // namespace reelfs::fuse

int main(int argc, char** argv) { return reelfs::fuse::start({argv, argv + argc}); }
