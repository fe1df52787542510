#include "indexd/journal/file.h"

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <optional>
#include <string>
#include <system_error>

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/base/assert.h"
#include "common/base/ids.h"
#include "common/observe/log.h"

namespace reelfs::indexd {
namespace {

constexpr std::string_view kPrefix = "journal-";
constexpr std::string_view kSuffix = ".log";

Result<void> write_whole(int fd, std::string_view bytes, const std::filesystem::path& path) {
  while (!bytes.empty()) {
    const auto count = ::write(fd, bytes.data(), bytes.size());
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return from_errno(errno, fmt::format("writing {}", path.string()));
    bytes.remove_prefix(static_cast<std::size_t>(count));
  }
  return ok();
}

Result<std::string> read_whole(int fd, const std::filesystem::path& path) {
  struct stat status {};
  if (::fstat(fd, &status) != 0) return from_errno(errno, fmt::format("reading {}", path.string()));
  std::string bytes(static_cast<std::size_t>(status.st_size), '\0');
  std::size_t done = 0;
  while (done < bytes.size()) {
    const auto count = ::pread(fd, bytes.data() + done, bytes.size() - done, static_cast<off_t>(done));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return from_errno(errno, fmt::format("reading {}", path.string()));
    if (count == 0) break;
    done += static_cast<std::size_t>(count);
  }
  bytes.resize(done);
  return bytes;
}

/// What sound entries somewhere in the bytes tell.
struct Evidence {
  std::uint64_t newest = 0;  // highest index among them
  std::uint64_t synced = 0;  // highest index that one of them calls synced
};

void gather_evidence(std::string_view bytes, std::uint32_t salt, Evidence& evidence) {
  static constexpr auto kMagic = EntryHeader{}.magic;
  const std::string_view magic(kMagic.data(), kMagic.size());
  for (auto at = bytes.find(magic); at != bytes.npos; at = bytes.find(magic, at + 1)) {
    const auto entry = decode_entry(bytes.substr(at), salt);
    if (!entry) continue;
    evidence.newest = std::max(evidence.newest, entry.value().header.index);
    evidence.synced = std::max(evidence.synced, entry.value().header.synced_index);
  }
}

}  // namespace

struct JournalFile::Open {
  int fd;
  std::filesystem::path path;
  Open(int descriptor, std::filesystem::path where) : fd(descriptor), path(std::move(where)) {}
  ~Open() { ::close(fd); }
  Open(const Open&) = delete;
  Open& operator=(const Open&) = delete;
};

/// Goes through the files in order, keeping where the sound part ends.
struct JournalFile::Recovery {
  JournalCore::End end;
  std::uint64_t next_index = 0;  // of the entry that has to follow; 0: any
  std::optional<std::uint32_t> previous_crc32c;

