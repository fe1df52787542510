#include "fuse/views/content.h"

#include <algorithm>
#include <optional>
#include <string_view>
#include <utility>

#include <sys/stat.h>

#include "common/base/view_names.h"
#include "fuse/ops/convert.h"
#include "fuse/ops/mount.h"
#include "fuse/ops/recall.h"
#include "fuse/views/calendar.h"
#include "fuse/views/generated_files.h"
#include "fuse/views/link_names.h"

namespace reelfs::fuse {
namespace {

using Kind = ViewNode::Kind;

constexpr mode_t kReadable = 0444;
constexpr mode_t kReadableDirectory = 0555;
constexpr std::string_view kToChannel = "../../../";  // from .by-time/DATE/HOUR
constexpr std::size_t kMaxTarget = 4095;

/// @errors stale_handle: it is gone, or no channel
Task<client::Attributes> find_channel(Mount& mount, InodeId inode) {
  REELFS_CO_TRY(auto attributes, co_await find_attributes(mount, inode));
  if (attributes.channel != inode || attributes.nlink == 0) co_return Error(Errc::stale_handle);
  co_return attributes;
}

/// Readable for whom the channel is, and belonging to the same.
struct stat describe_in_channel(const client::Attributes& channel, mode_t type, mode_t allowed) {
  auto result = to_stat(channel);
  result.st_mode = type | (channel.mode & allowed);
  result.st_nlink = 1;  // of directories: tools are not to count on it
  result.st_size = 0;
  result.st_blocks = 0;
  return result;
}

/// @pre the node has a number
fuse_entry_param to_entry(const ViewNode& node, struct stat attributes) {
  fuse_entry_param entry{};
  entry.ino = to_number(node).value_or(0);
  entry.generation = 1;
  entry.attr = attributes;
  entry.attr.st_ino = entry.ino;
  entry.attr_timeout = kViewSeconds;
  entry.entry_timeout = kViewSeconds;
  return entry;
}

fuse_entry_param directory_entry(const client::Attributes& channel, const ViewNode& node) {
  return to_entry(node, describe_in_channel(channel, S_IFDIR, kReadableDirectory));
}

/// @param bytes  of its content; none: not known, and so asked for
fuse_entry_param file_entry(const client::Attributes& channel, const ViewNode& node,
                            std::optional<std::size_t> bytes) {
  auto entry = to_entry(node, describe_in_channel(channel, S_IFREG, kReadable));
  entry.attr.st_size = static_cast<off_t>(bytes.value_or(0));
  if (!bytes) entry.attr_timeout = 0;
  return entry;
}

ViewNode link_node(const client::Recording& recording) {
  ViewNode node;
  node.kind = Kind::link;
  node.inode = recording.attributes.inode;
  return node;
}

fuse_entry_param link_entry(const client::Recording& recording) {
  auto link = recording.attributes;
  link.mode = S_IFLNK | 0777;
  link.nlink = 1;
  link.size = kToChannel.size() + recording.path.size();
  link.stored_bytes = 0;
  link.atime_ns = link.mtime_ns = link.ctime_ns = recording.last_ns;
  return to_entry(link_node(recording), to_stat(link));
}

ViewNode date_node(InodeId channel, Day day) {
  ViewNode node;
  node.kind = Kind::date;
  node.inode = channel;
  node.day = day;
  return node;
}

ViewNode hour_node(InodeId channel, Day day, int hour) {
  auto node = date_node(channel, day);
  node.kind = Kind::hour;
  node.hour = hour;
  return node;
}

ViewNode generated_node(InodeId channel, const GeneratedFile& file) {
  ViewNode node;
  node.kind = Kind::generated;
  node.inode = channel;
  node.generated = file.id;
  return node;
}

const GeneratedFile* find_generated(unsigned id) {
  const auto files = generated_files();
  const auto found =
      std::find_if(files.begin(), files.end(), [id](const GeneratedFile& file) { return file.id == id; });
  return found == files.end() ? nullptr : &*found;
}

/// A day or an hour, where there are recordings of it.
Task<fuse_entry_param> find_time(Mount& mount, ViewNode wanted, std::optional<client::TimeRange> time) {
  if (!time) co_return Error(Errc::not_found);
  REELFS_CO_TRY(const auto channel, co_await find_channel(mount, wanted.inode));
  REELFS_CO_TRY(const auto is_there, co_await mount.files.has_recordings(wanted.inode, *time));
  if (!is_there) co_return Error(Errc::not_found);
  co_return directory_entry(channel, wanted);
}

Task<fuse_entry_param> find_link(Mount& mount, ViewNode hour, std::string name) {
  const auto time = time_of(hour.day, hour.hour);
  const auto said = parse_link_name(name);
  if (!time || !said) co_return Error(Errc::not_found);
  client::RecordingsWanted wanted;
  wanted.channel = hour.inode;
  wanted.path = said->path;
  wanted.inode = said->recording;
  wanted.bytes_in = time;
  const auto answered = co_await mount.files.find_recordings(std::move(wanted));
  if (!answered && answered.error().code() == Errc::stale_handle) co_return Error(Errc::not_found);
  REELFS_CO_TRY(const auto found, answered);
  const bool is_called_so = !found.empty() && found.front().attributes.channel == hour.inode &&
                            link_name(found.front().path, found.front().attributes.inode) == name;
  if (!is_called_so) co_return Error(Errc::not_found);
  co_return link_entry(found.front());
}

Task<fuse_entry_param> find_file(Mount& mount, ViewNode reel, std::string name) {
  for (const auto& file : generated_files()) {
    if (file.name != name) continue;
    REELFS_CO_TRY(const auto channel, co_await find_channel(mount, reel.inode));
    co_return file_entry(channel, generated_node(reel.inode, file), std::nullopt);
  }
  co_return Error(Errc::not_found);
}

Task<ViewEntries> list_dates(Mount& mount, ViewNode by_time) {
  REELFS_CO_TRY(const auto channel, co_await find_channel(mount, by_time.inode));
  REELFS_CO_TRY(const auto times, co_await mount.files.find_times(by_time.inode, std::nullopt));
  ViewEntries entries;
  for (const auto day : days_of(times)) {
    if (day > kLastDay) break;
    const auto cookie = static_cast<std::uint64_t>(day.time_since_epoch().count()) + 1;
    entries.push_back({to_text(day), cookie, directory_entry(channel, date_node(by_time.inode, day))});
  }
  co_return entries;
}

Task<ViewEntries> list_hours(Mount& mount, ViewNode date) {
  REELFS_CO_TRY(const auto channel, co_await find_channel(mount, date.inode));
  ViewEntries entries;
  const auto time = time_of(date.day);
  if (!time) co_return entries;
  REELFS_CO_TRY(const auto times, co_await mount.files.find_times(date.inode, time));
  for (const auto hour : hours_of(times, date.day)) {
    const auto cookie = static_cast<std::uint64_t>(hour) + 1;
    const auto node = hour_node(date.inode, date.day, hour);
    entries.push_back({hour_text(hour), cookie, directory_entry(channel, node)});
  }
  co_return entries;
}

Task<ViewEntries> list_links(Mount& mount, ViewNode hour) {
  ViewEntries entries;
  client::RecordingsWanted wanted;
  wanted.channel = hour.inode;
  wanted.bytes_in = time_of(hour.day, hour.hour);
  if (!wanted.bytes_in) co_return entries;
  REELFS_CO_TRY(const auto found, co_await mount.files.find_recordings(std::move(wanted)));
  for (const auto& recording : found) {
    const auto inode = recording.attributes.inode;
    if (recording.path.empty()) continue;  // lost its name meanwhile
    entries.push_back({link_name(recording.path, inode), inode.value, link_entry(recording)});
  }
  // One that is being written may have been answered twice, as it moves on in the order of newest bytes.
  const auto by_cookie = [](const ViewEntry& a, const ViewEntry& b) { return a.cookie < b.cookie; };
  const auto same = [](const ViewEntry& a, const ViewEntry& b) { return a.cookie == b.cookie; };
  std::sort(entries.begin(), entries.end(), by_cookie);
  entries.erase(std::unique(entries.begin(), entries.end(), same), entries.end());
  co_return entries;
}

Task<ViewEntries> list_files(Mount& mount, ViewNode reel) {
  REELFS_CO_TRY(const auto channel, co_await find_channel(mount, reel.inode));
  ViewEntries entries;
  for (const auto& file : generated_files()) {
    const auto node = generated_node(reel.inode, file);
    entries.push_back({std::string(file.name), file.id, file_entry(channel, node, std::nullopt)});
  }
  std::sort(entries.begin(), entries.end(),
            [](const ViewEntry& a, const ViewEntry& b) { return a.cookie < b.cookie; });
  co_return entries;
}

}  // namespace

bool is_directory(const ViewNode& node) { return node.kind != Kind::link && node.kind != Kind::generated; }

bool is_top(const ViewNode& directory) {
  return directory.kind == Kind::by_time || directory.kind == Kind::reel;
}

ViewNode parent_of(const ViewNode& directory) {
  auto parent = directory;
  parent.kind = directory.kind == Kind::hour ? Kind::date : Kind::by_time;
  parent.hour = 0;
  if (directory.kind == Kind::date) parent.day = Day{};
  return parent;
}

Task<fuse_entry_param> find_view(Mount& mount, InodeId inode, std::string name) {
  ViewNode node;
  node.inode = inode;
  node.kind = name == kByTimeName ? Kind::by_time : Kind::reel;
  const bool is_empty = node.kind == Kind::reel && generated_files().empty();
  if (is_empty || !to_number(node)) co_return Error(Errc::not_found);
  REELFS_CO_TRY(const auto attributes, co_await find_attributes(mount, inode));
  if (attributes.channel != inode) co_return Error(Errc::not_found);
  co_return directory_entry(attributes, node);
}

Task<fuse_entry_param> find_in_view(Mount& mount, ViewNode directory, std::string name) {
  switch (directory.kind) {
    case Kind::by_time: {
      const auto day = parse_day(name);
      if (!day) co_return Error(Errc::not_found);
      co_return co_await find_time(mount, date_node(directory.inode, *day), time_of(*day));
    }
    case Kind::date: {
      const auto hour = parse_hour(name);
      if (!hour) co_return Error(Errc::not_found);
      const auto wanted = hour_node(directory.inode, directory.day, *hour);
      co_return co_await find_time(mount, wanted, time_of(directory.day, *hour));
    }
    case Kind::hour:
      co_return co_await find_link(mount, directory, std::move(name));
    case Kind::reel:
      co_return co_await find_file(mount, directory, std::move(name));
    case Kind::link:
    case Kind::generated:
      break;
  }
  co_return Error(Errc::not_directory);
}

Task<fuse_entry_param> describe(Mount& mount, ViewNode node) {
  if (node.kind == Kind::link) {
    REELFS_CO_TRY(const auto recording, co_await mount.files.get_recording(node.inode));
    co_return link_entry(recording);
  }
  REELFS_CO_TRY(const auto channel, co_await find_channel(mount, node.inode));
  if (node.kind != Kind::generated) co_return directory_entry(channel, node);
  REELFS_CO_TRY(const auto content, co_await generate(mount, node));
  co_return file_entry(channel, node, content->size());
}

Task<ViewEntries> list_view(Mount& mount, ViewNode directory) {
  switch (directory.kind) {
    case Kind::by_time:
      co_return co_await list_dates(mount, directory);
    case Kind::date:
      co_return co_await list_hours(mount, directory);
    case Kind::hour:
      co_return co_await list_links(mount, directory);
    case Kind::reel:
      co_return co_await list_files(mount, directory);
    case Kind::link:
    case Kind::generated:
      break;
  }
  co_return Error(Errc::not_directory);
}

Task<std::string> target_of(Mount& mount, ViewNode link) {
  if (link.kind != Kind::link) co_return Error(Errc::invalid, "not a symbolic link");
  REELFS_CO_TRY(const auto recording, co_await mount.files.get_recording(link.inode));
  auto target = std::string(kToChannel) + recording.path;
  if (target.size() > kMaxTarget) co_return Error(Errc::name_too_long);
  co_return target;
}

Task<std::shared_ptr<const std::string>> generate(Mount& mount, ViewNode file) {
  const auto* const found = file.kind == Kind::generated ? find_generated(file.generated) : nullptr;
  if (found == nullptr) co_return Error(Errc::stale_handle);
  REELFS_CO_TRY(auto content, co_await found->make(mount, file.inode));
  co_return std::make_shared<const std::string>(std::move(content));
}

}  // namespace reelfs::fuse
