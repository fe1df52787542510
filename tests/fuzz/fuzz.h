#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <vector>

/// What the file of a fuzz target defines; libFuzzer's entry points are in fuzz.cc.
namespace reelfs::fuzz {

/// Decodes these bytes, and aborts where the decoder broke a promise.
void run(std::span<const std::byte> input);

/// Inputs to begin with: at least one that the decoder accepts.
std::vector<std::string> seeds();

}  // namespace reelfs::fuzz