  /// The bytes of the file that are sound.
  std::size_t check(std::string_view bytes, std::uint64_t first_index,
                    const std::function<void(const Entry&)>& visit) {
    const auto decoded = decode_journal_file_header(bytes);
    if (!decoded) return 0;
    const auto& header = decoded.value();
    const bool follows = next_index == 0 || (header.first_index == next_index && header.salt == end.salt &&
                                             header.previous_crc32c == *previous_crc32c);
    if (header.first_index != first_index || !follows) return 0;
    end.salt = header.salt;
    previous_crc32c = header.previous_crc32c;
    next_index = first_index;
    std::size_t at = sizeof header;
    while (at < bytes.size()) {
      const auto entry = decode_entry(bytes.substr(at), end.salt);
      if (!entry) break;
      const auto& found = entry.value().header;
      if (found.index != next_index || found.previous_crc32c != *previous_crc32c ||
          found.epoch < end.position.epoch.value) {
        break;
      }
      visit(entry.value());
      at += entry.value().bytes();
      end.position = {.epoch = Epoch{found.epoch}, .index = found.index};
      end.crc32c = found.crc32c;
      previous_crc32c = found.crc32c;
      ++next_index;
    }
    return at;
  }
};

JournalFile::JournalFile(std::filesystem::path directory) : directory_(std::move(directory)) {}

JournalFile::~JournalFile() = default;

std::filesystem::path JournalFile::path_of(std::uint64_t first_index) const {
  return directory_ / fmt::format("{}{:020}{}", kPrefix, first_index, kSuffix);
}

Result<std::vector<std::uint64_t>> JournalFile::list() const {
  std::vector<std::uint64_t> found;
  std::error_code failure;
  std::filesystem::directory_iterator entries(directory_, failure);
  for (; !failure && entries != std::filesystem::directory_iterator(); entries.increment(failure)) {
    const auto name = entries->path().filename().string();
    std::uint64_t first_index = 0;
    if (name.size() != kPrefix.size() + 20 + kSuffix.size() || !name.starts_with(kPrefix)) continue;
    const auto* digits = name.data() + kPrefix.size();
    const auto parsed = std::from_chars(digits, digits + 20, first_index);
    if (parsed.ec != std::errc{} || std::string_view(parsed.ptr) != kSuffix) continue;
    found.push_back(first_index);
  }
  if (failure) return from_errno(failure.value(), fmt::format("listing {}", directory_.string()));
  std::sort(found.begin(), found.end());
  return found;
}

Result<void> JournalFile::sync_directory() const {
  const int fd = ::open(directory_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return from_errno(errno, fmt::format("opening {}", directory_.string()));
  const Open directory(fd, directory_);
  if (::fsync(fd) != 0) return from_errno(errno, fmt::format("syncing {}", directory_.string()));
  return ok();
}

Result<JournalCore::End> JournalFile::recover(const JournalPosition& applied,
                                              const std::function<Result<void>(const Entry&)>& replay,
                                              LostJournal lost) {
  auto& log = logger("indexd.journal");
  std::error_code failure;
  std::filesystem::create_directories(directory_, failure);
  if (failure) return from_errno(failure.value(), fmt::format("creating {}", directory_.string()));
  REELFS_TRY(auto first_indexes, list());

  Recovery recovery;
  std::uint64_t newest_seen = 0;  // sound or not
  // RocksDB makes nothing permanent that the journal has not: a journal that ends before it is not the one
  // that was written, and nobody knows what else was answered and stood in it.
  const auto reaches = [&](std::uint64_t newest) -> Result<void> {
    if (newest >= applied.index || lost == LostJournal::go_on_without) return ok();
    return Error(
        Errc::corrupt,
        fmt::format("{}: the journal ends at entry {} and RocksDB has entry {}: journal files are missing or "
                    "emptied, and with them what was answered later. Bring them back; if they are gone for "
                    "good, start indexd once with --without-journal, which loses what came after entry {}",
                    directory_.string(), newest, applied.index, applied.index));
  };
  Result<void> replayed = ok();
  const auto visit = [&](const Entry& entry) {
    if (replayed && entry.header.index > applied.index) replayed = replay(entry);
  };
  for (std::size_t i = 0; i < first_indexes.size(); ++i) {
    // Files whose every entry is applied need not be read.
    if (i + 1 < first_indexes.size() && first_indexes[i + 1] <= applied.index + 1) {
      std::filesystem::remove(path_of(first_indexes[i]), failure);
      continue;
    }
    const auto path = path_of(first_indexes[i]);
    if (recovery.next_index == 0 && first_indexes[i] > applied.index + 1) {
      return Error(Errc::corrupt, fmt::format("{}: entries {} to {} are missing before it", path.string(),
                                              applied.index + 1, first_indexes[i] - 1));
    }
    const int fd = ::open(path.c_str(), O_RDWR | O_APPEND | O_CLOEXEC);
    if (fd < 0) return from_errno(errno, fmt::format("opening {}", path.string()));
    auto file = std::make_shared<Open>(fd, path);
    REELFS_TRY(const auto bytes, read_whole(fd, path));
    // On stable storage before it is replayed: RocksDB must never be ahead of the journal.
    if (::fdatasync(fd) != 0) return from_errno(errno, fmt::format("syncing {}", path.string()));
    const auto sound = recovery.check(bytes, first_indexes[i], visit);
    REELFS_TRY(replayed);
    if (sound > 0) {
      newest_ = file;
      files_[first_indexes[i]] = sound;
      recovery.end.file_bytes = sound;
    }
    if (sound == bytes.size() && sound > 0) continue;

    // Here the sound part ends. What was written last before a loss of power may be torn, and goes; what had
    // been synced before may not, unless RocksDB has all of it.
    const auto bad_index = recovery.next_index != 0 ? recovery.next_index : first_indexes[i];
    Evidence evidence;
    gather_evidence(std::string_view(bytes).substr(sound), recovery.end.salt, evidence);
    for (std::size_t later = i + 1; later < first_indexes.size(); ++later) {
      const auto later_path = path_of(first_indexes[later]);
      const int later_fd = ::open(later_path.c_str(), O_RDONLY | O_CLOEXEC);
      if (later_fd < 0) return from_errno(errno, fmt::format("opening {}", later_path.string()));
      const Open later_file(later_fd, later_path);
      REELFS_TRY(const auto later_bytes, read_whole(later_fd, later_path));
      gather_evidence(later_bytes, recovery.end.salt, evidence);
    }
    newest_seen = evidence.newest;
    const bool is_needed = bad_index > applied.index || evidence.newest > applied.index;
    // Without its header the oldest file's entries cannot be told from noise; zeros are what a lost write
    // leaves.
    const bool is_unreadable = recovery.end.salt == 0 && bytes.find_first_not_of('\0') != bytes.npos &&
                               bytes.size() > sizeof(JournalFileHeader);
    if (is_needed && (evidence.synced >= bad_index || is_unreadable)) {
      return Error(Errc::corrupt,
                   fmt::format("{}: entry {} at offset {} is damaged though it had been synced; "
                               "restore the file from a copy",
                               path.string(), bad_index, sound));
    }
    REELFS_TRY(reaches(std::max(newest_seen, recovery.end.position.index)));
    log.warn("journal torn file={} offset={} cut_bytes={} first_lost_index={}", path.string(), sound,
             bytes.size() - sound, bad_index);
    if (sound > 0 && (::ftruncate(fd, static_cast<off_t>(sound)) != 0 || ::fsync(fd) != 0)) {
      return from_errno(errno, fmt::format("cutting {}", path.string()));
    }
    for (auto gone = sound > 0 ? i + 1 : i; gone < first_indexes.size(); ++gone) {
      std::filesystem::remove(path_of(first_indexes[gone]), failure);
      if (failure)
        return from_errno(failure.value(), fmt::format("removing {}", path_of(first_indexes[gone]).string()));
    }
    break;
  }
  REELFS_TRY(sync_directory());

  auto end = recovery.end;
  REELFS_TRY(reaches(std::max(newest_seen, end.position.index)));
  if (end.salt == 0) end.salt = static_cast<std::uint32_t>(std::hash<Uuid>{}(Uuid::random())) | 1U;
  if (end.position.index < applied.index) {
    // What RocksDB has is the state after a whole number of entries, so go on after it in a new file.
    log.warn("journal ends at {} before the state at {}", end.position.index, applied.index);
    end.position = applied;
    end.crc32c = 0;
    end.file_bytes = 0;
  }
  return end;
}

Result<std::shared_ptr<JournalFile::Open>> JournalFile::begin_file(std::uint64_t first_index) {
  const auto path = path_of(first_index);
  const int fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_APPEND | O_CLOEXEC, 0640);
  if (fd < 0) return from_errno(errno, fmt::format("creating {}", path.string()));
  auto file = std::make_shared<Open>(fd, path);
  // Its name has to survive before anything in it counts as synced.
  REELFS_TRY(sync_directory());
  return file;
}

Result<void> JournalFile::write(std::span<const JournalCore::Write> writes) {
  for (const auto& write : writes) {
    std::shared_ptr<Open> file;
    if (write.new_file) {
      REELFS_TRY(auto begun, begin_file(*write.new_file));
      file = std::move(begun);
    }
    {
      const std::scoped_lock lock(mutex_);
      if (file) {
        newest_ = file;
        files_[*write.new_file] = 0;
      }
      file = newest_;
    }
    REELFS_ASSERT(file != nullptr);
    REELFS_TRY(write_whole(file->fd, write.bytes, file->path));
    const std::scoped_lock lock(mutex_);
    files_.rbegin()->second += write.bytes.size();
    // After the bytes: a sync that began meanwhile may not have covered them.
    if (unsynced_.empty() || unsynced_.back() != file) unsynced_.push_back(file);
  }
  return ok();
}

Result<void> JournalFile::sync() {
  std::vector<std::shared_ptr<Open>> files;
  {
    const std::scoped_lock lock(mutex_);
    files = std::exchange(unsynced_, {});
  }
  for (const auto& file : files) {
    if (::fdatasync(file->fd) != 0) return from_errno(errno, fmt::format("syncing {}", file->path.string()));
  }
  return ok();
}

Result<void> JournalFile::remove_upto(std::uint64_t index) {
  std::vector<std::uint64_t> gone;
  {
    const std::scoped_lock lock(mutex_);
    while (files_.size() > 1 && std::next(files_.begin())->first <= index + 1) {
      gone.push_back(files_.begin()->first);
      files_.erase(files_.begin());
    }
  }
  for (const auto first_index : gone) {
    std::error_code failure;
    std::filesystem::remove(path_of(first_index), failure);
    if (failure)
      return from_errno(failure.value(), fmt::format("removing {}", path_of(first_index).string()));
  }
  return ok();
}

std::uint64_t JournalFile::older_bytes() const {
  const std::scoped_lock lock(mutex_);
  std::uint64_t total = 0;
  for (const auto& [first_index, bytes] : files_) total += bytes;
  return files_.empty() ? 0 : total - files_.rbegin()->second;
}

}  // namespace reelfs::indexd
