#include "common/rpc/stream.h"

#include <algorithm>
#include <cerrno>
#include <cstring>

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/ip/address.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/x509v3.h>
#include <sys/socket.h>

#include "common/rpc/endpoint.h"

namespace reelfs::rpc {
namespace {

using asio::ip::tcp;

constexpr std::size_t kTlsRecordBytes = 16 * 1024;
constexpr int kReadsBeforeYielding = 16;  // so that a fast sender cannot keep the loop from everyone else
// A peer that vanished without a word is noticed within about half a minute.
constexpr int kKeepaliveIdleSeconds = 15;
constexpr int kKeepaliveIntervalSeconds = 5;
constexpr int kKeepaliveProbes = 3;
constexpr int kUserTimeoutMs = 30'000;

Error socket_error(int error_number, const char* what) {
  return Error(Errc::unavailable, from_errno(error_number, what).message());
}

Error closed_by_peer() { return Error(Errc::unavailable, "connection closed by peer"); }

void set_option(int fd, int level, int option, int value) {
  (void)setsockopt(fd, level, option, &value, sizeof value);
}

// A BIO over a descriptor that does not raise SIGPIPE, as OpenSSL's own does.
int descriptor_of(BIO* bio) { return static_cast<int>(reinterpret_cast<std::intptr_t>(BIO_get_data(bio))); }

int write_bio(BIO* bio, const char* data, int size) {
  BIO_clear_retry_flags(bio);
  const auto sent =
      send(descriptor_of(bio), data, static_cast<std::size_t>(size), MSG_NOSIGNAL | MSG_DONTWAIT);
  if (sent < 0 && (errno == EAGAIN || errno == EINTR)) BIO_set_retry_write(bio);
  return static_cast<int>(sent);
}

int read_bio(BIO* bio, char* data, int size) {
  BIO_clear_retry_flags(bio);
  const auto got = recv(descriptor_of(bio), data, static_cast<std::size_t>(size), MSG_DONTWAIT);
  if (got < 0 && (errno == EAGAIN || errno == EINTR)) BIO_set_retry_read(bio);
  return static_cast<int>(got);
}

long control_bio(BIO*, int command, long, void*) { return command == BIO_CTRL_FLUSH ? 1 : 0; }

int create_bio(BIO* bio) {
  BIO_set_init(bio, 1);
  return 1;
}

BIO* make_bio(int fd) {
  static BIO_METHOD* const method = [] {
    auto* made = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "reelfs socket");
    BIO_meth_set_write(made, write_bio);
    BIO_meth_set_read(made, read_bio);
    BIO_meth_set_ctrl(made, control_bio);
    BIO_meth_set_create(made, create_bio);
    return made;
  }();
  auto* bio = BIO_new(method);
  BIO_set_data(bio, reinterpret_cast<void*>(static_cast<std::intptr_t>(fd)));
  return bio;
}

}  // namespace

