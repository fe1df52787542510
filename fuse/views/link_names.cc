#include "fuse/views/link_names.h"

#include <charconv>

namespace reelfs::fuse {
namespace {

constexpr std::size_t kMaxName = 255;
constexpr std::size_t kMaxExtension = 16;
constexpr std::string_view kNumberMark = "%~";

std::string escape(std::string_view path) {
  std::string name;
  for (const char letter : path) {
    if (letter == '/') {
      name += "%2F";
    } else if (letter == '%') {
      name += "%25";
    } else {
      name += letter;
    }
  }
  return name;
}

/// Including the dot; empty where what follows it is too long to say what the file is, or was escaped.
std::string_view extension_of(std::string_view name) {
  const auto dot = name.rfind('.');
  if (dot == name.npos) return {};
  const auto extension = name.substr(dot);
  const bool is_short = extension.size() <= kMaxExtension && extension.find('%') == extension.npos;
  return is_short ? extension : std::string_view();
}

/// At most `room` bytes, no letter or escape cut in two.
std::string_view beginning_of(std::string_view name, std::size_t room) {
  const auto continues = [&name](std::size_t at) {
    return (static_cast<unsigned char>(name[at]) & 0xC0U) == 0x80;
  };
  while (room > 0 && continues(room)) --room;
  for (const std::size_t behind : {1, 2}) {
    if (room >= behind && name[room - behind] == '%') room -= behind;
  }
  return name.substr(0, room);
}

}  // namespace

std::string link_name(std::string_view path, InodeId recording) {
  auto name = escape(path);
  if (name.size() <= kMaxName) return name;
  const auto end =
      std::string(kNumberMark) + std::to_string(recording.value) + std::string(extension_of(name));
  return std::string(beginning_of(name, kMaxName - end.size())) + end;
}

std::optional<LinkTarget> parse_link_name(std::string_view name) {
  LinkTarget target;
  if (const auto mark = name.find(kNumberMark); mark != name.npos) {
    const auto number = name.substr(mark + kNumberMark.size());
    const auto parsed = std::from_chars(number.data(), number.data() + number.size(), target.recording.value);
    if (parsed.ec != std::errc() || !target.recording) return std::nullopt;
    return target;
  }
  for (std::size_t at = 0; at < name.size(); ++at) {
    if (name[at] != '%') {
      target.path += name[at];
      continue;
    }
    const auto code = name.substr(at, 3);
    if (code != "%2F" && code != "%25") return std::nullopt;
    target.path += code == "%2F" ? '/' : '%';
    at += 2;
  }
  return target;
}

}  // namespace reelfs::fuse
