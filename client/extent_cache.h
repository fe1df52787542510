#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <vector>

#include "common/base/ids.h"

namespace reelfs::client {

/// Where a piece of a file lies: common/wire/common.proto, Extent.
struct Extent {
  std::uint64_t file_offset = 0;
  std::uint64_t length = 0;
  SegmentId segment;
  std::uint32_t record_offset = 0;
  std::uint32_t payload_offset = 0;
  InodeId origin{};                 // that the record names, where it is not the file at this place
  std::uint64_t origin_offset = 0;  // with origin: the file offset that the record names

  std::uint64_t end() const { return file_offset + length; }
  friend bool operator==(const Extent&, const Extent&) = default;
};

/// What is known of one version of a file's extents. Bounded: it may forget at every insert. Ranges become
/// known as they are asked for; within a known range what no extent covers is a hole.
class ExtentCache {
 public:
  /// A newer version makes everything known unknown; an older one is ignored.
  void note_version(std::uint64_t version);
  std::uint64_t version() const { return version_; }
  /// Forgets all: the file has changed in a way whose version is not known yet.
  void clear();

  /// [begin, end) is known to hold these extents of version(), which may reach beyond it.
  void insert(std::uint64_t begin, std::uint64_t end, const std::vector<Extent>& extents);

  /// The first offset of [begin, end) of which nothing is known.
  std::optional<std::uint64_t> first_unknown(std::uint64_t begin, std::uint64_t end) const;
  /// The extents that overlap [begin, end), whole, ascending. @pre the range is known
  std::vector<Extent> extents(std::uint64_t begin, std::uint64_t end) const;
  /// The first of them.
  std::optional<Extent> next(std::uint64_t begin, std::uint64_t end) const;

 private:
  std::uint64_t version_ = 0;
  std::map<std::uint64_t, Extent> extents_;       // by file offset; they do not overlap
  std::map<std::uint64_t, std::uint64_t> known_;  // begin -> end; neither overlap nor touch
};

/// The part of `extent` within [begin, end). @pre they overlap
Extent cut(Extent extent, std::uint64_t begin, std::uint64_t end);

}  // namespace reelfs::client
