#include "indexd/nodelog/piece_file.h"

#include <cerrno>
#include <cstring>
#include <utility>

#include <fcntl.h>
#include <unistd.h>

namespace reelfs::indexd {

Result<PieceFile> PieceFile::create(const std::filesystem::path& path) {
  Descriptor file(::open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0640));
  if (file.get() < 0) return from_errno(errno, "creating " + path.string());
  return PieceFile(std::move(file));
}

Result<PieceFile> PieceFile::open(const std::filesystem::path& path, std::uint64_t bytes) {
  Descriptor descriptor(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (descriptor.get() < 0) return from_errno(errno, "opening " + path.string());
  PieceFile file(std::move(descriptor));
  while (file.end_ < bytes) {
    REELFS_TRY(const auto raw, file.read_at(file.end_, sizeof(PieceHeader)));
    PieceHeader header;
    std::memcpy(&header, raw.data(), sizeof header);
    if (header.bytes > kMaxPieceBytes) return Error(Errc::corrupt, path.string() + " is damaged");
    file.headers_.push_back(header);
    file.offsets_.push_back(file.end_);
    file.end_ += sizeof header + header.bytes;
  }
  if (file.end_ != bytes) return Error(Errc::corrupt, path.string() + " has another size than it should");
  return file;
}

Result<void> PieceFile::add(std::string_view encoded) {
  REELFS_TRY(const auto piece, decode_piece(encoded));
  for (std::size_t done = 0; done < encoded.size();) {
    const auto written =
        ::pwrite(file_.get(), encoded.data() + done, encoded.size() - done, static_cast<off_t>(end_ + done));
    if (written < 0 && errno != EINTR) return from_errno(errno, "writing what was collected");
    if (written > 0) done += static_cast<std::size_t>(written);
  }
  headers_.push_back(piece.header);
  offsets_.push_back(end_);
  end_ += encoded.size();
  return ok();
}

Result<void> PieceFile::sync() {
  if (::fdatasync(file_.get()) != 0) return from_errno(errno, "syncing what was collected");
  return ok();
}

Result<std::string> PieceFile::read_at(std::uint64_t offset, std::size_t size) const {
  std::string bytes(size, '\0');
  for (std::size_t done = 0; done < size;) {
    const auto got =
        ::pread(file_.get(), bytes.data() + done, size - done, static_cast<off_t>(offset + done));
    if (got == 0) return Error(Errc::corrupt, "what was collected is cut off");
    if (got < 0 && errno != EINTR) return from_errno(errno, "reading what was collected");
    if (got > 0) done += static_cast<std::size_t>(got);
  }
  return bytes;
}

Result<std::string> PieceFile::read(std::size_t piece) const {
  REELFS_TRY(auto encoded, read_at(offsets_.at(piece), sizeof(PieceHeader) + headers_.at(piece).bytes));
  REELFS_TRY(decode_piece(encoded));
  return encoded.substr(sizeof(PieceHeader));
}

}  // namespace reelfs::indexd
