#include "common/base/ids.h"

#include <cstring>

#include <sys/random.h>

#include "common/base/assert.h"

namespace reelfs {

Uuid Uuid::random() {
  Uuid id;
  const auto got = getrandom(id.bytes.data(), id.bytes.size(), 0);
  REELFS_ASSERT(got == static_cast<ssize_t>(id.bytes.size()));
  id.bytes[6] = (id.bytes[6] & 0x0f) | 0x40;  // RFC 4122, version 4
  id.bytes[8] = (id.bytes[8] & 0x3f) | 0x80;
  return id;
}

Result<Uuid> Uuid::from_bytes(std::string_view raw) {
  Uuid id;
  if (raw.size() != id.bytes.size()) return Error(Errc::invalid, "a UUID has 16 bytes");
  std::memcpy(id.bytes.data(), raw.data(), raw.size());
  return id;
}

Result<Uuid> Uuid::parse(std::string_view text) {
  const auto digit = [](char c) -> int {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return -1;
  };
  Uuid id;
  std::size_t nibble = 0;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const bool hyphen_due = i == 8 || i == 13 || i == 18 || i == 23;
    if (hyphen_due != (text[i] == '-')) return Error(Errc::invalid, "not a UUID: " + std::string(text));
    if (hyphen_due) continue;
    const int value = digit(text[i]);
    if (value < 0 || nibble >= 32) return Error(Errc::invalid, "not a UUID: " + std::string(text));
    id.bytes[nibble / 2] |= static_cast<std::uint8_t>(value << (nibble % 2 ? 0 : 4));
    ++nibble;
  }
  if (nibble != 32) return Error(Errc::invalid, "not a UUID: " + std::string(text));
  return id;
}

std::string Uuid::to_string() const {
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string text;
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    if (i == 4 || i == 6 || i == 8 || i == 10) text += '-';
    text += kDigits[bytes[i] >> 4];
    text += kDigits[bytes[i] & 15];
  }
  return text;
}

}  // namespace reelfs
