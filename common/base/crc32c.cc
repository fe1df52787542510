#include "common/base/crc32c.h"

#include <array>
#include <cstring>

#include <nmmintrin.h>

namespace reelfs {
namespace {

// The instruction has a latency of three cycles and a throughput of one, so three independent streams keep it
// busy; their sums are then joined with tables that advance a CRC over kStream zero bytes (the method of Mark
// Adler's crc32c.c: multiplication by a power of x modulo the polynomial, as a linear map over GF(2)).
constexpr std::size_t kStream = 4096;
constexpr std::uint32_t kPolynomial = 0x82f63b78;

using Matrix = std::array<std::uint32_t, 32>;

constexpr std::uint32_t times(const Matrix& matrix, std::uint32_t vector) {
  std::uint32_t sum = 0;
  for (std::size_t i = 0; vector != 0; vector >>= 1, ++i) {
    if (vector & 1) sum ^= matrix[i];
  }
  return sum;
}

constexpr Matrix squared(const Matrix& matrix) {
  Matrix square{};
  for (std::size_t i = 0; i < 32; ++i) square[i] = times(matrix, matrix[i]);
  return square;
}

struct ShiftTable {
  std::array<std::array<std::uint32_t, 256>, 4> byte{};
};

// bytes must be a power of two.
constexpr ShiftTable make_shift_table(std::size_t bytes) {
  Matrix one_bit{};
  one_bit[0] = kPolynomial;
  for (std::size_t i = 1; i < 32; ++i) one_bit[i] = 1u << (i - 1);
  Matrix power = one_bit;
  for (std::size_t bits = 1; bits < bytes * 8; bits *= 2) power = squared(power);
  ShiftTable table;
  for (std::uint32_t n = 0; n < 256; ++n) {
    for (std::size_t b = 0; b < 4; ++b) table.byte[b][n] = times(power, n << (8 * b));
  }
  return table;
}

constexpr ShiftTable kShift = make_shift_table(kStream);

std::uint32_t shift(std::uint32_t crc) {
  return kShift.byte[0][crc & 255] ^ kShift.byte[1][(crc >> 8) & 255] ^ kShift.byte[2][(crc >> 16) & 255] ^
         kShift.byte[3][crc >> 24];
}

std::uint64_t load(const std::byte* p) {
  std::uint64_t word;
  std::memcpy(&word, p, sizeof word);
  return word;
}

}  // namespace

std::uint32_t crc32c(std::span<const std::byte> bytes, std::uint32_t previous) noexcept {
  const auto* p = bytes.data();
  std::size_t left = bytes.size();
  std::uint64_t crc = ~previous;
  while (left >= 3 * kStream) {
    std::uint64_t second = 0;
    std::uint64_t third = 0;
    for (std::size_t i = 0; i < kStream; i += 8) {
      crc = _mm_crc32_u64(crc, load(p + i));
      second = _mm_crc32_u64(second, load(p + kStream + i));
      third = _mm_crc32_u64(third, load(p + 2 * kStream + i));
    }
    crc = shift(static_cast<std::uint32_t>(crc)) ^ second;
    crc = shift(static_cast<std::uint32_t>(crc)) ^ third;
    p += 3 * kStream;
    left -= 3 * kStream;
  }
  for (; left >= 8; p += 8, left -= 8) crc = _mm_crc32_u64(crc, load(p));
  auto tail = static_cast<std::uint32_t>(crc);
  for (; left > 0; ++p, --left) tail = _mm_crc32_u8(tail, static_cast<std::uint8_t>(*p));
  return ~tail;
}

}  // namespace reelfs
