#include "fuse/session/unanswered.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <cstring>

#include <fmt/format.h>
#include <linux/fuse.h>

#include "fuse/session/newer_calls.h"

namespace reelfs::fuse {
namespace {

/// What a healthy store answers is worth waiting for.
constexpr std::chrono::milliseconds kPatience{100};

bool has_answer(std::uint32_t opcode) {
  return opcode != FUSE_FORGET && opcode != FUSE_BATCH_FORGET && opcode != FUSE_INTERRUPT;
}

/// True for what changes nothing, and for the lock that is taken once by whoever asks twice.
bool is_repeatable(std::uint32_t opcode) {
  constexpr std::array kRepeatable{FUSE_LOOKUP, FUSE_GETATTR,  FUSE_READLINK,  FUSE_READ,
                                   FUSE_STATFS, FUSE_GETXATTR, FUSE_LISTXATTR, FUSE_READDIR,
                                   FUSE_GETLK,  FUSE_SETLKW,   FUSE_LSEEK,     FUSE_READDIRPLUS};
  return opcode == NewerCalls::kStatx ||
         std::find(kRepeatable.begin(), kRepeatable.end(), opcode) != kRepeatable.end();
}

std::string join(const iovec* parts, int count) {
  std::string bytes;
  for (const auto& part : std::span(parts, static_cast<std::size_t>(count)))
    bytes.append(static_cast<const char*>(part.iov_base), part.iov_len);
  return bytes;
}

}  // namespace

void Unanswered::add(std::span<const std::byte> request) {
  fuse_in_header header;
  if (request.size() < sizeof header) return;
  std::memcpy(&header, request.data(), sizeof header);
  const std::lock_guard lock(mutex_);
  if (header.opcode == FUSE_INTERRUPT && request.size() >= sizeof header + sizeof(fuse_interrupt_in)) {
    fuse_interrupt_in interrupt;
    std::memcpy(&interrupt, request.data() + sizeof header, sizeof interrupt);
    if (const auto found = waiting_.find(interrupt.unique); found != waiting_.end())
      found->second.interrupted = true;
  }
  if (!has_answer(header.opcode)) return;
  auto& waiting = waiting_[header.unique];
  if (is_repeatable(header.opcode))
    waiting.bytes.assign(reinterpret_cast<const char*>(request.data()), request.size());
}

ssize_t Unanswered::answer(int device, const iovec* parts, int count) {
  fuse_out_header header{};
  if (count > 0 && parts[0].iov_len >= sizeof header) std::memcpy(&header, parts[0].iov_base, sizeof header);
  {
    const std::lock_guard lock(mutex_);
    if (keeping_back_ && waiting_.contains(header.unique)) {
      kept_back_.push_back(join(parts, count));
      return static_cast<ssize_t>(kept_back_.back().size());
    }
  }
  const auto written = ::writev(device, parts, count);
  const int failed = errno;
  {
    const std::lock_guard lock(mutex_);
    waiting_.erase(header.unique);
    answered_.notify_all();
  }
  errno = failed;  // the caller's
  return written;
}

bool Unanswered::may_be_repeated() const {
  return std::all_of(waiting_.begin(), waiting_.end(), [](const auto& entry) {
    return !entry.second.bytes.empty() && !entry.second.interrupted;
  });
}

Result<std::vector<std::string>> Unanswered::keep_back(Deadline deadline) {
  std::unique_lock lock(mutex_);
  const auto patient_until = clock_.now() + kPatience;
  while (!waiting_.empty() && !(clock_.now() >= patient_until && may_be_repeated())) {
    const auto now = clock_.now();
    if (now >= deadline.at) {
      return Error(Errc::timed_out, fmt::format("{} calls under way do not end", waiting_.size()));
    }
    answered_.wait_for(lock,
                       (now < patient_until ? std::min(patient_until, deadline.at) : deadline.at) - now);
  }
  keeping_back_ = true;
  std::vector<std::string> requests;
  for (const auto& [number, request] : waiting_) requests.push_back(request.bytes);
  return requests;
}

void Unanswered::send_kept_back(int device) {
  const std::lock_guard lock(mutex_);
  keeping_back_ = false;
  for (const auto& answer : kept_back_) {
    fuse_out_header header;
    std::memcpy(&header, answer.data(), sizeof header);
    waiting_.erase(header.unique);
    // Fails where the caller has gone, and nobody waits for it.
    [[maybe_unused]] const auto written = ::write(device, answer.data(), answer.size());
  }
  kept_back_.clear();
}

}  // namespace reelfs::fuse
