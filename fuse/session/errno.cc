#include "fuse/session/errno.h"

#include <cerrno>

namespace reelfs::fuse {

int to_errno(Errc code) noexcept {
  switch (code) {
    case Errc::not_found:
      return ENOENT;
    case Errc::stale_epoch:
      return ESTALE;
    case Errc::timed_out:
      return ETIMEDOUT;
    case Errc::corrupt:
      return EIO;
    case Errc::exists:
      return EEXIST;
    case Errc::not_directory:
      return ENOTDIR;
    case Errc::is_directory:
      return EISDIR;
    case Errc::not_empty:
      return ENOTEMPTY;
    case Errc::invalid:
      return EINVAL;
    case Errc::name_too_long:
      return ENAMETOOLONG;
    case Errc::not_permitted:
      return EPERM;
    case Errc::access_denied:
      return EACCES;
    case Errc::no_space:
      return ENOSPC;
    case Errc::quota_exceeded:
      return EDQUOT;
    case Errc::no_attribute:
      return ENODATA;
    case Errc::out_of_range:
      return ERANGE;
    case Errc::too_big:
      return E2BIG;
    case Errc::file_too_big:
      return EFBIG;
    case Errc::too_many_links:
      return EMLINK;
    case Errc::cross_channel:
      return EXDEV;
    case Errc::busy:
      return EBUSY;
    case Errc::read_only:
      return EROFS;
    case Errc::unsupported:
      return EOPNOTSUPP;
    case Errc::io:
      return EIO;
    case Errc::unavailable:
      return EIO;
    case Errc::cancelled:
      return EINTR;
    case Errc::stale_generation:
      return ESTALE;
    case Errc::stale_handle:
      return ESTALE;
    case Errc::not_active:
      return EIO;
    case Errc::protocol:
      return EPROTO;
    case Errc::bad_config:
      return EINVAL;
    case Errc::no_session:
      return ESTALE;
  }
  return EIO;  // a code of a newer server
}

}  // namespace reelfs::fuse
