#pragma once

#include <cstdint>
#include <string>
#include <utility>

#include <nlohmann/json_fwd.hpp>
#include <sys/types.h>

#include "common/base/clock.h"
#include "common/base/result.h"

namespace reelfs::fuse {

/// An open descriptor.
class Descriptor {
 public:
  explicit Descriptor(int number = -1) : number_(number) {}
  ~Descriptor();
  Descriptor(Descriptor&& other) noexcept : number_(other.release()) {}
  Descriptor& operator=(Descriptor&& other) noexcept {
    std::swap(number_, other.number_);
    return *this;
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;

  int number() const { return number_; }
  bool is_open() const { return number_ >= 0; }
  int release() { return std::exchange(number_, -1); }

 private:
  int number_;
};

/// Messages between two reelfs on one machine: each a length and CBOR, perhaps with a descriptor. Blocks.
class Conversation {
 public:
  /// @param socket  connected; the peer's user must be ours, or root   @errors not_permitted
  static Result<Conversation> with_peer(const Clock& clock, Descriptor socket);

  /// @param descriptor  goes along; -1: none   @errors timed_out, unavailable (the peer has gone)
  Result<void> send(const nlohmann::json& message, Deadline deadline, int descriptor = -1);

  struct Message;
  /// @errors timed_out, unavailable (the peer has gone), protocol
  Result<Message> receive(Deadline deadline);
  /// From now on the peer's send() fails; what it has sent before can still be received.
  void refuse_more();

  pid_t peer() const { return peer_; }

 private:
  Conversation(const Clock& clock, Descriptor socket, pid_t peer)
      : clock_(&clock), socket_(std::move(socket)), peer_(peer) {}
  Result<void> wait_for(short events, Deadline deadline) const;
  Result<void> read_exactly(char* into, std::size_t size, Deadline deadline, Descriptor& descriptor);

  const Clock* clock_;
  Descriptor socket_;
  pid_t peer_;
};

}  // namespace reelfs::fuse
