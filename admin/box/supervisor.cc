#include "admin/box/supervisor.h"

#include <algorithm>
#include <cerrno>
#include <thread>

#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "admin/connection.h"
#include "common/mounts/mounts.h"
#include "common/mounts/serving_process.h"
#include "common/wire/index.pb.h"

namespace reelfs::admin {
namespace {

using namespace std::chrono_literals;
namespace fs = std::filesystem;

constexpr auto kStartTime = 60s;  // a sanitizer build on two busy cores needs a third of it
constexpr auto kNewsTime = 3s;    // until what the index server says of a device is not from before the start
constexpr auto kLookAgain = 50ms;
constexpr auto kAnswerTime = 2s;      // of an index server, for a report
constexpr auto kEndTime = 20s;        // after SIGTERM
constexpr auto kWriteBackTime = 60s;  // after unmounting, while the cluster is there

/// Held while processes are started or stopped.
class BoxLock {
 public:
  static Result<BoxLock> take(const fs::path& directory) {
    const auto path = directory / "box.lock";
    const int descriptor = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (descriptor < 0) return from_errno(errno, "open " + path.string());
    while (::flock(descriptor, LOCK_EX) != 0) {
      if (errno == EINTR) continue;
      const auto failed = errno;
      ::close(descriptor);
      return from_errno(failed, "lock " + path.string());
    }
    return BoxLock(descriptor);
  }
  BoxLock(BoxLock&& other) noexcept : descriptor_(std::exchange(other.descriptor_, -1)) {}
  BoxLock& operator=(BoxLock&&) = delete;
  ~BoxLock() {
    if (descriptor_ >= 0) ::close(descriptor_);
  }

 private:
  explicit BoxLock(int descriptor) : descriptor_(descriptor) {}
  int descriptor_;
};

class Patience {
 public:
  explicit Patience(std::chrono::milliseconds time) : until_(std::chrono::steady_clock::now() + time) {}
  bool over() const { return std::chrono::steady_clock::now() >= until_; }
  void pause() const { std::this_thread::sleep_for(kLookAgain); }

