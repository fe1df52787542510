#pragma once

#include <memory>
#include <string>

#include <openssl/ssl.h>

#include "common/rpc/tls.h"

namespace reelfs::rpc {

template <auto free>
struct OpensslFree {
  template <class T>
  void operator()(T* object) const noexcept {
    free(object);
  }
};

struct TlsContext::Native {
  std::unique_ptr<SSL_CTX, OpensslFree<SSL_CTX_free>> context;
};

/// The oldest of OpenSSL's queued errors as a sentence; empties the queue.
std::string take_openssl_error();

}  // namespace reelfs::rpc
