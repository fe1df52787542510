#include "fuse/views/node.h"

namespace reelfs::fuse {
namespace {

//  63  62-61  60 ..................... 21  20 ............... 0
//   1  time   channel                      day + 1, hour + 1
//   1  reel   channel                      file
//   1  link   recording ...................................
enum class Group : std::uint64_t { time = 0, reel = 1, link = 2 };

constexpr std::uint64_t kView = std::uint64_t{1} << 63;
constexpr int kGroupShift = 61;
constexpr int kChannelShift = 21;
constexpr int kDayShift = 5;
constexpr std::uint64_t kMaxRecording = (std::uint64_t{1} << kGroupShift) - 1;
constexpr std::uint64_t kRestMask = (std::uint64_t{1} << kChannelShift) - 1;
constexpr std::uint64_t kHourMask = (std::uint64_t{1} << kDayShift) - 1;
constexpr int kHours = 24;

constexpr std::uint64_t head(Group group) { return kView | static_cast<std::uint64_t>(group) << kGroupShift; }

std::optional<fuse_ino_t> in_channel(Group group, InodeId channel, std::uint64_t rest) {
  if (channel.value > kMaxChannelWithViews) return std::nullopt;
  return head(group) | channel.value << kChannelShift | rest;
}

std::optional<std::uint64_t> day_bits(Day day) {
  if (day < Day{} || day > kLastDay) return std::nullopt;
  return static_cast<std::uint64_t>(day.time_since_epoch().count() + 1) << kDayShift;
}

std::optional<ViewNode> time_node(InodeId channel, std::uint64_t rest) {
  ViewNode node;
  node.inode = channel;
  const auto day = rest >> kDayShift;
  const auto hour = rest & kHourMask;
  if (hour > kHours || (day == 0 && hour != 0)) return std::nullopt;
  if (day == 0) return node;
  node.day = Day{std::chrono::days{day - 1}};
  node.kind = hour == 0 ? ViewNode::Kind::date : ViewNode::Kind::hour;
  if (hour != 0) node.hour = static_cast<int>(hour) - 1;
  return node;
}

}  // namespace

std::optional<fuse_ino_t> to_number(const ViewNode& node) {
  switch (node.kind) {
    case ViewNode::Kind::by_time:
      return in_channel(Group::time, node.inode, 0);
    case ViewNode::Kind::date:
    case ViewNode::Kind::hour: {
      const auto day = day_bits(node.day);
      if (!day) return std::nullopt;
      const bool is_date = node.kind == ViewNode::Kind::date;
      return in_channel(Group::time, node.inode,
                        *day | (is_date ? 0 : static_cast<std::uint64_t>(node.hour) + 1));
    }
    case ViewNode::Kind::link:
      if (node.inode.value > kMaxRecording) return std::nullopt;
      return head(Group::link) | node.inode.value;
    case ViewNode::Kind::reel:
      return in_channel(Group::reel, node.inode, 0);
    case ViewNode::Kind::generated:
      return in_channel(Group::reel, node.inode, node.generated);
  }
  return std::nullopt;
}

std::optional<ViewNode> view_node(fuse_ino_t number) {
  ViewNode node;
  const auto rest = number & kRestMask;
  node.inode = InodeId((number & kMaxRecording) >> kChannelShift);
  switch (static_cast<Group>((number & ~kView) >> kGroupShift)) {
    case Group::time:
      return time_node(node.inode, rest);
    case Group::reel:
      node.kind = rest == 0 ? ViewNode::Kind::reel : ViewNode::Kind::generated;
      node.generated = static_cast<unsigned>(rest);
      return node;
    case Group::link:
      node.kind = ViewNode::Kind::link;
      node.inode = InodeId(number & kMaxRecording);
      return node;
  }
  return std::nullopt;
}

}  // namespace reelfs::fuse
