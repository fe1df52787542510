#include "indexd/schema/change.h"

#include <cstdint>
#include <cstring>

namespace reelfs::indexd {
namespace {

constexpr char kPut = 1;
constexpr char kErase = 2;

void append_sized(std::string& out, std::string_view bytes) {
  const auto size = static_cast<std::uint32_t>(bytes.size());
  out.append(reinterpret_cast<const char*>(&size), sizeof size);
  out.append(bytes);
}

std::optional<std::string_view> cut_sized(std::string_view& left) {
  std::uint32_t size = 0;
  if (left.size() < sizeof size) return {};
  std::memcpy(&size, left.data(), sizeof size);
  left.remove_prefix(sizeof size);
  if (left.size() < size) return {};
  const auto bytes = left.substr(0, size);
  left.remove_prefix(size);
  return bytes;
}

}  // namespace

void append_change(std::string& changes, std::string_view key, std::optional<std::string_view> value) {
  if (changes.empty()) changes.push_back(kChangesVersion);
  changes.push_back(value ? kPut : kErase);
  append_sized(changes, key);
  if (value) append_sized(changes, *value);
}

Result<void> for_each_change(
    std::string_view changes,
    const std::function<void(std::string_view, std::optional<std::string_view>)>& visit) {
  if (!changes.starts_with(kChangesVersion)) return Error(Errc::corrupt, "changes of an unknown version");
  auto left = changes.substr(1);
  while (!left.empty()) {
    const auto operation = left.front();
    if (operation != kPut && operation != kErase) return Error(Errc::corrupt, "unknown kind of change");
    left.remove_prefix(1);
    const auto key = cut_sized(left);
    if (!key) return Error(Errc::corrupt, "change is cut off");
    std::optional<std::string_view> value;
    if (operation == kPut) {
      value = cut_sized(left);
      if (!value) return Error(Errc::corrupt, "change is cut off");
    }
    visit(*key, value);
  }
  return ok();
}

}  // namespace reelfs::indexd
