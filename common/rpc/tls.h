#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "common/base/result.h"

namespace reelfs::rpc {

/// Files of one identity within a cluster: PEM, issued by the cluster's certificate authority.
struct TlsFiles {
  std::filesystem::path authority;
  std::filesystem::path certificate;
  std::filesystem::path key;
  bool empty() const { return authority.empty() && certificate.empty() && key.empty(); }
};

/// A loaded identity. Both ends of a connection show a certificate of the same authority (mutual TLS 1.3).
class TlsContext {
 public:
  /// @errors bad_config naming the file that cannot be read or does not fit the others
  static Result<std::shared_ptr<const TlsContext>> load(const TlsFiles& files);
  ~TlsContext();
  TlsContext(const TlsContext&) = delete;
  TlsContext& operator=(const TlsContext&) = delete;

  struct Native;  // SSL_CTX, known to stream.cc alone
  const Native& native() const { return *native_; }

 private:
  explicit TlsContext(std::unique_ptr<Native> native);
  std::unique_ptr<Native> native_;
};

/// Makes a certificate authority: authority.pem and authority.key in `directory`. Leaves existing files
/// alone.
Result<void> make_authority(const std::filesystem::path& directory, const std::string& cluster_name);
/// Makes <name>.pem and <name>.key in `directory`, signed by its authority. Leaves existing files alone.
/// @param hosts  names and addresses the certificate is good for
Result<TlsFiles> make_identity(const std::filesystem::path& directory, const std::string& name,
                               const std::vector<std::string>& hosts);

}  // namespace reelfs::rpc
