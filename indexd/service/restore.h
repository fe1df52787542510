#pragma once

#include <filesystem>

#include "common/base/result.h"

namespace boost::asio {
class io_context;
}

namespace reelfs::indexd {

/// Where Rebuilder leaves what it collected, below data_dir. docs/design/rebuild.md, "Rebuilding"
struct RebuildFiles {
  explicit RebuildFiles(const std::filesystem::path& data_dir)
      : directory(data_dir / "rebuild"),
        pieces(directory / "pieces"),
        collected(directory / "collected"),
        report(data_dir / "rebuilt") {}
  std::filesystem::path directory;
  std::filesystem::path pieces;     // of the node log, one behind the other
  std::filesystem::path collected;  // wire::Collected: it is there once all is
  std::filesystem::path report;     // wire::RebuildReport: of the last rebuild
};

/// Writes a file anew as a whole, on stable storage with its name when it returns. @errors io, no_space
Result<void> replace_file(const std::filesystem::path& path, const std::string& bytes);
/// Empty where there is no such file. @errors io
Result<std::string> read_file(const std::filesystem::path& path);

/// Where Rebuilder has collected all that is needed: puts the index that results in the place of what is in
/// data_dir. Crash at any point: begun anew the next time. Else it does nothing. Before the store is opened.
/// @param context  has nothing to do; runs until the work is done
/// @errors corrupt, io, no_space, busy
Result<void> restore_collected(boost::asio::io_context& context, const std::filesystem::path& data_dir);

}  // namespace reelfs::indexd
