#include "common/rpc/tls.h"

#include <openssl/err.h>

#include "common/rpc/tls_native.h"

namespace reelfs::rpc {

std::string take_openssl_error() {
  const auto code = ERR_get_error();
  ERR_clear_error();
  if (code == 0) return {};
  const char* reason = ERR_reason_error_string(code);
  return reason != nullptr ? reason : "OpenSSL error " + std::to_string(code);
}

TlsContext::TlsContext(std::unique_ptr<Native> native) : native_(std::move(native)) {}
TlsContext::~TlsContext() = default;

Result<std::shared_ptr<const TlsContext>> TlsContext::load(const TlsFiles& files) {
  ERR_clear_error();
  auto native = std::make_unique<Native>();
  native->context.reset(SSL_CTX_new(TLS_method()));
  auto* context = native->context.get();
  const auto wrong = [](const std::filesystem::path& file, const char* what) {
    return Error(Errc::bad_config, std::string(what) + ' ' + file.string() + ": " + take_openssl_error());
  };
  if (context == nullptr) return Error(Errc::bad_config, "TLS: " + take_openssl_error());
  SSL_CTX_set_min_proto_version(context, TLS1_3_VERSION);
  SSL_CTX_set_verify(context, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, nullptr);
  // Connections live for days: resuming would save nothing, and tickets arrive in the middle of the first
  // reads.
  SSL_CTX_set_num_tickets(context, 0);
  SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);
  if (SSL_CTX_load_verify_locations(context, files.authority.c_str(), nullptr) != 1) {
    return wrong(files.authority, "TLS authority");
  }
  if (SSL_CTX_use_certificate_chain_file(context, files.certificate.c_str()) != 1) {
    return wrong(files.certificate, "TLS certificate");
  }
  if (SSL_CTX_use_PrivateKey_file(context, files.key.c_str(), SSL_FILETYPE_PEM) != 1 ||
      SSL_CTX_check_private_key(context) != 1) {
    return wrong(files.key, "TLS key");
  }
  return std::shared_ptr<const TlsContext>(new TlsContext(std::move(native)));
}

}  // namespace reelfs::rpc
