// reelfs: mounts a cluster.
#include <array>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include "client/cluster_config.h"
#include "client/filesystem.h"
#include "common/async/timeout.h"
#include "common/base/clock.h"
#include "common/mounts/bare_directory.h"
#include "common/mounts/mounts.h"
#include "common/observe/log.h"
#include "fuse/ops/forgetting.h"
#include "fuse/ops/mount.h"
#include "fuse/ops/recall.h"
#include "fuse/ops/removing.h"
#include "fuse/session/daemon.h"
#include "fuse/session/kernel_channel.h"
#include "fuse/session/operations.h"
#include "fuse/session/options.h"
#include "fuse/session/remount.h"
#include "fuse/takeover/hand_over.h"
#include "fuse/takeover/take_over.h"
#include "fuse/views/operations.h"

namespace reelfs::fuse {
namespace {

constexpr std::chrono::seconds kBetweenAttempts{1};
constexpr std::chrono::milliseconds kDetachPatience{500};

/// The root is known: calls are let through.
void begin(Mount& mount) {
  mount.connected = true;
  mount.operations.start_background(keep_asking(mount));
  mount.operations.start_background(look_after_removed(mount));
}

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
  begin(mount);
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

/// When another process has taken over.
asio::awaitable<void> leave(Mount& mount) {
  mount.open_files.clear();
  co_await mount.files.leave();
}

/// Makes what the predecessor had.
Task<void> adopt(const Clock& clock, Mount& mount, const MountState& state) {
  mount.nodes.set_root(state.root);
  for (const auto& file : state.files) {
    auto handle = mount.files.adopt(file.carried);
    if (OpenFiles::is_writable(file.number)) handle->will_write();
    mount.open_files.adopt(file.number, std::move(handle));
  }
  for (const auto& made : state.made)
    mount.views.files.put({made.node, made.number}, std::make_shared<const std::string>(made.content));
  for (const auto inode : state.client.removed) mount.removed.note(inode);
  const auto until = Deadline::after(clock, TakeOver::kPatience);
  REELFS_CO_TRY(co_await with_timeout(clock, until, mount.files.start()));
  begin(mount);
  co_return ok();
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

  enum class Woken { end, successor };
  /// Returns when one has come or `ended` is readable, or a `successor` asks (-1: none may).
  Woken wait(int ended, int successor) const {
    std::array descriptors{pollfd{descriptor_, POLLIN, 0}, pollfd{ended, POLLIN, 0},
                           pollfd{successor, POLLIN, 0}};
    while (::poll(descriptors.data(), descriptors.size(), -1) < 0 && errno == EINTR) {
    }
    const bool end = descriptors[0].revents != 0 || descriptors[1].revents != 0;
    return end ? Woken::end : Woken::successor;
  }

 private:
  sigset_t set_{};
  int descriptor_ = -1;
};

/// In the background nobody reads standard error.
void set_log(Options& options) {
  if (!options.foreground && options.log.file.empty()) options.log.file = kSystemLog;
}

/// Where a unit started the predecessor, it looks after this process from now on.
void stand_in_for(pid_t predecessor) {
  std::ifstream of(fmt::format("/proc/{}/cgroup", predecessor));
  constexpr std::string_view kUnified = "0::";
  for (std::string line; std::getline(of, line);) {
    if (!line.starts_with(kUnified)) continue;
    std::ofstream members("/sys/fs/cgroup" + line.substr(kUnified.size()) + "/cgroup.procs");
    members << ::getpid() << std::flush;  // as an ordinary user it fails, and is not needed
  }
}

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

struct Serving {
  const Options& options;
  const Clock& clock;
  Mount& mount;
  std::optional<Daemon>& daemon;
};

enum class Served { unmounted, taken_over };

/// An upgrade can wait; recording cannot.
std::unique_ptr<HandOver> listen_for_successor(const Serving& serving, KernelChannel& channel) {
  const auto mounted = mounted_at(serving.options.mountpoint);
  if (!mounted) return nullptr;
  HandOver::Parts parts{serving.clock, serving.mount, channel, serving.options.to_arguments()};
  auto listening = HandOver::listen(*mounted, std::move(parts));
  if (listening) return std::move(listening.value());
  logger("fuse").info("no successor can take over why=\"{}\"", listening.error().describe());
  return nullptr;
}

/// Serves until told to end, or another process has taken over.
Served serve(const Serving& serving, const EndSignals& signals, std::unique_ptr<KernelChannel> channel) {
  auto& mount = serving.mount;
  const auto& mountpoint = serving.options.mountpoint.string();
  mount.invalidator.attach(*channel);
  channel->serve();
  const auto successors = listen_for_successor(serving, *channel);
  if (serving.daemon) serving.daemon->ready();
  logger("fuse").info("mounted mountpoint={} cluster={}", mountpoint, serving.options.cluster.string());
  const int asking = successors ? successors->descriptor() : -1;
  while (signals.wait(channel->ended(), asking) == EndSignals::Woken::successor) {
    if (successors->answer() == HandOver::Outcome::stays) continue;
    mount.operations.run(forget(mount, mount.files.leased()));  // the successor does not know of it
    // What waits in the kernel for a call is answered by the successor.
    while (!mount.invalidator.detach(kDetachPatience)) {
    }
    channel->leave();
    mount.operations.run(
        leave(mount));  // before operations end: nothing is to be said to the index about them
    mount.operations.stop();
    return Served::taken_over;
  }
  // Where the kernel waits for a call before it forgets something, that call is answered first.
  if (!mount.invalidator.detach(kDetachPatience)) {
    mount.operations.stop();
    while (!mount.invalidator.detach(kDetachPatience)) {
    }
  }
  channel->stop_serving();
  mount.operations.stop();  // answers what is under way, before the descriptor closes
  channel.reset();
  logger("fuse").info("unmounted mountpoint={}", mountpoint);
  return Served::unmounted;
}

/// So that who comes too late or at the wrong moment is told.
void look_beneath(const Options& options) {
  if (mounted_at(options.mountpoint)) return;
  const auto tell = [&options](const std::string& what) {
    std::fprintf(stderr, "reelfs: %s: %s\n", options.mountpoint.c_str(), what.c_str());
    logger("fuse").warn("{} mountpoint={}", what, options.mountpoint.string());
  };
  auto beneath = BareDirectory::open(options.mountpoint);
  if (!beneath) return;  // mounting says why
  if (const auto empty = beneath.value().empty(); empty && !empty.value())
    tell("the directory is not empty; what is in it cannot be seen while the cluster is mounted");
  if (!options.protect) return;
  const auto protection = beneath.value().protect();
  if (!protection) return tell("the directory beneath is not protected: " + protection.error().describe());
  if (protection.value() == BareDirectory::Protection::mode)
    tell(
        "the directory beneath has no permissions any more; it cannot be made immutable, so root can write "
        "there");
}

Result<Served> mount_and_serve(const Serving& serving) {
  auto& mount = serving.mount;
  const auto& options = serving.options;
  if (options.background_start) {
    mount.operations.start_background(keep_connecting(mount, options.channel));
  } else {
    REELFS_TRY(mount.operations.run(connect(mount, options.channel)));
  }
  const EndSignals signals;
  look_beneath(options);
  REELFS_TRY(auto channel, KernelChannel::mount(channel_options(options), operations_with_views(), mount));
  return serve(serving, signals, std::move(channel));
}

Result<Served> take_over_and_serve(const Serving& serving, TakeOver& predecessor,
                                   TakeOver::Received received) {
  auto& mount = serving.mount;
  const EndSignals signals;
  REELFS_TRY(auto channel,
             KernelChannel::adopt(channel_options(serving.options), operations_with_views(), mount,
                                  std::move(received.state.kernel), received.device.release()));
  mount.invalidator.attach(*channel);  // from the beginning of the session on, others' changes come here
  auto taken = mount.operations.run(adopt(serving.clock, mount, received.state));
  if (taken) taken = predecessor.finish();
  if (!taken) {
    mount.operations.stop();
    while (!mount.invalidator.detach(kDetachPatience)) {
    }
    return std::move(taken.error());
  }
  stand_in_for(predecessor.predecessor());
  return serve(serving, signals, std::move(channel));
}

/// The kernel leaves the atime to us: FUSE has no call for it.
client::Atime atime_for(const Options& options) {
  for (const auto& flag : options.kernel_flags) {
    if (flag == "ro" || flag == "noatime") return client::Atime::of_none;
  }
  return options.directory_atime ? client::Atime::of_all : client::Atime::of_files;
}

client::FileSystemOptions file_system_options(const Options& options) {
  client::FileSystemOptions settings;
  settings.purpose = "mount " + options.mountpoint.string();
  settings.timeout = options.timeout;
  settings.max_dirty_bytes = options.max_dirty_bytes;
  settings.atime = atime_for(options);
  settings.keep_removed = true;
  return settings;
}

Result<void> run(const Options& options, std::optional<Daemon>& daemon) {
  REELFS_TRY(init_logging(options.log, "reelfs"));
  REELFS_TRY(auto cluster, client::ClusterConfig::load(options.cluster));
  const SystemClock clock;
  Operations loop;
  client::FileSystem files(loop.context(), clock, std::move(cluster), file_system_options(options));
  Mount mount(files, loop, clock);
  files.on_change([&mount](client::Change change) { return forget(mount, std::move(change)); });
  const auto served = mount_and_serve({options, clock, mount, daemon});
  if (!served) loop.stop();
  if (!served || served.value() == Served::unmounted) loop.run(finish(mount));
  REELFS_TRY(served);
  return ok();
}

Result<void> run_in_place_of_another(const Options& asked, std::optional<Daemon>& daemon) {
  const SystemClock clock;
  REELFS_TRY(auto predecessor, TakeOver::begin(clock, asked.mountpoint));
  REELFS_TRY(auto options, asked.after(predecessor.arguments()));
  set_log(options);
  REELFS_TRY(init_logging(options.log, "reelfs"));
  REELFS_TRY(auto cluster, client::ClusterConfig::load(options.cluster));
  auto settings = file_system_options(options);
  Operations loop;
  REELFS_TRY(auto received, predecessor.receive());
  settings.standing = received.state.client;
  client::FileSystem files(loop.context(), clock, std::move(cluster), settings);
  Mount mount(files, loop, clock);
  files.on_change([&mount](client::Change change) { return forget(mount, std::move(change)); });
  const auto served = take_over_and_serve({options, clock, mount, daemon}, predecessor, std::move(received));
  if (!served) {
    predecessor.give_up(served.error());
    loop.stop();
    loop.run(leave(mount));  // the session is the predecessor's, who goes on
  } else if (served.value() == Served::unmounted) {
    loop.run(finish(mount));
  }
  REELFS_TRY(served);
  return ok();
}

int fail(const Error& error, const std::string& program, int status) {
  std::fprintf(stderr, "%s: %s\n", program.c_str(),
               error.message().empty() ? error.describe().c_str() : error.message().c_str());
  return status;
}

// mount(8), "EXIT STATUS".
constexpr int kWrongUse = 1;
constexpr int kMountFailed = 32;

int start(std::vector<std::string> arguments) {
  const auto program = std::filesystem::path(arguments.front()).filename().string();
  const int failed = is_mount_helper(program) ? kMountFailed : kWrongUse;
  auto parsed = Options::parse(std::move(arguments), ::geteuid() == 0);
  if (!parsed)
    return fail(parsed.error(), program, parsed.error().code() == Errc::invalid ? kWrongUse : failed);
  auto& options = parsed.value();
  switch (options.action) {
    case Options::Action::help:
      return std::fputs(usage().c_str(), stdout) < 0;
    case Options::Action::version:
      return std::puts("reelfs " REELFS_VERSION) < 0;
    case Options::Action::nothing:
      return 0;
    case Options::Action::remount: {
      const auto done = remount(options.mountpoint, options.kernel_flags);
      return done ? 0 : fail(done.error(), program, kMountFailed);  // only mount(8) asks for it
    }
    case Options::Action::mount:
    case Options::Action::take_over:
      break;
  }
  std::optional<Daemon> daemon;
  if (!options.foreground) {
    set_log(options);
    auto entered = Daemon::enter(failed);
    if (!entered) return fail(entered.error(), program, failed);
    daemon.emplace(std::move(entered.value()));
  }
  const auto ran = options.action == Options::Action::mount ? run(options, daemon)
                                                            : run_in_place_of_another(options, daemon);
  return ran ? 0 : fail(ran.error(), program, failed);
}

}  // namespace
}  // namespace reelfs::fuse

int main(int argc, char** argv) { return reelfs::fuse::start({argv, argv + argc}); }
