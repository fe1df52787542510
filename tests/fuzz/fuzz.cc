#include "tests/fuzz/fuzz.h"

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  reelfs::fuzz::run(std::as_bytes(std::span(data, size)));
  return 0;
}

// With --seeds=DIRECTORY the program writes its seeds there and ends.
extern "C" int LLVMFuzzerInitialize(int* argc, char*** argv) {
  constexpr const char kOption[] = "--seeds=";
  for (int i = 1; i < *argc; ++i) {
    const char* argument = (*argv)[i];
    if (std::strncmp(argument, kOption, sizeof kOption - 1) != 0) continue;
    const std::filesystem::path directory(argument + sizeof kOption - 1);
    std::filesystem::create_directories(directory);
    int number = 0;
    for (const auto& seed : reelfs::fuzz::seeds()) {
      std::ofstream file(directory / ("seed" + std::to_string(number++)), std::ios::binary);
      file << seed;
      if (!file.flush()) {
        std::fprintf(stderr, "cannot write to %s\n", directory.c_str());
        std::exit(1);
      }
    }
    std::exit(0);
  }
  return 0;
}
