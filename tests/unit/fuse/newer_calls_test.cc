#include "fuse/session/newer_calls.h"

#include <cstring>
#include <string>
#include <string_view>

#include <gtest/gtest.h>
#include <linux/fuse.h>

namespace reelfs::fuse {
namespace {

template <class T>
std::string bytes_of(const T& value) {
  return {reinterpret_cast<const char*>(&value), sizeof value};
}

/// A request as the kernel writes it.
struct Call {
  Call(std::uint32_t opcode, const std::string& body) {
    fuse_in_header header{};
    header.opcode = opcode;
    header.len = static_cast<std::uint32_t>(sizeof header + body.size());
    bytes = bytes_of(header) + body;
    buffer.mem = bytes.data();
    buffer.size = bytes.size();
  }
  fuse_in_header header() const {
    fuse_in_header header;
    std::memcpy(&header, bytes.data(), sizeof header);
    return header;
  }
  std::string_view body() const { return std::string_view(bytes).substr(sizeof(fuse_in_header), size()); }
  std::size_t size() const { return buffer.size - sizeof(fuse_in_header); }

  std::string bytes;
  fuse_buf buffer{};
};

std::string init_with(std::uint32_t flags) {
  fuse_init_in in{};
  in.flags = flags;
  return bytes_of(in);
}

std::string setxattr(std::uint32_t setxattr_flags) {
  fuse_setxattr_in in{};
  in.size = 5;
  in.flags = 1;
  in.setxattr_flags = setxattr_flags;
  return bytes_of(in) + "user.a\0value";
}

TEST(NewerCalls, ALongSetxattrBecomesAShortOne) {
  NewerCalls calls;
  Call init(FUSE_INIT, init_with(FUSE_SETXATTR_EXT));
  { const NewerCalls::Scope scope(calls, init.buffer); }
  fuse_init_out answer{};
  calls.complete(answer);
  EXPECT_NE(answer.flags & FUSE_SETXATTR_EXT, 0U);

  Call call(FUSE_SETXATTR, setxattr(FUSE_SETXATTR_ACL_KILL_SGID));
  const auto before = call.size();
  {
    const NewerCalls::Scope scope(calls, call.buffer);
    EXPECT_TRUE(NewerCalls::current().clear_sgid);
  }
  EXPECT_FALSE(NewerCalls::current().clear_sgid) << "that was of the other call";
  EXPECT_EQ(call.size(), before - 8);
  EXPECT_EQ(call.header().len, call.buffer.size);
  EXPECT_EQ(call.body().substr(FUSE_COMPAT_SETXATTR_IN_SIZE), setxattr(0).substr(sizeof(fuse_setxattr_in)));
}

TEST(NewerCalls, WhatTheKernelDoesNotOfferIsNotAskedFor) {
  NewerCalls calls;
  Call init(FUSE_INIT, init_with(0));
  { const NewerCalls::Scope scope(calls, init.buffer); }
  fuse_init_out answer{};
  calls.complete(answer);
  EXPECT_EQ(answer.flags & FUSE_SETXATTR_EXT, 0U);
  Call call(FUSE_SETXATTR, setxattr(0));
  const auto before = call.bytes;
  { const NewerCalls::Scope scope(calls, call.buffer); }
  EXPECT_EQ(call.bytes, before);
}

TEST(NewerCalls, AStatxIsAGetattrThatAsksForTheBirth) {
  NewerCalls calls;
  constexpr std::uint32_t kStatx = 52;
  Call call(kStatx, std::string(24, '\0'));
  const NewerCalls::Scope scope(calls, call.buffer);
  EXPECT_EQ(call.header().opcode, static_cast<std::uint32_t>(FUSE_GETATTR));
  EXPECT_TRUE(NewerCalls::current().asks_birth);
}

TEST(NewerCalls, ACallThatIsCutOffIsLeftAlone) {
  NewerCalls calls;
  Call init(FUSE_INIT, init_with(FUSE_SETXATTR_EXT));
  { const NewerCalls::Scope scope(calls, init.buffer); }
  Call call(FUSE_SETXATTR, "too short");
  const auto before = call.bytes;
  { const NewerCalls::Scope scope(calls, call.buffer); }
  EXPECT_EQ(call.bytes, before);
}

}  // namespace
}  // namespace reelfs::fuse
