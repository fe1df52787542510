#include "fuse/views/generated_files.h"

#include <array>

namespace reelfs::fuse {
namespace {

constexpr std::array<GeneratedFile, 0> kFiles{};

}  // namespace

std::span<const GeneratedFile> generated_files() { return kFiles; }

}  // namespace reelfs::fuse