 private:
  std::chrono::steady_clock::time_point until_;
};

/// Who took over a mount: an upgrade is nobody's child.
std::optional<ProcessId> successor(const BoxProcess& process) {
  if (process.role != Role::mount) return std::nullopt;
  const auto mounted = mounted_at(process.command.at(1));
  if (!mounted) return std::nullopt;
  const auto pid = serving_process(*mounted);
  if (!pid) return std::nullopt;
  auto found = identify(*pid);
  return found ? std::optional(std::move(found).value()) : std::nullopt;
}

std::optional<ProcessId> running(const BoxProcess& process) {
  if (auto recorded = read_pid_file(process.pid_file); recorded && state_of(*recorded) != ProcessState::gone)
    return recorded;
  // A `box start` that was interrupted may have started it and not put it down.
  auto found = find_process(process.command);
  if (!found) found = successor(process);
  if (found) (void)write_pid_file(process.pid_file, *found);  // else it is looked for again
  return found;
}

/// The same, but one that was killed a moment before is waited for and does not count; nor does one of which
/// nothing is left but a call that hangs.
std::optional<ProcessId> staying(const BoxProcess& process) {
  const auto id = running(process);
  if (!id || state_of(*id) != ProcessState::ending) return id;
  wait_gone(*id, kEndTime);  // what it has open may be wanted
  return std::nullopt;
}

Result<std::unique_ptr<Connection>> connect(const Box& box, std::chrono::milliseconds timeout) {
  REELFS_TRY(auto config, client::ClusterConfig::load(box.cluster_file()));
  return Connection::open(config, timeout);
}

const wire::WorkerInfo* find_worker(const wire::ListNodesReply& nodes, const BoxProcess& process) {
  for (const auto& node : nodes.nodes()) {
    if (node.name() != process.node) continue;
    for (const auto& worker : node.workers()) {
      if (worker.worker() == process.worker) return &worker;
    }
  }
  return nullptr;
}

bool is_online(const wire::ListNodesReply& nodes, const BoxProcess& process) {
  const auto pid = running(process);
  const auto* worker = find_worker(nodes, process);
  return pid && state_of(*pid) != ProcessState::ending && worker != nullptr &&
         worker->state() == wire::STATE_ONLINE && worker->pid() == static_cast<std::uint32_t>(pid->pid);
}

bool is_at_work(const BoxProcess& process) {
  const auto id = running(process);
  return id && state_of(*id) == ProcessState::running;
}

/// As far as it can be told without the index server.
const char* word_for(ProcessState state) {
  switch (state) {
    case ProcessState::gone:
      return "stopped";
    case ProcessState::ending:
      return "ending";
    case ProcessState::paused:
      return "paused";
    case ProcessState::running:
      break;
  }
  return "starting";
}

std::string text_of(const wire::Endpoint& endpoint) {
  return fmt::format("{}:{}", endpoint.host(), endpoint.port());
}

// What still stands between the workers given and their work.
struct Missing {
  std::string what;             // in words; empty when nothing does
  bool needs_somebody = false;  // it does not come by itself
};

/// A device that is offline may be one that is being brought up still; this one has to be put back.
bool is_gone(const wire::DeviceInfo& device) {
  std::error_code failed;
  return device.state() == wire::STATE_OFFLINE && !fs::exists(device.path(), failed);
}

Missing missing(const wire::ListNodesReply& nodes, const std::vector<BoxProcess>& workers,
                std::uint32_t devices_each) {
  for (const auto& process : workers) {
    if (!is_online(nodes, process)) return {process.name + " has not registered with the index server"};
    for (const auto& node : nodes.nodes()) {
      if (node.name() != process.node) continue;
      std::uint32_t online = 0, removed = 0;
      std::string reason;
      bool is_refused = false;
      for (const auto& device : node.devices()) {
        if (device.state() == wire::STATE_ONLINE) ++online;
        if (device.state() == wire::STATE_REMOVED) {  // nobody waits for it
          ++removed;
          continue;
        }
        // The last known place of a device that was not found tells less than what stands in its place.
        const bool refused =
            device.state() == wire::STATE_FOREIGN || device.state() == wire::STATE_FAILED || is_gone(device);
        if (device.reason().empty() || (is_refused && !refused)) continue;
        is_refused = is_refused || refused;
        reason = fmt::format(" ({}: {})", device.path(), device.reason());
      }
      if (online + removed < devices_each) {
        return {fmt::format("{} of {} devices of {} are in use{}", online, devices_each, node.name(), reason),
                is_refused};
      }
    }
  }
  return {};
}

}  // namespace

Supervisor::Supervisor(const Box& box, std::function<void(const std::string&)> tell)
    : box_(box), tell_(std::move(tell)) {}

Result<Supervisor::Chosen> Supervisor::choose(const std::vector<std::string>& names) const {
  auto all = box_.processes();
  if (names.empty()) return all;
  Chosen chosen;
  for (const auto& process : all) {
    if (std::find(names.begin(), names.end(), process.name) != names.end()) chosen.push_back(process);
  }
  for (const auto& name : names) {
    const auto same = [&name](const BoxProcess& process) { return process.name == name; };
    if (std::none_of(all.begin(), all.end(), same)) {
      return Error(Errc::not_found,
                   fmt::format("no process {} in this box: `reelctl box status --dir {}` lists them", name,
                               box_.directory().string()));
    }
  }
  return chosen;
}

Result<void> Supervisor::launch(const BoxProcess& process) {
  std::error_code failed;
  if (!fs::exists(process.command.front(), failed)) {
    return Error(Errc::not_found, fmt::format("{} is missing: it belongs beside reelctl; build it first",
                                              process.command.front()));
  }
  REELFS_TRY(auto id, start_process(process.command, process.log));
  REELFS_TRY(write_pid_file(process.pid_file, id));
  launched_.insert(process.name);
  tell_(fmt::format("started {} (pid {})", process.name, id.pid));
  return ok();
}

Result<void> Supervisor::keep_alive(const Chosen& wanted) {
  for (const auto& process : wanted) {
    if (staying(process)) continue;
    // It was on its way out when it was looked at: killed a moment before, or still stopping.
    if (launched_.count(process.name) == 0) {
      REELFS_TRY(launch(process));
      continue;
    }
    return Error(Errc::io, fmt::format("{} ended; the end of {}:\n{}", process.name, process.log.string(),
                                       last_lines(process.log, 8)));
  }
  return ok();
}

Result<void> Supervisor::wait_for_index(const Chosen& wanted) {
  const Patience patience(kStartTime);
  for (;;) {
    REELFS_TRY(keep_alive(wanted));
    auto connection = connect(box_, kAnswerTime);
    if (connection.has_value()) return ok();
    if (!is_retryable(connection.error().code())) return std::move(connection).error();
    if (patience.over()) return std::move(connection).error().within("waiting for index1 to answer");
    patience.pause();
  }
}

Result<void> Supervisor::wait_for_workers(const Chosen& wanted, const Chosen& others) {
  REELFS_TRY(auto connection, connect(box_, kStartTime));
  const Patience patience(kStartTime);
  const Patience hope(kNewsTime);
  for (;;) {
    REELFS_TRY(keep_alive(wanted));
    REELFS_TRY(auto nodes, connection->list_nodes());
    const auto wanting = missing(nodes, wanted, box_.options().devices);
    const bool all_back = std::all_of(others.begin(), others.end(), [&nodes](const auto& process) {
      return !is_at_work(process) || is_online(nodes, process);
    });
    if (wanting.what.empty() && (all_back || patience.over())) return ok();
    if (patience.over() || (wanting.needs_somebody && hope.over())) {
      return Error(Errc::timed_out,
                   fmt::format("{}; the logs are in {}", wanting.what, (box_.directory() / "log").string()));
    }
    patience.pause();
  }
}

Result<void> Supervisor::mount(const BoxProcess& process) {
  const auto& point = box_.options().mount;
  // What a killed mount leaves behind answers ENOTCONN to everyone until it is taken away.
  while (const auto old = mounted_at(point)) {
    if (!old->type.starts_with("fuse")) {
      return Error(Errc::busy,
                   fmt::format("{} has a {} mounted: choose another --mount", point.string(), old->type));
    }
    REELFS_TRY(unmount(point, Unmount::lazy));
    tell_("unmounted what a mount that died left at " + point.string());
  }
  std::error_code failed;
  fs::create_directories(point, failed);
  if (failed) return Error(Errc::io, fmt::format("cannot make {}: {}", point.string(), failed.message()));
  REELFS_TRY(launch(process));
  const Patience patience(kStartTime);
  for (;;) {
    struct stat root {};
    if (mounted_at(point) && ::stat(point.c_str(), &root) == 0) return ok();
    REELFS_TRY(keep_alive({process}));
    if (patience.over())
      return Error(Errc::timed_out,
                   fmt::format("nothing is mounted at {} yet; see {}", point.string(), process.log.string()));
    patience.pause();
  }
}

Result<void> Supervisor::start(const std::vector<std::string>& names) {
  REELFS_TRY(auto lock, BoxLock::take(box_.directory()));
  REELFS_TRY(auto chosen, choose(names));
  launched_.clear();
  for (const auto& process : chosen) {
    if (process.role == Role::mount || staying(process)) continue;
    REELFS_TRY(launch(process));
  }
  const auto with_role = [](const Chosen& all, Role role) {
    Chosen some;
    std::copy_if(all.begin(), all.end(), std::back_inserter(some),
                 [role](auto& one) { return one.role == role; });
    return some;
  };
  if (const auto index = with_role(chosen, Role::index); !index.empty()) {
    REELFS_TRY(wait_for_index(index));
  }
  // A worker started while the index server is down registers when that comes back: nothing to wait for here.
  // Those that run already find an index server that has just been started within a moment.
  const auto workers = with_role(chosen, Role::worker);
  const auto all = box_.processes();
  Chosen others;
  if (launched_.count(all.front().name) != 0) others = with_role(all, Role::worker);
  Result<void> works = ok();
  if (running(all.front()) && !(workers.empty() && others.empty())) works = wait_for_workers(workers, others);
  // Mounted all the same: with a device gone, its copies elsewhere can be played.
  for (const auto& process : with_role(chosen, Role::mount)) {
    if (!staying(process) || !mounted_at(box_.options().mount)) {
      auto mounted = mount(process);
      if (!mounted)
        return works ? std::move(mounted) : std::move(works);  // what was wrong before is the reason
    }
  }
  return works;
}

void Supervisor::stop_mount(const BoxProcess& process) const {
  const auto& point = box_.options().mount;
  const auto id = running(process);
  if (id) signal_process(*id, SIGCONT);
  if (const auto mounted = mounted_at(point); mounted && mounted->type.starts_with("fuse")) {
    auto unmounted = unmount(point, id ? Unmount::clean : Unmount::lazy);
    if (unmounted.has_error() && unmounted.error().code() == Errc::busy) {
      tell_(
          fmt::format("{} is in use: unmounted lazily, it ends when its last user lets go", point.string()));
      unmounted = unmount(point, Unmount::lazy);
    }
    if (unmounted.has_error()) tell_(unmounted.error().describe());
  }
  if (!id) return;
  const bool cluster_is_there = running(box_.processes().front()).has_value();
  if (wait_gone(*id, cluster_is_there ? kWriteBackTime : kAnswerTime)) return;
  signal_process(*id, SIGTERM);
  if (wait_gone(*id, kEndTime)) return;
  tell_(fmt::format("{} (pid {}) did not end: killed", process.name, id->pid));
  signal_process(*id, SIGKILL);
  wait_gone(*id, kEndTime);
}

void Supervisor::stop_processes(Role role) const {
  std::vector<std::pair<std::string, ProcessId>> ending;
  for (const auto& process : box_.processes()) {
    const auto id = running(process);
    if (process.role != role || !id) continue;
    signal_process(*id, SIGTERM);
    signal_process(*id, SIGCONT);
    ending.emplace_back(process.name, *id);
  }
  for (const auto& [name, id] : ending) {
    if (!wait_gone(id, kEndTime) && state_of(id) != ProcessState::ending) {
      tell_(fmt::format("{} (pid {}) did not end within {} s of SIGTERM: killed", name, id.pid,
                        kEndTime.count()));
      signal_process(id, SIGKILL);
      wait_gone(id, kEndTime);
    }
    if (state_of(id) == ProcessState::ending) {
      tell_(
          fmt::format("{} (pid {}) has ended, but a call of it to a disk hangs in the kernel: the disk stays "
                      "in use until it answers, or the machine is restarted",
                      name, id.pid));
    } else {
      tell_("stopped " + name);
    }
  }
}

Result<void> Supervisor::stop() {
  REELFS_TRY(auto lock, BoxLock::take(box_.directory()));
  for (const auto& process : box_.processes()) {
    if (process.role == Role::mount) stop_mount(process);
  }
  stop_processes(Role::worker);
  stop_processes(Role::index);
  for (const auto& process : box_.processes()) {
    const auto id = running(process);
    if (id && state_of(*id) != ProcessState::ending) return Error(Errc::busy, process.name + " still runs");
    std::error_code ignored;
    fs::remove(process.pid_file, ignored);
  }
  return ok();
}

Result<void> Supervisor::purge() {
  const auto& directory = box_.directory();
  if (const auto below = mounted_below(directory); !below.empty()) {
    return Error(Errc::busy, fmt::format("{} is still mounted: unmount it, then purge again",
                                         below.front().point.string()));
  }
  const auto is_ours = [](const std::string& name) {
    for (const auto* whole :
         {"box.json", "box.lock", "cluster.toml", "index1.toml", "index1", "log", "run", "tls"}) {
      if (name == whole) return true;
    }
    // node1.toml, node1.dev1, node1.devices.json
    const auto dot = name.find('.');
    return name.starts_with("node") && dot != std::string::npos &&
           (name.substr(dot) == ".toml" || name.substr(dot).starts_with(".dev"));
  };
  std::error_code failed;
  std::vector<fs::path> ours;
  for (const auto& entry : fs::directory_iterator(directory, failed)) {
    if (is_ours(entry.path().filename())) ours.push_back(entry.path());
  }
  for (const auto& path : ours) {
    if (!failed) fs::remove_all(path, failed);
  }
  if (failed) return Error(Errc::io, fmt::format("removing {}: {}", directory.string(), failed.message()));
  // docs/formats/shm.md: named after the cluster, and left behind by nodes that were killed.
  const auto shared = fmt::format("reelfs-{}-", box_.cluster().to_string().substr(0, 8));
  std::vector<fs::path> areas;
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator("/dev/shm", ignored)) {
    if (entry.path().filename().string().starts_with(shared)) areas.push_back(entry.path());
  }
  for (const auto& path : areas) fs::remove(path, ignored);
  // These two go only where they are empty: what else lies there is somebody's.
  if (!box_.options().mount.empty()) ::rmdir(box_.options().mount.c_str());
  ::rmdir(directory.c_str());
  return ok();
}

