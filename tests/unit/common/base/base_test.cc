#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "common/base/buffer.h"
#include "common/base/crc32c.h"
#include "common/base/error.h"
#include "common/base/ids.h"
#include "common/base/units.h"

namespace reelfs {
namespace {

std::vector<std::byte> random_bytes(std::size_t count, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<std::byte> bytes(count);
  for (auto& byte : bytes) byte = static_cast<std::byte>(random());
  return bytes;
}

// One bit at a time, straight from the polynomial.
std::uint32_t reference_crc32c(std::span<const std::byte> bytes) {
  std::uint32_t crc = ~0u;
  for (const auto byte : bytes) {
    crc ^= static_cast<std::uint8_t>(byte);
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ (crc & 1 ? 0x82f63b78u : 0u);
  }
  return ~crc;
}

TEST(Crc32c, MatchesTheVectorsOfRfc3720) {
  std::array<std::byte, 32> bytes{};
  EXPECT_EQ(crc32c(bytes), 0x8a9136aau);
  bytes.fill(std::byte{0xff});
  EXPECT_EQ(crc32c(bytes), 0x62a8ab43u);
  for (int i = 0; i < 32; ++i) bytes[i] = static_cast<std::byte>(i);
  EXPECT_EQ(crc32c(bytes), 0x46dd794eu);
  for (int i = 0; i < 32; ++i) bytes[i] = static_cast<std::byte>(31 - i);
  EXPECT_EQ(crc32c(bytes), 0x113fdb5cu);
  const std::string digits = "123456789";
  EXPECT_EQ(crc32c(std::as_bytes(std::span(digits))), 0xe3069283u);
  EXPECT_EQ(crc32c({}), 0u);
}

TEST(Crc32c, MatchesTheReferenceAtAllLengthsAndAlignments) {
  const auto bytes = random_bytes(40'000, 1);
  const std::span all(bytes);
  for (std::size_t offset = 0; offset < 9; ++offset) {
    for (std::size_t length = 0; length < 100; ++length) {
      ASSERT_EQ(crc32c(all.subspan(offset, length)), reference_crc32c(all.subspan(offset, length)));
    }
    for (const std::size_t length : {4095, 4096, 12287, 12288, 12289, 16384, 24576, 30000, 39990}) {
      ASSERT_EQ(crc32c(all.subspan(offset, length)), reference_crc32c(all.subspan(offset, length))) << length;
    }
  }
}

TEST(Crc32c, GoesOnFromACrcBefore) {
  const auto bytes = random_bytes(30'000, 2);
  const std::span all(bytes);
  for (const std::size_t cut : {0, 1, 7, 8, 4096, 12288, 29'999, 30'000}) {
    EXPECT_EQ(crc32c(all.subspan(cut), crc32c(all.first(cut))), crc32c(all)) << cut;
  }
}

TEST(Uuid, RoundTripsThroughText) {
  const std::string text = "6ba7b810-9dad-11d1-80b4-00c04fd430c8";
  const auto id = Uuid::parse(text);
  ASSERT_TRUE(id);
  EXPECT_EQ(id.value().to_string(), text);
  EXPECT_EQ(id.value().bytes[0], 0x6b);
  EXPECT_EQ(id.value().bytes[15], 0xc8);
  EXPECT_EQ(Uuid::parse("6BA7B810-9DAD-11D1-80B4-00C04FD430C8").value(), id.value());
  EXPECT_EQ(Uuid::from_bytes(id.value().raw()).value(), id.value());
}

TEST(Uuid, RefusesWhatIsNone) {
  for (const auto* text :
       {"", "6ba7b810", "6ba7b8109dad11d180b400c04fd430c8", "6ba7b810-9dad-11d1-80b4-00c04fd430c",
        "6ba7b810-9dad-11d1-80b4-00c04fd430c88", "6ba7b810-9dad-11d1-80b4-00c04fd430cg",
        "6ba7b81-09dad-11d1-80b4-00c04fd430c8", "{ba7b810-9dad-11d1-80b4-00c04fd430c8}"}) {
    const auto parsed = Uuid::parse(text);
    ASSERT_FALSE(parsed) << text;
    EXPECT_EQ(parsed.error().code(), Errc::invalid);
  }
  EXPECT_FALSE(Uuid::from_bytes("short"));
}

TEST(Uuid, RandomOnesDifferAndSayTheirVersion) {
  std::set<Uuid> seen;
  for (int i = 0; i < 1000; ++i) {
    const auto id = Uuid::random();
    EXPECT_EQ(id.bytes[6] >> 4, 4);
    EXPECT_EQ(id.bytes[8] >> 6, 2);
    seen.insert(id);
  }
  EXPECT_EQ(seen.size(), 1000u);
  EXPECT_TRUE(Uuid{}.is_nil());
}

TEST(Error, EveryCodeHasItsName) {
  std::set<std::string_view> names;
  for (std::uint16_t code = 1; code <= 32; ++code) names.insert(to_string(static_cast<Errc>(code)));
  EXPECT_EQ(names.size(), 32u);
  EXPECT_FALSE(names.contains("unknown"));
  EXPECT_EQ(to_string(static_cast<Errc>(0)), "unknown");
  EXPECT_EQ(to_string(static_cast<Errc>(60000)), "unknown");
}

TEST(Error, SaysWhereAndWhat) {
  auto error = from_errno(ENOENT, "open /x");
  EXPECT_EQ(error.code(), Errc::not_found);
  EXPECT_EQ(std::move(error).within("starting").describe(),
            "not_found: starting: open /x: No such file or directory");
  EXPECT_EQ(from_errno(EIO, "read").code(), Errc::io);
  EXPECT_EQ(from_errno(ENOSPC, "write").code(), Errc::no_space);
}

TEST(Buffer, IsPageAlignedAndMoves) {
  Buffer buffer(5000);
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(buffer.data()) % kPageBytes, 0u);
  EXPECT_EQ(buffer.size(), 5000u);
  EXPECT_EQ(buffer.capacity(), 8192u);
  buffer.resize(8192);
  auto* data = buffer.data();
  const Buffer moved = std::move(buffer);
  EXPECT_EQ(moved.data(), data);
  EXPECT_TRUE(Buffer().empty());
  const std::string text = "bytes";
  EXPECT_EQ(Buffer::copy_of(std::as_bytes(std::span(text))).view(), text);
}

TEST(Buffer, NoTwoShareMemory) {
  std::mt19937_64 random(1);
  std::vector<std::pair<Buffer, int>> held;
  const auto keeps = [](const std::pair<Buffer, int>& one) {
    const auto is_mark = [mark = static_cast<std::byte>(one.second)](std::byte b) { return b == mark; };
    return std::all_of(one.first.span().begin(), one.first.span().end(), is_mark);
  };
  for (int step = 0; step < 600; ++step) {  // about twice as many bytes as are kept
    if (held.size() < 120 || random() % 2 == 0) {
      held.emplace_back(Buffer(random() % (2 * kMiB)), step % 256);
      std::memset(held.back().first.data(), held.back().second, held.back().first.size());
    } else {
      std::swap(held[random() % held.size()], held.back());
      ASSERT_TRUE(keeps(held.back())) << step;
      held.pop_back();
    }
  }
  EXPECT_TRUE(std::all_of(held.begin(), held.end(), keeps));
}

#ifndef __SANITIZE_ADDRESS__  // which has freed memory left alone
TEST(Buffer, MemoryOfFreedOnesServesTheNextInOnePiece) {
  std::vector<Buffer> units;
  for (int i = 0; i < 3; ++i) units.emplace_back(kMiB + kPageBytes);
  const auto* first = units[0].data();
  for (const std::size_t freed : {1, 0, 2}) units[freed] = Buffer();
  const Buffer all(3 * (kMiB + kPageBytes));
  EXPECT_EQ(all.data(), first);
}
#endif

}  // namespace
}  // namespace reelfs
