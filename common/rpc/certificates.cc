#include <cerrno>
#include <memory>

#include <boost/asio/ip/address.hpp>
#include <fcntl.h>
#include <openssl/bio.h>
#include <openssl/bn.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/rpc/tls.h"
#include "common/rpc/tls_native.h"

namespace reelfs::rpc {
namespace {

namespace asio = boost::asio;
namespace fs = std::filesystem;

using Key = std::unique_ptr<EVP_PKEY, OpensslFree<EVP_PKEY_free>>;
using Certificate = std::unique_ptr<X509, OpensslFree<X509_free>>;
using Memory = std::unique_ptr<BIO, OpensslFree<BIO_free_all>>;
using Number = std::unique_ptr<BIGNUM, OpensslFree<BN_free>>;
using Extension = std::unique_ptr<X509_EXTENSION, OpensslFree<X509_EXTENSION_free>>;

// Recorders stay in racks for a decade, and nobody renews a private authority's certificates by hand.
constexpr long kValidSeconds = 20L * 365 * 24 * 3600;
constexpr long kClockSkewSeconds = 24 * 3600;
constexpr int kSerialBits = 127;

Error openssl_failed(const std::string& what) { return Error(Errc::io, what + ": " + take_openssl_error()); }

// Under another name first: a crash leaves no half file behind that would be "left alone" for ever.
Result<void> write_file(const fs::path& path, BIO* content, mode_t mode) {
  const auto unfinished = path.string() + ".new";
  const char* data = nullptr;
  const auto bytes = static_cast<std::size_t>(BIO_get_mem_data(content, &data));
  const int fd = open(unfinished.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, mode);
  if (fd < 0) return from_errno(errno, "creating " + unfinished);
  const bool written =
      fchmod(fd, mode) == 0 && write(fd, data, bytes) == static_cast<ssize_t>(bytes) && fsync(fd) == 0;
  const int number = errno;
  close(fd);
  if (!written) return from_errno(number, "writing " + unfinished);
  if (rename(unfinished.c_str(), path.c_str()) != 0) return from_errno(errno, "renaming " + unfinished);
  return ok();
}

Result<Key> read_key(const fs::path& path) {
  const Memory file(BIO_new_file(path.c_str(), "r"));
  Key key(file ? PEM_read_bio_PrivateKey(file.get(), nullptr, nullptr, nullptr) : nullptr);
  if (!key) return Error(Errc::bad_config, "key " + path.string() + ": " + take_openssl_error());
  return key;
}

Result<Certificate> read_certificate(const fs::path& path) {
  const Memory file(BIO_new_file(path.c_str(), "r"));
  Certificate certificate(file ? PEM_read_bio_X509(file.get(), nullptr, nullptr, nullptr) : nullptr);
  if (!certificate)
    return Error(Errc::bad_config, "certificate " + path.string() + ": " + take_openssl_error());
  return certificate;
}

/// The key in the file, or a new one put there.
Result<Key> key_at(const fs::path& path) {
  if (fs::exists(path)) return read_key(path);
  Key key(EVP_EC_gen("P-256"));
  const Memory content(BIO_new(BIO_s_mem()));
  if (!key ||
      PEM_write_bio_PrivateKey(content.get(), key.get(), nullptr, nullptr, 0, nullptr, nullptr) != 1) {
    return openssl_failed("making a key");
  }
  REELFS_TRY(write_file(path, content.get(), 0600));
  return key;
}

bool add_extension(X509* certificate, X509* issuer, int kind, const std::string& value) {
  X509V3_CTX context;
  X509V3_set_ctx(&context, issuer, certificate, nullptr, nullptr, 0);
  const Extension extension(X509V3_EXT_conf_nid(nullptr, &context, kind, value.c_str()));
  return extension && X509_add_ext(certificate, extension.get(), -1) == 1;
}

/// A certificate for `key` without extensions and signature.
Certificate blank_certificate(const std::string& name, EVP_PKEY* key) {
  Certificate certificate(X509_new());
  const Number serial(BN_new());
  auto* x509 = certificate.get();
  auto* subject = x509 != nullptr ? X509_get_subject_name(x509) : nullptr;
  const auto* text = reinterpret_cast<const unsigned char*>(name.c_str());
  const bool made =
      subject != nullptr && X509_set_version(x509, X509_VERSION_3) == 1 &&
      BN_rand(serial.get(), kSerialBits, BN_RAND_TOP_ONE, BN_RAND_BOTTOM_ANY) == 1 &&
      BN_to_ASN1_INTEGER(serial.get(), X509_get_serialNumber(x509)) != nullptr &&
      X509_gmtime_adj(X509_getm_notBefore(x509), -kClockSkewSeconds) != nullptr &&
      X509_gmtime_adj(X509_getm_notAfter(x509), kValidSeconds) != nullptr &&
      X509_NAME_add_entry_by_txt(subject, "O", MBSTRING_UTF8,
                                 reinterpret_cast<const unsigned char*>("reelfs"), -1, -1, 0) == 1 &&
      X509_NAME_add_entry_by_txt(subject, "CN", MBSTRING_UTF8, text, -1, -1, 0) == 1 &&
      X509_set_pubkey(x509, key) == 1;
  if (!made) certificate.reset();
  return certificate;
}

Result<void> sign_and_write(X509* certificate, EVP_PKEY* key, const fs::path& path) {
  const Memory content(BIO_new(BIO_s_mem()));
  if (X509_sign(certificate, key, EVP_sha256()) == 0 || PEM_write_bio_X509(content.get(), certificate) != 1) {
    return openssl_failed("signing " + path.string());
  }
  return write_file(path, content.get(), 0644);
}

Result<std::string> alternative_names(const std::vector<std::string>& hosts) {
  std::string names;
  for (const auto& host : hosts) {
    boost::system::error_code not_an_address;
    asio::ip::make_address(host, not_an_address);
    if (not_an_address && (host.empty() || host.find_first_of(",:;= \t\n\r") != std::string::npos)) {
      return Error(Errc::invalid, "not a host name: \"" + host + '"');
    }
    names.append(names.empty() ? "" : ",").append(not_an_address ? "DNS:" : "IP:").append(host);
  }
  if (names.empty()) return Error(Errc::invalid, "a certificate is good for at least one host");
  return names;
}

}  // namespace

Result<void> make_authority(const fs::path& directory, const std::string& cluster_name) {
  const auto path = directory / "authority.pem";
  ERR_clear_error();
  REELFS_TRY(const auto key, key_at(directory / "authority.key"));
  if (fs::exists(path)) return ok();
  const auto certificate = blank_certificate(cluster_name + " authority", key.get());
  auto* x509 = certificate.get();
  if (x509 == nullptr || X509_set_issuer_name(x509, X509_get_subject_name(x509)) != 1 ||
      !add_extension(x509, x509, NID_basic_constraints, "critical,CA:TRUE,pathlen:0") ||
      !add_extension(x509, x509, NID_key_usage, "critical,keyCertSign,cRLSign") ||
      !add_extension(x509, x509, NID_subject_key_identifier, "hash")) {
    return openssl_failed("making " + path.string());
  }
  return sign_and_write(x509, key.get(), path);
}

Result<TlsFiles> make_identity(const fs::path& directory, const std::string& name,
                               const std::vector<std::string>& hosts) {
  TlsFiles files;
  files.authority = directory / "authority.pem";
  files.certificate = directory / (name + ".pem");
  files.key = directory / (name + ".key");
  ERR_clear_error();
  REELFS_TRY(const auto names, alternative_names(hosts));
  REELFS_TRY(const auto key, key_at(files.key));
  if (fs::exists(files.certificate)) return files;
  REELFS_TRY(const auto authority, read_certificate(files.authority));
  REELFS_TRY(const auto authority_key, read_key(directory / "authority.key"));
  const auto certificate = blank_certificate(name, key.get());
  auto* x509 = certificate.get();
  if (x509 == nullptr || X509_set_issuer_name(x509, X509_get_subject_name(authority.get())) != 1 ||
      !add_extension(x509, authority.get(), NID_basic_constraints, "critical,CA:FALSE") ||
      !add_extension(x509, authority.get(), NID_key_usage, "critical,digitalSignature") ||
      !add_extension(x509, authority.get(), NID_ext_key_usage, "serverAuth,clientAuth") ||
      !add_extension(x509, authority.get(), NID_subject_key_identifier, "hash") ||
      !add_extension(x509, authority.get(), NID_authority_key_identifier, "keyid") ||
      !add_extension(x509, authority.get(), NID_subject_alt_name, names)) {
    return openssl_failed("making " + files.certificate.string());
  }
  REELFS_TRY(sign_and_write(x509, authority_key.get(), files.certificate));
  return files;
}

}  // namespace reelfs::rpc
