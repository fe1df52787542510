#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <utility>

#include <fcntl.h>

#include "common/base/error.h"
#include "fuse/session/fuse_api.h"

namespace reelfs::fuse {

/// Who made the call.
struct Caller {
  std::uint32_t uid = 0;
  std::uint32_t gid = 0;
  std::uint32_t umask = 0;
};

/// One call of the kernel's. It is answered exactly once: by one of the functions below, or by the destructor
/// (EINTR where the caller gave up, else EIO), so that no path through an operation leaves a process waiting
/// for ever. May be answered on any thread. Answering twice is an assertion.
class Request {
 public:
  /// @param operation  for the log; a literal
  Request(fuse_req_t raw, const char* operation) : raw_(raw), operation_(operation) {}
  ~Request();
  Request(Request&& other) noexcept
      : raw_(std::exchange(other.raw_, nullptr)), operation_(other.operation_) {}
  Request(const Request&) = delete;
  Request& operator=(const Request&) = delete;
  Request& operator=(Request&&) = delete;

  Caller caller() const;

  void succeed();
  /// An error that only an operator can explain (a device, the network) is logged too, a few a second at
  /// most.
  void fail(const Error& error);
  void fail_with(int error_number);
  /// For forget, which has no answer.
  void none();
  void entry(const fuse_entry_param& entry);
  void attributes(const struct stat& attributes, double valid_seconds);
  /// Answers a getattr that asks for the time of birth (NewerCalls).
  void attributes(const struct stat& attributes, const timespec& born, double valid_seconds);
  /// @return false: the caller is gone and will not release what was opened
  [[nodiscard]] bool opened(const fuse_file_info& info);
  [[nodiscard]] bool created(const fuse_entry_param& entry, const fuse_file_info& info);
  void written(std::size_t bytes);
  void data(std::span<const std::byte> bytes);
  void data(const std::string& bytes);
  void target(const std::string& link);
  void space(const struct statvfs& space);
  void xattr_size(std::size_t bytes);
  void position(std::uint64_t offset);
  void lock(const struct flock& lock);

  fuse_req_t raw() const { return raw_; }

 private:
  fuse_req_t take();

  fuse_req_t raw_;
  const char* operation_;
};

}  // namespace reelfs::fuse
