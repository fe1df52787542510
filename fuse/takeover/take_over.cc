#include "fuse/takeover/take_over.h"

#include <cerrno>
#include <cstring>
#include <utility>

#include <nlohmann/json.hpp>
#include <sys/socket.h>
#include <sys/un.h>

#include "common/mounts/mounts.h"
#include "common/mounts/serving_process.h"
#include "common/observe/log.h"
#include "fuse/takeover/message.h"

namespace reelfs::fuse {
namespace {

using namespace std::chrono_literals;

constexpr int kProtocol = 1;
constexpr auto kHelloPatience = 5s;  // the predecessor may be busy with an earlier successor
constexpr auto kFarewell = 100ms;
constexpr auto kGone = Errc::unavailable;  // what Conversation says
constexpr auto kFlushPatience = 10s;       // it stores what was written before calls wait

Result<Descriptor> connect(const std::string& path, const std::filesystem::path& mountpoint) {
  Descriptor socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!socket.is_open()) return from_errno(errno, "socket");
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path) return Error(Errc::name_too_long, path);
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  if (::connect(socket.number(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0)
    return from_errno(errno, "no reelfs listens at " + path + " for " + mountpoint.string());
  return socket;
}

/// @errors busy: it refuses, and goes on
Result<nlohmann::json> receive_consent(Conversation& conversation, Deadline deadline,
                                       Descriptor* descriptor) {
  REELFS_TRY(auto message, conversation.receive(deadline));
  if (message.content.contains("refused"))
    return Error(Errc::busy, field(message.content, "refused", std::string("it says not why")));
  if (descriptor != nullptr) *descriptor = std::move(message.descriptor);
  return std::move(message.content);
}

}  // namespace

Result<TakeOver> TakeOver::begin(const Clock& clock, const std::filesystem::path& mountpoint) {
  const auto mounted = mounted_at(mountpoint);
  if (!mounted || mounted->type != "fuse.reelfs")
    return Error(Errc::not_found, "no reelfs is mounted at " + mountpoint.string());
  REELFS_TRY(const auto path, serving_socket(*mounted));
  REELFS_TRY(auto socket, connect(path, mountpoint));
  REELFS_TRY(auto conversation, Conversation::with_peer(clock, std::move(socket)));
  TakeOver take_over(clock, std::move(conversation));
  const auto deadline = Deadline::after(clock, kHelloPatience);
  REELFS_TRY(take_over.conversation_.send({{"protocol", kProtocol}}, deadline));
  REELFS_TRY(const auto offer, receive_consent(take_over.conversation_, deadline, nullptr));
  try {
    offer.at("arguments").get_to(take_over.arguments_);
  } catch (const nlohmann::json::exception& error) {
    return Error(Errc::protocol, error.what());
  }
  return take_over;
}

Result<TakeOver::Received> TakeOver::receive() {
  const auto deadline = Deadline::after(*clock_, kFlushPatience);
  REELFS_TRY(conversation_.send({{"ready", true}}, deadline));
  Received received;
  REELFS_TRY(const auto message, receive_consent(conversation_, deadline, &received.device));
  if (!message.contains("state") || !received.device.is_open())
    return Error(Errc::protocol, "the other reelfs handed nothing over");
  REELFS_TRY(received.state, mount_state_from_json(message.at("state")));
  return received;
}

Result<void> TakeOver::finish() {
  const auto deadline = Deadline::after(*clock_, kPatience);
  // Where it has gone, what it said before tells whether it goes on or has died.
  [[maybe_unused]] const auto sent = conversation_.send({{"up", true}}, deadline);
  auto answer = receive_consent(conversation_, deadline, nullptr);
  if (!answer && answer.error().code() == Errc::timed_out) {
    conversation_.refuse_more();  // either it has given its word by now, or it cannot any more, and goes on
    answer = receive_consent(conversation_, Deadline::after(*clock_, kFarewell), nullptr);
    if (!answer) return Error(Errc::unavailable, "the other reelfs did not answer, and goes on");
  }
  if (answer) return ok();
  if (answer.error().code() != kGone) return std::move(answer.error());
  logger("fuse").warn("predecessor died while handing over");
  return ok();
}

void TakeOver::give_up(const Error& why) {
  const auto deadline = Deadline::after(*clock_, kFarewell);
  [[maybe_unused]] const auto told = conversation_.send({{"failed", why.describe()}}, deadline);
}

}  // namespace reelfs::fuse
