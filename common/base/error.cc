#include "common/base/error.h"

#include <cerrno>
#include <cstring>

namespace reelfs {

std::string_view to_string(Errc code) noexcept {
  switch (code) {
    case Errc::not_found:
      return "not_found";
    case Errc::stale_epoch:
      return "stale_epoch";
    case Errc::timed_out:
      return "timed_out";
    case Errc::corrupt:
      return "corrupt";
    case Errc::exists:
      return "exists";
    case Errc::not_directory:
      return "not_directory";
    case Errc::is_directory:
      return "is_directory";
    case Errc::not_empty:
      return "not_empty";
    case Errc::invalid:
      return "invalid";
    case Errc::name_too_long:
      return "name_too_long";
    case Errc::not_permitted:
      return "not_permitted";
    case Errc::access_denied:
      return "access_denied";
    case Errc::no_space:
      return "no_space";
    case Errc::quota_exceeded:
      return "quota_exceeded";
    case Errc::no_attribute:
      return "no_attribute";
    case Errc::out_of_range:
      return "out_of_range";
    case Errc::too_big:
      return "too_big";
    case Errc::file_too_big:
      return "file_too_big";
    case Errc::too_many_links:
      return "too_many_links";
    case Errc::cross_channel:
      return "cross_channel";
    case Errc::busy:
      return "busy";
    case Errc::read_only:
      return "read_only";
    case Errc::unsupported:
      return "unsupported";
    case Errc::io:
      return "io";
    case Errc::unavailable:
      return "unavailable";
    case Errc::cancelled:
      return "cancelled";
    case Errc::stale_generation:
      return "stale_generation";
    case Errc::stale_handle:
      return "stale_handle";
    case Errc::not_active:
      return "not_active";
    case Errc::protocol:
      return "protocol";
    case Errc::bad_config:
      return "bad_config";
    case Errc::no_session:
      return "no_session";
  }
  return "unknown";
}

bool is_retryable(Errc code) noexcept {
  return code == Errc::stale_epoch || code == Errc::timed_out || code == Errc::unavailable ||
         code == Errc::not_active || code == Errc::busy;
}

std::string Error::describe() const {
  std::string text(to_string(code_));
  if (!message_.empty()) text.append(": ").append(message_);
  return text;
}

Error Error::within(std::string_view where) && {
  std::string text(where);
  if (!message_.empty()) text.append(": ").append(message_);
  message_ = std::move(text);
  return std::move(*this);
}

Error from_errno(int error_number, std::string_view what) {
  auto code = Errc::io;
  switch (error_number) {
    case ENOENT:
      code = Errc::not_found;
      break;
    case EEXIST:
      code = Errc::exists;
      break;
    case ENOTDIR:
      code = Errc::not_directory;
      break;
    case EISDIR:
      code = Errc::is_directory;
      break;
    case EINVAL:
      code = Errc::invalid;
      break;
    case ENAMETOOLONG:
      code = Errc::name_too_long;
      break;
    case EPERM:
      code = Errc::not_permitted;
      break;
    case EACCES:
      code = Errc::access_denied;
      break;
    case ENOSPC:
      code = Errc::no_space;
      break;
    case EBUSY:
    case EAGAIN:
    case EADDRINUSE:
      code = Errc::busy;
      break;
    case EROFS:
      code = Errc::read_only;
      break;
    case EOPNOTSUPP:
      code = Errc::unsupported;
      break;
    case ETIMEDOUT:
      code = Errc::timed_out;
      break;
    case EINTR:
    case ECANCELED:
      code = Errc::cancelled;
      break;
    case ECONNREFUSED:
    case ECONNRESET:
    case ECONNABORTED:
    case EPIPE:
    case EHOSTUNREACH:
    case ENETUNREACH:
    case ENOTCONN:
      code = Errc::unavailable;
      break;
    default:
      break;
  }
  std::string text(what);
  char buffer[128];
  text.append(": ").append(strerror_r(error_number, buffer, sizeof buffer));
  return Error(code, std::move(text));
}

}  // namespace reelfs
