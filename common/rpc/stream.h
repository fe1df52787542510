#pragma once

#include <chrono>
#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include <boost/asio/ip/tcp.hpp>
#include <openssl/ssl.h>
#include <sys/uio.h>

#include "common/async/task.h"
#include "common/rpc/tls_native.h"

namespace reelfs::rpc {

/// Bytes to and from one peer, over TCP or TLS. One coroutine reads while another writes, on one loop.
/// After any error the stream is of no further use but to be closed.
class Stream {
 public:
  enum class Side { client, server };

  /// @param socket  connected
  explicit Stream(asio::ip::tcp::socket socket);
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  /// Shakes hands; from then on all bytes are encrypted.
  /// @param peer_host  the client's side: name or address that the server's certificate must be good for
  /// @errors unavailable, cancelled
  Task<void> start_tls(const TlsContext& tls, Side side, std::string peer_host);

  /// Waits for bytes and stores as many as are there, at least one. @errors unavailable (also: the peer
  /// closed), cancelled
  Task<std::size_t> read_some(std::span<std::byte> into);
  /// Sends all pieces, in one system call where the kernel takes them. Uses up `pieces`. @errors as above
  Task<void> write(std::span<iovec> pieces);

  /// Ends reads and writes under way.
  void close();
  /// For how long the peer's machine has neither sent a byte nor acknowledged one (tcp(7), TCP_INFO). Zero
  /// where all that was sent is acknowledged, and on a closed stream.
  std::chrono::milliseconds silent_for() const;
  const std::string& peer() const { return peer_; }

 private:
  Task<void> wait(asio::ip::tcp::socket::wait_type what);
  Task<void> wait_for_tls(int result, const char* what);
  Task<void> write_tls(std::span<const std::byte> bytes);

  asio::ip::tcp::socket socket_;
  std::string peer_;
  std::unique_ptr<SSL, OpensslFree<SSL_free>> ssl_;
  std::vector<std::byte> staging_;  // TLS: small pieces joined into one record
  bool drained_ = false;            // the last read took all there was
  int reads_without_waiting_ = 0;
};

}  // namespace reelfs::rpc
