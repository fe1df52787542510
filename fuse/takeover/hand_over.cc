#include "fuse/takeover/hand_over.h"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <utility>

#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "common/mounts/serving_process.h"
#include "common/observe/log.h"
#include "fuse/takeover/message.h"

namespace reelfs::fuse {
namespace {

using namespace std::chrono_literals;

constexpr int kProtocol = 1;
constexpr auto kHelloPatience = 1s;
constexpr auto kReadyPatience = 10s;  // the successor reads its configuration; nobody waits for it
constexpr auto kFlushPatience = 5s;   // before calls wait
constexpr auto kFarewell = 100ms;

std::chrono::milliseconds left(const Clock& clock, Deadline deadline) {
  return std::max(0ms, std::chrono::duration_cast<std::chrono::milliseconds>(deadline.left(clock)));
}

Task<void> pause_files(Mount& mount, std::chrono::milliseconds limit, client::Standing& into) {
  REELFS_CO_TRY(into, co_await mount.files.pause(limit));
  co_return ok();
}

Task<void> describe_files(Mount& mount, MountState& into) {
  for (const auto& [number, handle] : mount.open_files.all()) into.files.push_back({number, handle->carry()});
  for (const auto& [handle, content] : mount.views.files.all())
    into.made.push_back({handle.node, handle.number, *content});
  co_return ok();
}

Task<void> resume_files(Mount& mount) {
  mount.files.resume();
  co_return ok();
}

}  // namespace

Result<std::unique_ptr<HandOver>> HandOver::listen(const MountEntry& mount, Parts parts) {
  REELFS_TRY(auto path, serving_socket(mount));
  Descriptor listening(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!listening.is_open()) return from_errno(errno, "socket");
  // The predecessor, if there was one, still listens at the path: ours takes its place in one step.
  const auto fresh = fmt::format("{}.{}", path, ::getpid());
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (fresh.size() >= sizeof address.sun_path) return Error(Errc::name_too_long, fresh);
  std::memcpy(address.sun_path, fresh.c_str(), fresh.size() + 1);
  ::unlink(fresh.c_str());
  constexpr int kBacklog = 4;
  if (::bind(listening.number(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0 ||
      ::listen(listening.number(), kBacklog) != 0 || ::rename(fresh.c_str(), path.c_str()) != 0) {
    return from_errno(errno, path);
  }
  return std::unique_ptr<HandOver>(new HandOver(std::move(parts), std::move(path), std::move(listening)));
}

HandOver::HandOver(Parts parts, std::string path, Descriptor listening)
    : parts_(std::move(parts)), path_(std::move(path)), listening_(std::move(listening)) {}

HandOver::~HandOver() {
  if (!left_) ::unlink(path_.c_str());
}

HandOver::Outcome HandOver::answer() {
  Descriptor accepted(::accept4(listening_.number(), nullptr, nullptr, SOCK_CLOEXEC));
  if (!accepted.is_open()) return Outcome::stays;
  auto successor = Conversation::with_peer(parts_.clock, std::move(accepted));
  if (!successor) {
    logger("fuse").warn("take-over refused error=\"{}\"", successor.error().describe());
    return Outcome::stays;
  }
  const auto done = hand_over(successor.value());
  if (done) {
    left_ = true;
    return Outcome::left;
  }
  if (done.error().code() == Errc::cancelled) return Outcome::stays;  // it wanted to know who listens
  logger("fuse").warn("not taken over pid={} error=\"{}\"", successor.value().peer(),
                      done.error().describe());
  // It may be the successor that went wrong, and not listen any more.
  const auto until = Deadline::after(parts_.clock, kFarewell);
  [[maybe_unused]] const auto told = successor.value().send({{"refused", done.error().message()}}, until);
  return Outcome::stays;
}

Result<void> HandOver::hand_over(Conversation& successor) {
  const auto& clock = parts_.clock;
  const auto hello = successor.receive(Deadline::after(clock, kHelloPatience));
  if (!hello) return Error(Errc::cancelled, "it said nothing");
  if (field(hello.value().content, "protocol", 0) != kProtocol)
    return Error(Errc::unsupported,
                 "the two versions cannot take over from each other: unmount, and mount again");
  if (!parts_.mount.connected) return Error(Errc::unavailable, "the cluster has not been reached yet");
  REELFS_TRY(successor.send({{"arguments", parts_.arguments}}, Deadline::after(clock, kHelloPatience)));
  REELFS_TRY(successor.receive(Deadline::after(clock, kReadyPatience)));

  // What is written by now goes to stable storage while calls are still served.
  client::Standing unused;
  if (auto flushed = parts_.mount.operations.run(pause_files(parts_.mount, kFlushPatience, unused));
      !flushed) {
    (void)parts_.mount.operations.run(resume_files(parts_.mount));
    return std::move(flushed.error()).within("written bytes cannot be stored");
  }
  const auto paused_at = clock.now();
  const Deadline deadline{paused_at + kMaxStall};
  auto kernel = parts_.channel.pause(deadline);
  if (!kernel) {
    (void)parts_.mount.operations.run(resume_files(parts_.mount));
    return std::move(kernel.error());
  }
  auto done = hand_over_paused(successor, std::move(kernel.value()), deadline);
  if (!done) {
    (void)parts_.mount.operations.run(resume_files(parts_.mount));
    parts_.channel.resume();
    return std::move(done.error());
  }
  logger("fuse").info("taken over pid={} stall_ms={}", successor.peer(),
                      std::chrono::duration_cast<std::chrono::milliseconds>(clock.now() - paused_at).count());
  return ok();
}

Result<void> HandOver::pause_client(Deadline deadline, MountState& into) {
  auto& mount = parts_.mount;
  REELFS_TRY(mount.operations.run(pause_files(mount, left(parts_.clock, deadline), into.client)));
  return mount.operations.run(describe_files(mount, into));
}

Result<void> HandOver::hand_over_paused(Conversation& successor, KernelChannel::Standing kernel,
                                        Deadline deadline) {
  MountState state;
  state.kernel = std::move(kernel);
  state.root = parts_.mount.nodes.root();
  REELFS_TRY(pause_client(deadline, state));
  REELFS_TRY(successor.send({{"state", to_json(state)}}, deadline, parts_.channel.device()));
  REELFS_TRY(const auto up, successor.receive(deadline));
  if (!field(up.content, "up", false))
    return Error(Errc::unavailable,
                 field(up.content, "failed", std::string("the successor did not come up")));
  return successor.send({{"go", true}}, deadline);
}

}  // namespace reelfs::fuse
