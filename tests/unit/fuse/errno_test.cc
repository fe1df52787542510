#include "fuse/session/errno.h"

#include <cerrno>
#include <string>

#include <gtest/gtest.h>

namespace reelfs::fuse {
namespace {

TEST(ToErrno, EveryCodeHasAnErrnoThatIsNotSuccess) {
  for (std::uint16_t value = 1; value <= 64; ++value) {
    const auto code = static_cast<Errc>(value);
    EXPECT_GT(to_errno(code), 0) << to_string(code);
  }
}

TEST(ToErrno, CallersSeeWhatALocalFileSystemWouldAnswer) {
  EXPECT_EQ(to_errno(Errc::not_found), ENOENT);
  EXPECT_EQ(to_errno(Errc::exists), EEXIST);
  EXPECT_EQ(to_errno(Errc::not_empty), ENOTEMPTY);
  EXPECT_EQ(to_errno(Errc::not_permitted), EPERM);
  EXPECT_EQ(to_errno(Errc::cross_channel), EXDEV);
  EXPECT_EQ(to_errno(Errc::no_attribute), ENODATA);
  EXPECT_EQ(to_errno(Errc::no_space), ENOSPC);
}

TEST(ToErrno, AStoreThatIsAwayIsAnErrorAndNotAnAbsence) {
  for (const auto code : {Errc::unavailable, Errc::io, Errc::corrupt, Errc::not_active}) {
    EXPECT_EQ(to_errno(code), EIO) << to_string(code);
  }
  EXPECT_EQ(to_errno(Errc::timed_out), ETIMEDOUT);
  EXPECT_EQ(to_errno(Errc::cancelled), EINTR);
}

TEST(ToErrno, ACodeOfANewerServerIsAnError) { EXPECT_EQ(to_errno(static_cast<Errc>(60'000)), EIO); }

}  // namespace
}  // namespace reelfs::fuse
