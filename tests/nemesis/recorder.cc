// Records what a seed says and tells, call by call, how long it took; checks later what is there.
//
//   nemesis_recorder append DIRECTORY NAME --log FILE --seed N --stream N [--rate B] [--piece B] [--sync-ms
//   N] [--file-bytes B] nemesis_recorder check < LINES          each line: STREAM SEED FILE ACKNOWLEDGED
//   WRITTEN PATH
//
// README.md has the log's layout; report.py reads it.
#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <iostream>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

namespace {

volatile std::sig_atomic_t stopping = 0;

std::uint64_t now_ns() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<std::uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<std::uint64_t>(now.tv_nsec);
}

/// The time may pass early where a signal comes.
void sleep_until(std::uint64_t when_ns) {
  const timespec when{static_cast<time_t>(when_ns / 1'000'000'000),
                      static_cast<long>(when_ns % 1'000'000'000)};
  clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &when, nullptr);
}

/// Every byte of a file follows from the seed, the stream, the file's number and the byte's offset, so that
/// one that is missing, of another place or of another file is noticed. splitmix64 by Vigna, public domain.
class Pattern {
 public:
  Pattern(std::uint64_t seed, std::uint64_t stream, std::uint64_t file)
      : key_(mix(mix(seed ^ 0x9e3779b97f4a7c15) + mix(stream + 1) * 3 + file)) {}

  void fill(std::uint64_t offset, std::span<unsigned char> into) const {
    for (std::size_t at = 0; at < into.size();) {
      const auto word = mix(key_ + (offset + at) / 8);
      const auto from = (offset + at) % 8;
      const auto bytes = std::min<std::size_t>(8 - from, into.size() - at);
      std::memcpy(into.data() + at, reinterpret_cast<const unsigned char*>(&word) + from, bytes);
      at += bytes;
    }
  }

 private:
  static std::uint64_t mix(std::uint64_t word) {
    word += 0x9e3779b97f4a7c15;
    word = (word ^ (word >> 30)) * 0xbf58476d1ce4e5b9;
    word = (word ^ (word >> 27)) * 0x94d049bb133111eb;
    return word ^ (word >> 31);
  }

  std::uint64_t key_;
};

enum class Kind : std::uint8_t { open, write, fsync, close, remove };

/// One call, as it lies in the log, in the machine's own byte order: it is read where it was written.
struct Call {
  Kind kind;
  std::uint8_t reserved = 0;
  std::uint16_t error;  // errno; 0: it succeeded
  std::uint32_t file;
  std::uint64_t start_ns;  // CLOCK_MONOTONIC
  std::uint64_t duration_ns;
  std::uint64_t offset;  // of a write; of others the file's size as far as written
  std::uint64_t bytes;   // of a write
};
static_assert(sizeof(Call) == 40);

struct AppendOptions {
  std::filesystem::path directory;
  std::string name;
  std::string log;
  std::uint64_t seed = 0;
  std::uint64_t stream = 0;
  std::uint64_t rate = 0;  // bytes per second; 0: as fast as it goes
  std::uint64_t piece = 64 << 10;
  std::uint64_t sync_ms = 1000;
  std::uint64_t file_bytes = 32 << 20;
  std::uint32_t keep_files = 0;  // then the oldest is removed; 0: none is
};

/// A camera's recorder: one file after the other, written in pieces, with an fsync now and then. Upon an
/// error it tries again what was not acknowledged, as nothing is known of it.
class Recorder {
 public:
  explicit Recorder(const AppendOptions& options)
      : options_(options), buffer_(options.piece), log_(std::fopen(options.log.c_str(), "ab")) {}
  ~Recorder() {
    if (log_ != nullptr) std::fclose(log_);
  }
  Recorder(const Recorder&) = delete;
  Recorder& operator=(const Recorder&) = delete;

  int run() {
    if (log_ == nullptr) return 1;
    due_ns_ = now_ns();
    for (std::uint32_t file = 0; !stopping; ++file) record(file);
    return 0;
  }

 private:
  static constexpr std::uint64_t kRetryNs = 20'000'000;
  static constexpr std::uint64_t kLateNs = 2'000'000'000;  // a camera's buffer: what is later was dropped

  template <class F>
  bool timed(Kind kind, std::uint64_t offset, std::uint64_t bytes, F&& call) {
    const auto start = now_ns();
    const int error = call();
    const auto end = now_ns();
    const Call one{kind, 0, static_cast<std::uint16_t>(error), file_, start, end - start, offset, bytes};
    std::fwrite(&one, sizeof one, 1, log_);
    if (kind != Kind::write || error != 0) std::fflush(log_);
    if (error != 0) sleep_until(now_ns() + kRetryNs);
    return error == 0;
  }

  bool open_file(const std::filesystem::path& path) {
    return timed(Kind::open, 0, 0, [&] {
      fd_ = ::open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
      return fd_ < 0 ? errno : 0;
    });
  }

  std::filesystem::path path_of(std::uint32_t file) const {
    return options_.directory / fmt::format("{}.{:05}", options_.name, file);
  }

  void record(std::uint32_t file) {
    file_ = file;
    written_ = acknowledged_ = 0;
    while (!open_file(path_of(file))) {
      if (stopping) return;
    }
    const Pattern pattern(options_.seed, options_.stream, file);
    sync_due_ns_ = now_ns() + options_.sync_ms * 1'000'000;
    while (!stopping && written_ < options_.file_bytes) {
      pace();
      append(pattern);
      if (now_ns() >= sync_due_ns_) sync();
    }
    // The last bytes are to be acknowledged as well, so that the check covers them.
    for (int attempt = 0; acknowledged_ < written_ && attempt < kLastAttempts; ++attempt) {
      if (!sync()) rewrite(pattern);
    }
    timed(Kind::close, written_, 0, [&] { return ::close(fd_) == 0 ? 0 : errno; });
    if (options_.keep_files != 0 && file >= options_.keep_files) remove(file - options_.keep_files);
  }

  void remove(std::uint32_t file) {
    const auto path = path_of(file);
    file_ = file;
    timed(Kind::remove, 0, 0, [&] { return ::unlink(path.c_str()) == 0 ? 0 : errno; });
  }

  void pace() {
    if (options_.rate == 0) return;
    due_ns_ += options_.piece * 1'000'000'000 / options_.rate;
    const auto now = now_ns();
    if (now > due_ns_ + kLateNs) due_ns_ = now;
    while (!stopping && now_ns() < due_ns_) sleep_until(due_ns_);
  }

  void append(const Pattern& pattern) {
    pattern.fill(written_, buffer_);
    ssize_t done = 0;
    const bool took = timed(Kind::write, written_, buffer_.size(), [&] {
      done = ::pwrite(fd_, buffer_.data(), buffer_.size(), static_cast<off_t>(written_));
      return done < 0 ? errno : 0;
    });
    if (took) written_ += static_cast<std::uint64_t>(done);
  }

  /// An error may have been about any byte since the last success: they are all written again.
  bool sync() {
    const bool safe = timed(Kind::fsync, written_, 0, [&] { return ::fsync(fd_) == 0 ? 0 : errno; });
    if (safe) {
      acknowledged_ = written_;
    } else if (!stopping) {
      written_ = acknowledged_;
    }
    sync_due_ns_ = now_ns() + options_.sync_ms * 1'000'000;
    return safe;
  }

  void rewrite(const Pattern& pattern) {
    const auto end = written_;
    written_ = acknowledged_;
    while (written_ < end) {
      const auto before = written_;
      append(pattern);
      if (written_ == before && stopping) break;
    }
  }

  static constexpr int kLastAttempts = 10;

  const AppendOptions& options_;
  std::vector<unsigned char> buffer_;
  std::FILE* log_;
  int fd_ = -1;
  std::uint32_t file_ = 0;
  std::uint64_t written_ = 0;
  std::uint64_t acknowledged_ = 0;
  std::uint64_t due_ns_ = 0;
  std::uint64_t sync_due_ns_ = 0;
};

struct Found {
  std::uint64_t wrong = 0;             // acknowledged bytes that read as something else
  std::uint64_t missing = 0;           // acknowledged bytes behind the end of the file
  std::uint64_t unreadable = 0;        // acknowledged bytes whose reading failed
  std::uint64_t excess = 0;            // bytes that were never written, or not as they are
  std::optional<std::uint64_t> first;  // offset of the first that is not right
  int error = 0;                       // errno of the first reading that failed
};

/// Reads a whole file and compares it with what was written to it.
Found check_file(const std::string& path, const Pattern& pattern, std::uint64_t acknowledged,
                 std::uint64_t written) {
  constexpr std::size_t kPiece = 1 << 20;
  Found found;
  const auto bad = [&found](std::uint64_t offset) {
    if (!found.first) found.first = offset;
  };
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  struct stat status {};
  if (fd < 0 || ::fstat(fd, &status) != 0) {
    found.error = errno;
    (errno == ENOENT ? found.missing : found.unreadable) = acknowledged;
    bad(0);
    if (fd >= 0) ::close(fd);
    return found;
  }
  const auto size = static_cast<std::uint64_t>(status.st_size);
  if (size < acknowledged) {
    found.missing = acknowledged - size;
    bad(size);
  }
  if (size > written) {
    found.excess = size - written;
    bad(written);
  }
  std::vector<unsigned char> is(kPiece);
  std::vector<unsigned char> wanted(kPiece);
  for (std::uint64_t offset = 0; offset < std::min(size, written); offset += kPiece) {
    const auto bytes = std::min<std::uint64_t>(kPiece, std::min(size, written) - offset);
    const auto safe = acknowledged > offset ? std::min(bytes, acknowledged - offset) : 0;
    const auto got = ::pread(fd, is.data(), bytes, static_cast<off_t>(offset));
    if (got < 0 || static_cast<std::uint64_t>(got) < bytes) {
      if (got < 0 && found.error == 0) found.error = errno;
      found.unreadable += safe;
      if (safe > 0) bad(offset);
      continue;
    }
    pattern.fill(offset, std::span(wanted).first(bytes));
    if (std::memcmp(is.data(), wanted.data(), bytes) == 0) continue;
    for (std::size_t at = 0; at < bytes; ++at) {
      if (is[at] == wanted[at]) continue;
      // What was written and not acknowledged may be there or not; where it is not, the file has a hole.
      if (at >= safe && is[at] == 0) continue;
      bad(offset + at);
      ++(at < safe ? found.wrong : found.excess);
    }
  }
  ::close(fd);
  return found;
}

int check() {
  std::uint64_t stream = 0;
  std::uint64_t seed = 0;
  std::uint64_t file = 0;
  std::uint64_t acknowledged = 0;
  std::uint64_t written = 0;
  std::string path;
  while (std::cin >> stream >> seed >> file >> acknowledged >> written &&
         std::getline(std::cin >> std::ws, path)) {
    const auto found = check_file(path, Pattern(seed, stream, file), acknowledged, written);
    fmt::print("{} {} {} {} {} {} {} {}\n", stream, file, found.wrong, found.missing, found.unreadable,
               found.excess, found.first ? static_cast<std::int64_t>(*found.first) : -1, found.error);
    std::fflush(stdout);
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Records what a seed says, or checks what was recorded", "nemesis_recorder");
  app.require_subcommand(1);
  AppendOptions options;
  auto* append = app.add_subcommand("append", "Record until SIGTERM");
  append->add_option("directory", options.directory, "Where to record")->required();
  append->add_option("name", options.name, "Files are called NAME.00000 and so on")->required();
  append->add_option("--log", options.log, "One entry a call")->required();
  append->add_option("--seed", options.seed, "What the bytes follow from")->required();
  append->add_option("--stream", options.stream, "Its number")->required();
  append->add_option("--rate", options.rate, "Bytes per second; 0: as fast as it goes");
  append->add_option("--piece", options.piece, "Bytes of each write")->check(CLI::PositiveNumber);
  append->add_option("--sync-ms", options.sync_ms, "Milliseconds between two fsyncs");
  append->add_option("--file-bytes", options.file_bytes, "Then the next file is begun");
  append->add_option("--keep-files", options.keep_files, "Remove the oldest of more files; 0: keep all");
  auto* compare =
      app.add_subcommand("check", "Compare the files named on standard input with what was recorded");
  CLI11_PARSE(app, argc, argv);
  if (*compare) return check();
  struct sigaction stop {};
  stop.sa_handler = [](int) { stopping = 1; };
  sigaction(SIGTERM, &stop, nullptr);  // without SA_RESTART: a sleep ends
  return Recorder(options).run();
}
