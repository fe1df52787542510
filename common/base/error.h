#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

namespace reelfs {

/// What went wrong, for programs. Travels on the wire: values keep their meaning for ever.
/// The comment gives the errno a mount answers with, and what a caller may do about it.
enum class Errc : std::uint16_t {
  not_found = 1,          // ENOENT     final
  stale_epoch = 2,        // ESTALE     ask who is active, then retry
  timed_out = 3,          // ETIMEDOUT  it may or may not have happened
  corrupt = 4,            // EIO        final here, repairable from a peer
  exists = 5,             // EEXIST     final
  not_directory = 6,      // ENOTDIR    final
  is_directory = 7,       // EISDIR     final
  not_empty = 8,          // ENOTEMPTY  final
  invalid = 9,            // EINVAL     final
  name_too_long = 10,     // ENAMETOOLONG  final
  not_permitted = 11,     // EPERM      final
  access_denied = 12,     // EACCES     final
  no_space = 13,          // ENOSPC     until something is freed
  quota_exceeded = 14,    // EDQUOT     until something is freed
  no_attribute = 15,      // ENODATA    final
  out_of_range = 16,      // ERANGE     final
  too_big = 17,           // E2BIG      final
  file_too_big = 18,      // EFBIG      final
  too_many_links = 19,    // EMLINK     final
  cross_channel = 20,     // EXDEV      final: copy instead
  busy = 21,              // EBUSY      later
  read_only = 22,         // EROFS      final
  unsupported = 23,       // EOPNOTSUPP final
  io = 24,                // EIO        a device failed
  unavailable = 25,       // EIO        the peer cannot be reached: retry elsewhere or later
  cancelled = 26,         // EINTR      the caller gave up
  stale_generation = 27,  // ESTALE     the grant was superseded: ask for another
  stale_handle = 28,      // ESTALE     the inode is gone
  not_active = 29,        // EIO        this index server is not the active one
  protocol = 30,          // EPROTO     the peer sent what cannot be understood
  bad_config = 31,        // EINVAL     final: the operator must act
  no_session = 32,        // ESTALE     the session's lease ran out: open another
};

/// The name as written above ("not_found"), or "unknown" for a value this build does not know.
std::string_view to_string(Errc code) noexcept;

/// True where another try, here or elsewhere, may succeed without anyone changing the request.
bool is_retryable(Errc code) noexcept;

/// A code for programs and a sentence for people.
class Error {
 public:
  explicit Error(Errc code) : code_(code) {}
  Error(Errc code, std::string message) : code_(code), message_(std::move(message)) {}

  Errc code() const noexcept { return code_; }
  /// May be empty.
  const std::string& message() const noexcept { return message_; }
  /// "not_found: no channel cam7"
  std::string describe() const;
  /// The same error, saying where: "opening /dev/sdb: <message>".
  Error within(std::string_view where) &&;

  friend bool operator==(const Error& a, const Error& b) { return a.code_ == b.code_; }

 private:
  Errc code_;
  std::string message_;
};

/// From errno of a system call; `what` names the call and its object.
Error from_errno(int error_number, std::string_view what);

}  // namespace reelfs
