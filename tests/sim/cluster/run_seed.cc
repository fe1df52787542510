#include "tests/sim/cluster/run_seed.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <string_view>

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/base/assert.h"

namespace reelfs::sim {
namespace {

constexpr unsigned kSeedLimit = 600;  // seconds of the machine's time
constexpr int kFound = 3;             // exit status: something did not hold

struct Told {
  Cluster::Figures figures;
  std::uint64_t digest;
  std::uint64_t events;
};

[[noreturn]] void be_the_seed(std::uint64_t seed, Bug bug, bool traced, int figures_to, int words_to) {
  alarm(kSeedLimit);
  plant(bug);
  auto pattern = (std::filesystem::exists("/dev/shm") ? std::string("/dev/shm") : std::string("/tmp")) +
                 "/reelfs_sim_XXXXXX";
  REELFS_ASSERT(mkdtemp(pattern.data()) != nullptr);
  auto* const world = new World(seed, traced);
  auto* const cluster = new Cluster(*world, seed, pattern);
  cluster->run();
  cluster->clean_up();
  std::filesystem::remove_all(pattern);
  std::string words;
  for (const auto& violation : world->violations())
    words += "seed " + std::to_string(seed) + ": " + violation + "\n";
  if (traced) {
    for (const auto& note : world->notes()) words += note + "\n";
  }
  for (std::string_view left = words; !left.empty();) {
    const auto written = write(words_to, left.data(), left.size());
    if (written <= 0) break;
    left.remove_prefix(static_cast<std::size_t>(written));
  }
  const Told told{cluster->figures(), world->digest(), world->events()};
  (void)!write(figures_to, &told, sizeof told);
  _exit(world->violations().empty() ? 0 : kFound);
}

std::string read_all(int from) {
  std::string all;
  char part[65536];
  for (;;) {
    const auto got = read(from, part, sizeof part);
    if (got <= 0) return all;
    all.append(part, static_cast<std::size_t>(got));
  }
}

}  // namespace

Outcome run_seed(std::uint64_t seed, Bug bug, bool traced) {
  int figures[2], words[2];
  REELFS_ASSERT(pipe2(figures, O_CLOEXEC) == 0 && pipe2(words, O_CLOEXEC) == 0);
  std::fflush(nullptr);
  const auto child = fork();
  REELFS_ASSERT(child >= 0);
  if (child == 0) be_the_seed(seed, bug, traced, figures[1], words[1]);
  close(figures[1]);
  close(words[1]);
  Outcome outcome;
  outcome.told = read_all(words[0]);
  const auto told = read_all(figures[0]);
  close(figures[0]);
  close(words[0]);
  int status = 0;
  REELFS_ASSERT(waitpid(child, &status, 0) == child);
  outcome.failed = status != 0;
  if (told.size() == sizeof(Told)) {
    Told said{};
    std::memcpy(&said, told.data(), sizeof said);
    outcome.figures = said.figures;
    outcome.digest = said.digest;
    outcome.events = said.events;
  }
  if (outcome.failed && outcome.told.empty())
    outcome.told =
        "seed " + std::to_string(seed) + ": the process ended with status " + std::to_string(status) + "\n";
  return outcome;
}

}  // namespace reelfs::sim
