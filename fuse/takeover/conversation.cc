#include "fuse/takeover/conversation.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <vector>

#include <fmt/format.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "fuse/takeover/message.h"

namespace reelfs::fuse {
namespace {

/// A million open files.
constexpr std::uint32_t kMaxMessageBytes = 512u << 20;
constexpr std::size_t kReadAtOnce = 1u
                                    << 20;  // so that memory is taken for what has come, not for what is said

Error peer_gone() { return Error(Errc::unavailable, "the other reelfs has gone"); }

std::array<char, 4> encode_length(std::uint32_t length) {
  std::array<char, 4> bytes{};
  for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<char>(length >> (8 * i) & 0xff);
  return bytes;
}

std::uint32_t decode_length(const std::array<char, 4>& bytes) {
  std::uint32_t length = 0;
  for (std::size_t i = 0; i < bytes.size(); ++i)
    length |= static_cast<std::uint32_t>(static_cast<unsigned char>(bytes[i])) << (8 * i);
  return length;
}

}  // namespace

Descriptor::~Descriptor() {
  if (number_ >= 0) ::close(number_);
}

Result<Conversation> Conversation::with_peer(const Clock& clock, Descriptor socket) {
  ucred peer{};
  socklen_t size = sizeof peer;
  if (::getsockopt(socket.number(), SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0)
    return from_errno(errno, "SO_PEERCRED");
  if (peer.uid != 0 && peer.uid != ::geteuid())
    return Error(Errc::not_permitted, fmt::format("user {} may not take over or be taken over", peer.uid));
  return Conversation(clock, std::move(socket), peer.pid);
}

Result<void> Conversation::wait_for(short events, Deadline deadline) const {
  while (true) {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline.left(*clock_));
    if (left.count() <= 0) return Error(Errc::timed_out, "the other reelfs does not answer");
    pollfd descriptor{socket_.number(), events, 0};
    if (::poll(&descriptor, 1, static_cast<int>(left.count())) > 0) return ok();
  }
}

Result<void> Conversation::send(const nlohmann::json& message, Deadline deadline, int descriptor) {
  const auto body = nlohmann::json::to_cbor(message);
  const auto length = encode_length(static_cast<std::uint32_t>(body.size()));
  std::string bytes(length.begin(), length.end());
  bytes.append(body.begin(), body.end());
  for (std::size_t sent = 0; sent < bytes.size();) {
    REELFS_TRY(wait_for(POLLOUT, deadline));
    iovec part{bytes.data() + sent, bytes.size() - sent};
    msghdr header{};
    header.msg_iov = &part;
    header.msg_iovlen = 1;
    alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int))> control{};
    if (sent == 0 && descriptor >= 0) {
      header.msg_control = control.data();
      header.msg_controllen = control.size();
      auto* rights = CMSG_FIRSTHDR(&header);
      rights->cmsg_level = SOL_SOCKET;
      rights->cmsg_type = SCM_RIGHTS;
      rights->cmsg_len = CMSG_LEN(sizeof(int));
      std::memcpy(CMSG_DATA(rights), &descriptor, sizeof descriptor);
    }
    const auto done = ::sendmsg(socket_.number(), &header, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (done > 0) sent += static_cast<std::size_t>(done);
    if (done < 0 && errno != EAGAIN && errno != EINTR) return peer_gone();
  }
  return ok();
}

Result<void> Conversation::read_exactly(char* into, std::size_t size, Deadline deadline,
                                        Descriptor& descriptor) {
  for (std::size_t got = 0; got < size;) {
    REELFS_TRY(wait_for(POLLIN, deadline));
    iovec part{into + got, size - got};
    msghdr header{};
    header.msg_iov = &part;
    header.msg_iovlen = 1;
    alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int))> control{};
    header.msg_control = control.data();
    header.msg_controllen = control.size();
    const auto done = ::recvmsg(socket_.number(), &header, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
    if (done == 0) return peer_gone();
    if (done < 0 && errno != EAGAIN && errno != EINTR) return peer_gone();
    if (done < 0) continue;
    got += static_cast<std::size_t>(done);
    const auto* rights = CMSG_FIRSTHDR(&header);
    if (rights == nullptr || rights->cmsg_level != SOL_SOCKET || rights->cmsg_type != SCM_RIGHTS) continue;
    int number = -1;
    std::memcpy(&number, CMSG_DATA(rights), sizeof number);
    descriptor = Descriptor(number);
  }
  return ok();
}

Result<Conversation::Message> Conversation::receive(Deadline deadline) {
  Message message;
  std::array<char, 4> length_bytes{};
  REELFS_TRY(read_exactly(length_bytes.data(), length_bytes.size(), deadline, message.descriptor));
  const auto length = decode_length(length_bytes);
  if (length > kMaxMessageBytes) return Error(Errc::protocol, "a message is too long");
  std::vector<char> body;
  while (body.size() < length) {
    const auto before = body.size();
    body.resize(std::min<std::size_t>(length, before + kReadAtOnce));
    REELFS_TRY(read_exactly(body.data() + before, body.size() - before, deadline, message.descriptor));
  }
  REELFS_TRY(message.content, parse_message(body));
  return message;
}

void Conversation::refuse_more() { ::shutdown(socket_.number(), SHUT_RDWR); }

}  // namespace reelfs::fuse
