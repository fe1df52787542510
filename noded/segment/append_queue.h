#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <vector>

namespace reelfs::noded {

/// The order of appends to one block: several are written at once, each is answered when it and all before it
/// are written. A plain state machine: no time, no files. Appends are known by tickets that the caller
/// chooses.
///
///     arrive()  -> present | waiting | overlap
///     start()   -> the next that may be written now, until empty
///     finish()  -> what is decided by that, in order
class AppendQueue {
 public:
  using Ticket = std::uint64_t;

  /// @param end     every byte before it is written
  /// @param window  writes under way at once, at least 1
  AppendQueue(std::uint64_t end, std::size_t window) : window_(window), end_(end), started_end_(end) {}

  enum class Arrival {
    present,  // its bytes are there already: a repetition
    waiting,  // to be decided later
    overlap,  // it covers part of another
  };
  /// A repetition of one that is under way is decided with that.
  Arrival arrive(Ticket ticket, std::uint64_t offset, std::uint64_t bytes);

  struct Write {
    Ticket ticket = 0;
    std::uint64_t offset = 0;
    std::uint64_t bytes = 0;
    bool follows = false;  // others are under way before it
  };
  /// What is to be written next, counted as under way from now on.
  std::optional<Write> start();

  enum class Outcome {
    written,
    failed,  // its own write failed, or one before it
    gap,     // nothing is under way that would fill the space before it
  };
  struct Decision {
    Ticket ticket = 0;
    Outcome outcome = Outcome::written;
    std::uint64_t end = 0;  // of this append
  };
  /// The write that began at `offset` has ended.
  std::vector<Decision> finish(std::uint64_t offset, bool written);
  /// Refuses what waits for bytes that nobody is writing. To be called when start() has nothing more.
  std::vector<Decision> refuse_gaps();

  std::uint64_t end() const { return end_; }
  std::size_t under_way() const { return under_way_; }
  bool idle() const { return entries_.empty(); }

 private:
  enum class State { waiting, under_way, written, failed };
  struct Entry {
    std::uint64_t bytes = 0;
    State state = State::waiting;
    std::vector<Ticket> tickets;
  };
  using Entries = std::map<std::uint64_t, Entry>;  // by offset
  void decide(Entries::iterator entry, Outcome outcome, std::vector<Decision>& decisions);

  const std::size_t window_;
  std::uint64_t end_;
  std::uint64_t started_end_;  // where the last one started ends
  std::size_t under_way_ = 0;
  bool broken_ = false;  // a write failed: nothing starts before all under way have ended
  Entries entries_;
};

}  // namespace reelfs::noded