std::vector<ProcessReport> Supervisor::report() const {
  std::vector<ProcessReport> all;
  for (auto& process : box_.processes()) {
    ProcessReport one;
    one.running = running(process);
    one.state = one.running ? word_for(state_of(*one.running)) : "stopped";
    one.process = std::move(process);
    all.push_back(std::move(one));
  }
  auto& index = all.front();
  index.endpoints.push_back(box_.index_endpoint().to_string());
  std::optional<wire::ListNodesReply> nodes;
  if (index.state == "starting") {
    if (auto connection = connect(box_, kAnswerTime); connection.has_value()) {
      index.state = "active";
      auto reply = connection.value()->list_nodes();
      if (reply.has_value()) nodes = std::move(reply).value();
    }
  }
  for (auto& one : all) {
    if (one.state != "starting") continue;
    if (one.process.role == Role::mount && mounted_at(box_.options().mount)) one.state = "mounted";
    if (one.process.role != Role::worker) continue;
    if (!nodes) {
      one.state = "running";
    } else if (is_online(*nodes, one.process)) {
      const auto* worker = find_worker(*nodes, one.process);
      one.state = worker->leader() ? "leader" : "follower";
      one.endpoints.push_back(text_of(worker->endpoint()));
      for (const auto& other : worker->endpoint().others()) one.endpoints.push_back(text_of(other));
    }
  }
  for (auto& one : all) {
    if (one.process.role == Role::mount) one.endpoints.push_back(box_.options().mount.string());
  }
  return all;
}

}  // namespace reelfs::admin
