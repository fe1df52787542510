#include "noded/leader/device_list.h"

#include <algorithm>
#include <cerrno>
#include <fstream>
#include <sstream>
#include <utility>

#include <fcntl.h>
#include <nlohmann/json.hpp>
#include <unistd.h>

#include "common/base/descriptor.h"

namespace reelfs::noded {
namespace {

using nlohmann::json;
using std::filesystem::path;

Result<void> write_whole(const path& file, const std::string& text) {
  const Descriptor fd(open(file.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
  if (fd.get() < 0) return from_errno(errno, "creating " + file.string());
  for (std::size_t done = 0; done < text.size();) {
    const auto put = write(fd.get(), text.data() + done, text.size() - done);
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) return from_errno(errno, "writing " + file.string());
    done += static_cast<std::size_t>(put);
  }
  if (fsync(fd.get()) != 0) return from_errno(errno, "syncing " + file.string());
  return ok();
}

Result<void> sync_directory(const path& directory) {
  const Descriptor fd(open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (fd.get() < 0 || fsync(fd.get()) != 0) return from_errno(errno, "syncing " + directory.string());
  return ok();
}

}  // namespace

Result<DeviceList> DeviceList::load(std::vector<path> configured, path file) {
  DeviceList list;
  list.configured_ = std::move(configured);
  list.file_ = std::move(file);
  std::error_code error;
  if (list.file_.empty() || (!std::filesystem::exists(list.file_, error) && !error)) return list;
  std::ifstream stream(list.file_);
  std::stringstream text;
  if (!stream || !(text << stream.rdbuf())) return from_errno(errno, "reading " + list.file_.string());
  const auto document = json::parse(text.str(), nullptr, false);
  const Error damaged(
      Errc::bad_config,
      list.file_.string() + " is damaged: remove it, then add and remove the node's devices again");
  try {
    if (!document.is_object() || document.value("version", 0) != 1) return damaged;
    for (const auto& added : document.at("added")) list.added_.emplace_back(added.get<std::string>());
    for (const auto& one : document.at("removed")) {
      Removed removed;
      removed.path = one.at("path").get<std::string>();
      removed.device = DeviceId(one.at("device").get<std::uint32_t>());
      removed.since_ns = one.at("since_ns").get<std::int64_t>();
      list.removed_.push_back(std::move(removed));
    }
  } catch (const json::exception&) {
    return damaged;
  }
  return list;
}

std::vector<path> DeviceList::paths() const {
  auto paths = configured_;
  for (const auto& added : added_) {
    if (std::find(paths.begin(), paths.end(), added) == paths.end()) paths.push_back(added);
  }
  std::erase_if(paths, [this](const path& one) {
    return std::any_of(removed_.begin(), removed_.end(), [&](const Removed& r) { return r.path == one; });
  });
  return paths;
}

bool DeviceList::contains(const path& one) const {
  const auto all = paths();
  return std::find(all.begin(), all.end(), one) != all.end();
}

void DeviceList::add(const path& one) {
  std::erase_if(removed_, [&](const Removed& removed) { return removed.path == one; });
  if (!contains(one)) added_.push_back(one);
}

void DeviceList::remove(Removed removed) {
  std::erase(added_, removed.path);
  std::erase_if(removed_, [&](const Removed& other) { return other.path == removed.path; });
  removed_.push_back(std::move(removed));
}

Result<void> DeviceList::save() const {
  if (file_.empty()) return ok();
  auto added = json::array();
  for (const auto& one : added_) added.push_back(one.string());
  auto removed = json::array();
  for (const auto& one : removed_) {
    removed.push_back(
        {{"path", one.path.string()}, {"device", one.device.value}, {"since_ns", one.since_ns}});
  }
  const json document{{"version", 1}, {"added", added}, {"removed", removed}};
  const auto directory = file_.parent_path();
  std::error_code error;
  std::filesystem::create_directories(directory, error);
  if (error) return from_errno(error.value(), "creating " + directory.string());
  auto fresh = file_;
  fresh += ".new";
  REELFS_TRY(write_whole(fresh, document.dump(2, ' ', false, json::error_handler_t::replace) + "\n"));
  if (rename(fresh.c_str(), file_.c_str()) != 0) return from_errno(errno, "renaming " + fresh.string());
  return sync_directory(directory);
}

}  // namespace reelfs::noded