Stream::Stream(tcp::socket socket) : socket_(std::move(socket)) {
  boost::system::error_code ignored;
  socket_.set_option(tcp::no_delay(true), ignored);
  socket_.native_non_blocking(true, ignored);
  const int fd = socket_.native_handle();
  set_option(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
  set_option(fd, IPPROTO_TCP, TCP_KEEPIDLE, kKeepaliveIdleSeconds);
  set_option(fd, IPPROTO_TCP, TCP_KEEPINTVL, kKeepaliveIntervalSeconds);
  set_option(fd, IPPROTO_TCP, TCP_KEEPCNT, kKeepaliveProbes);
  set_option(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, kUserTimeoutMs);
  const auto remote = socket_.remote_endpoint(ignored);
  Endpoint endpoint;
  endpoint.host = remote.address().to_string();
  endpoint.port = remote.port();
  peer_ = endpoint.to_string();
}

Task<void> Stream::wait(tcp::socket::wait_type what) {
  if (!socket_.is_open()) co_return Error(Errc::unavailable, "connection closed");
  const auto [failure] = co_await socket_.async_wait(what, asio::as_tuple(asio::use_awaitable));
  if (failure == asio::error::operation_aborted) co_return Error(Errc::cancelled, "connection closed");
  if (failure) co_return socket_error(failure.value(), "socket");
  reads_without_waiting_ = 0;
  co_return ok();
}

Task<void> Stream::wait_for_tls(int result, const char* what) {
  const int error_number = errno;
  switch (SSL_get_error(ssl_.get(), result)) {
    case SSL_ERROR_WANT_READ:
      co_return co_await wait(tcp::socket::wait_read);
    case SSL_ERROR_WANT_WRITE:
      co_return co_await wait(tcp::socket::wait_write);
    case SSL_ERROR_ZERO_RETURN:
      co_return closed_by_peer();
    case SSL_ERROR_SYSCALL:
      if (error_number == 0 || ERR_peek_error() != 0) break;
      co_return socket_error(error_number, what);
    default:
      break;
  }
  auto why = take_openssl_error();
  if (why.empty()) co_return closed_by_peer();
  co_return Error(Errc::unavailable, std::string(what) + ": " + why);
}

Task<void> Stream::start_tls(const TlsContext& tls, Side side, std::string peer_host) {
  ssl_.reset(SSL_new(tls.native().context.get()));
  auto* bio = make_bio(socket_.native_handle());
  SSL_set_bio(ssl_.get(), bio, bio);
  SSL_set_mode(ssl_.get(), SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
  if (side == Side::client) {
    SSL_set_connect_state(ssl_.get());
    boost::system::error_code not_an_address;
    asio::ip::make_address(peer_host, not_an_address);
    if (not_an_address) {
      SSL_set1_host(ssl_.get(), peer_host.c_str());
      SSL_set_tlsext_host_name(ssl_.get(), peer_host.c_str());
    } else {
      X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(ssl_.get()), peer_host.c_str());
    }
  } else {
    SSL_set_accept_state(ssl_.get());
  }
  for (;;) {
    if (!socket_.is_open()) co_return Error(Errc::unavailable, "connection closed");
    ERR_clear_error();
    errno = 0;
    const int result = SSL_do_handshake(ssl_.get());
    if (result == 1) co_return ok();
    REELFS_CO_TRY(co_await wait_for_tls(result, "TLS handshake"));
  }
}

Task<std::size_t> Stream::read_some(std::span<std::byte> into) {
  if (++reads_without_waiting_ > kReadsBeforeYielding) {
    reads_without_waiting_ = 0;
    co_await asio::post(asio::use_awaitable);
  }
  for (;;) {
    if (drained_) {
      REELFS_CO_TRY(co_await wait(tcp::socket::wait_read));
      drained_ = false;
    }
    if (!socket_.is_open()) co_return Error(Errc::unavailable, "connection closed");
    errno = 0;
    if (ssl_) {
      ERR_clear_error();
      std::size_t got = 0;
      const int result = SSL_read_ex(ssl_.get(), into.data(), into.size(), &got);
      if (result == 1) co_return got;
      REELFS_CO_TRY(co_await wait_for_tls(result, "TLS read"));
      continue;
    }
    const auto got = recv(socket_.native_handle(), into.data(), into.size(), MSG_DONTWAIT);
    if (got > 0) {
      drained_ = static_cast<std::size_t>(got) < into.size();
      co_return static_cast<std::size_t>(got);
    }
    if (got == 0) co_return closed_by_peer();
    if (errno == EAGAIN) {
      drained_ = true;
    } else if (errno != EINTR) {
      co_return socket_error(errno, "receiving");
    }
  }
}

Task<void> Stream::write_tls(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    if (!socket_.is_open()) co_return Error(Errc::unavailable, "connection closed");
    ERR_clear_error();
    errno = 0;
    std::size_t sent = 0;
    const int result = SSL_write_ex(ssl_.get(), bytes.data(), bytes.size(), &sent);
    if (result == 1) {
      bytes = bytes.subspan(sent);
    } else {
      REELFS_CO_TRY(co_await wait_for_tls(result, "TLS write"));
    }
  }
  co_return ok();
}

Task<void> Stream::write(std::span<iovec> pieces) {
  if (ssl_) {
    for (const auto& piece : pieces) {
      const std::span bytes(static_cast<const std::byte*>(piece.iov_base), piece.iov_len);
      if (staging_.size() + bytes.size() > kTlsRecordBytes) {
        REELFS_CO_TRY(co_await write_tls(staging_));
        staging_.clear();
      }
      if (bytes.size() > kTlsRecordBytes) {
        REELFS_CO_TRY(co_await write_tls(bytes));
      } else {
        staging_.insert(staging_.end(), bytes.begin(), bytes.end());
      }
    }
    REELFS_CO_TRY(co_await write_tls(staging_));
    staging_.clear();
    co_return ok();
  }
  while (!pieces.empty()) {
    if (!socket_.is_open()) co_return Error(Errc::unavailable, "connection closed");
    msghdr message{};
    message.msg_iov = pieces.data();
    message.msg_iovlen = std::min<std::size_t>(pieces.size(), IOV_MAX);
    const auto sent = sendmsg(socket_.native_handle(), &message, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent < 0) {
      if (errno == EINTR) continue;
      if (errno != EAGAIN) co_return socket_error(errno, "sending");
      REELFS_CO_TRY(co_await wait(tcp::socket::wait_write));
      continue;
    }
    auto left = static_cast<std::size_t>(sent);
    while (!pieces.empty() && left >= pieces.front().iov_len) {
      left -= pieces.front().iov_len;
      pieces = pieces.subspan(1);
    }
    if (left > 0) {
      pieces.front().iov_base = static_cast<std::byte*>(pieces.front().iov_base) + left;
      pieces.front().iov_len -= left;
    }
  }
  co_return ok();
}

std::chrono::milliseconds Stream::silent_for() const {
  tcp_info info{};
  socklen_t bytes = sizeof info;
  auto& socket = const_cast<asio::ip::tcp::socket&>(socket_);  // NOLINT: native_handle() changes nothing
  if (!socket.is_open() || getsockopt(socket.native_handle(), IPPROTO_TCP, TCP_INFO, &info, &bytes) != 0)
    return {};
  if (info.tcpi_unacked == 0) return {};
  return std::chrono::milliseconds(std::min(info.tcpi_last_data_recv, info.tcpi_last_ack_recv));
}

void Stream::close() {
  if (!socket_.is_open()) return;
  if (ssl_ && SSL_is_init_finished(ssl_.get())) {
    ERR_clear_error();
    SSL_shutdown(ssl_.get());
    ERR_clear_error();
  }
  boost::system::error_code ignored;
  socket_.close(ignored);
}

}  // namespace reelfs::rpc
