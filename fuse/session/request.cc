#include "fuse/session/request.h"

#include <atomic>
#include <cerrno>
#include <chrono>

#include "common/base/assert.h"
#include "common/observe/log.h"
#include "fuse/session/errno.h"
#include "fuse/session/newer_calls.h"

namespace reelfs::fuse {
namespace {

/// True for what a healthy store does not answer: everything else is the caller's own doing and tells an
/// operator nothing.
bool deserves_log(Errc code) {
  switch (code) {
    case Errc::timed_out:
    case Errc::corrupt:
    case Errc::io:
    case Errc::unavailable:
    case Errc::stale_epoch:
    case Errc::stale_generation:
    case Errc::not_active:
    case Errc::protocol:
    case Errc::bad_config:
    case Errc::no_session:
      return true;
    default:
      return false;
  }
}

/// A store that is away fails every call of every process: one line a second is enough to say so.
void log_failure(const char* operation, const Error& error) {
  static std::atomic<std::int64_t> last_second{0};
  static std::atomic<std::uint64_t> unlogged{0};
  const auto now =
      std::chrono::duration_cast<std::chrono::seconds>(std::chrono::steady_clock::now().time_since_epoch());
  auto last = last_second.load();
  if (last == now.count() || !last_second.compare_exchange_strong(last, now.count())) {
    ++unlogged;
    return;
  }
  logger("fuse").warn("call failed operation={} error=\"{}\" not_logged_before={}", operation,
                      error.describe(), unlogged.exchange(0));
}

}  // namespace

Request::~Request() {
  if (raw_ == nullptr) return;
  const int interrupted = fuse_req_interrupted(raw_);
  fail_with(interrupted ? EINTR : EIO);
}

fuse_req_t Request::take() {
  REELFS_ASSERT(raw_ != nullptr);
  // From here on no interruption may look at the operation; this waits for one that does just now.
  fuse_req_interrupt_func(raw_, nullptr, nullptr);
  return std::exchange(raw_, nullptr);
}

Caller Request::caller() const {
  const auto* context = fuse_req_ctx(raw_);
  return {context->uid, context->gid, context->umask};
}

void Request::succeed() { fuse_reply_err(take(), 0); }

void Request::fail(const Error& error) {
  if (deserves_log(error.code())) log_failure(operation_, error);
  fail_with(to_errno(error.code()));
}

void Request::fail_with(int error_number) { fuse_reply_err(take(), error_number); }
void Request::none() { fuse_reply_none(take()); }
void Request::entry(const fuse_entry_param& entry) { fuse_reply_entry(take(), &entry); }

void Request::attributes(const struct stat& attributes, double valid_seconds) {
  fuse_reply_attr(take(), &attributes, valid_seconds);
}

void Request::attributes(const struct stat& attributes, const timespec& born, double valid_seconds) {
  const auto reply = birth_reply(attributes, born, valid_seconds);
  data(std::as_bytes(std::span(&reply, 1)));
}

bool Request::opened(const fuse_file_info& info) { return fuse_reply_open(take(), &info) == 0; }

bool Request::created(const fuse_entry_param& entry, const fuse_file_info& info) {
  return fuse_reply_create(take(), &entry, &info) == 0;
}

void Request::written(std::size_t bytes) { fuse_reply_write(take(), bytes); }

void Request::data(std::span<const std::byte> bytes) {
  fuse_reply_buf(take(), reinterpret_cast<const char*>(bytes.data()), bytes.size());
}

void Request::data(const std::string& bytes) { fuse_reply_buf(take(), bytes.data(), bytes.size()); }
void Request::target(const std::string& link) { fuse_reply_readlink(take(), link.c_str()); }
void Request::space(const struct statvfs& space) { fuse_reply_statfs(take(), &space); }
void Request::xattr_size(std::size_t bytes) { fuse_reply_xattr(take(), bytes); }
void Request::position(std::uint64_t offset) { fuse_reply_lseek(take(), static_cast<off_t>(offset)); }
void Request::lock(const struct flock& lock) { fuse_reply_lock(take(), &lock); }

}  // namespace reelfs::fuse
