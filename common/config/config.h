#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "common/base/result.h"
#include "common/rpc/endpoint.h"
#include "common/rpc/tls.h"

namespace reelfs {
struct LogConfig;
}

namespace reelfs::config {

struct Bounds {
  std::int64_t min = INT64_MIN;
  std::int64_t max = INT64_MAX;
};

class File;

/// One table of a File.
class Table {
 public:
  /// Each leaves `into` as it is where the key is absent.
  void read(std::string_view key, std::string& into);
  void read(std::string_view key, bool& into);
  void read(std::string_view key, std::uint32_t& into, Bounds bounds = {});
  void read(std::string_view key, std::uint64_t& into, Bounds bounds = {});
  void read(std::string_view key, std::filesystem::path& into);  // relative ones are relative to the file
  void read(std::string_view key, rpc::Endpoint& into);
  void read(std::string_view key, std::vector<std::string>& into);
  /// One alone, too. An item may name several addresses of one server, separated by spaces.
  void read(std::string_view key, std::vector<rpc::Endpoint>& into);
  /// "64M", "4G" or a number of bytes.
  void read_bytes(std::string_view key, std::uint64_t& into, Bounds bounds = {});
  /// "200ms", "30s", "5m", "2h" or a number of milliseconds.
  void read_duration(std::string_view key, std::chrono::milliseconds& into, Bounds bounds_ms = {});
  void read(std::string_view key, rpc::TlsFiles& into);  // a table with ca, cert, key
  void read(std::string_view key, LogConfig& into);      // a table with level, file
  /// Requires the key to be there: an error names it otherwise.
  void require(std::string_view key);
  /// An absent table reads as empty.
  Table child(std::string_view key);

 private:
  friend class File;
  struct Node;
  explicit Table(std::shared_ptr<Node> node);
  std::shared_ptr<Node> node_;
};

/// Reads a TOML file into typed fields; finds unknown keys and values out of range, and names file and line.
///
///     REELFS_TRY(auto file, File::load(path));
///     auto table = file.root();
///     table.read("listen", config.listen);                       // rpc::Endpoint from "host:port"
///     table.read("workers", config.workers, {.min = 1, .max = 1024});
///     auto tls = table.child("tls");
///     REELFS_TRY(file.finish());                                 // the first error, or unknown keys
class File {
 public:
  /// @errors not_found, bad_config with line and column
  static Result<File> load(const std::filesystem::path& path);
  static Result<File> parse(std::string_view text, std::filesystem::path path);
  Table root();
  /// Once all has been read. @errors bad_config: the first thing wrong, or a key that nobody read
  Result<void> finish();

 private:
  friend class Table;
  struct Document;
  explicit File(std::shared_ptr<Document> document);
  std::shared_ptr<Document> document_;
};

/// "64M" -> 67108864; suffixes K M G T (and Ki, KiB, …) are powers of 1024. @errors invalid
Result<std::uint64_t> parse_bytes(std::string_view text);

}  // namespace reelfs::config
