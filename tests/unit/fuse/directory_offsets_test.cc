#include "fuse/ops/directory_offsets.h"

#include <gtest/gtest.h>

namespace reelfs::fuse {
namespace {

TEST(DirectoryOffsets, AListingGoesOnWhereTheEntrySaid) {
  for (const std::uint64_t cookie : {std::uint64_t{1}, std::uint64_t{2}, std::uint64_t{77}, kMaxCookie}) {
    EXPECT_EQ(cookie_at_offset(offset_of_cookie(cookie)), cookie);
  }
}

TEST(DirectoryOffsets, TheIndexStartsAfterTheDots) {
  EXPECT_EQ(cookie_at_offset(kDirectoryStart), 0u);
  EXPECT_EQ(cookie_at_offset(kAfterDot), 0u);
  EXPECT_EQ(cookie_at_offset(kAfterDotDot), 0u);
  EXPECT_GT(offset_of_cookie(1), kAfterDotDot);
}

TEST(DirectoryOffsets, EveryOffsetIsAPositiveOffT) {
  EXPECT_GT(static_cast<std::int64_t>(offset_of_cookie(kMaxCookie)), 0);
}

}  // namespace
}  // namespace reelfs::fuse
