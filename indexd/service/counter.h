#pragma once

#include <prometheus/counter.h>
#include <prometheus/registry.h>

namespace reelfs::indexd {

/// A counter without labels.
inline prometheus::Counter& counter(prometheus::Registry& registry, const char* name, const char* help) {
  return prometheus::BuildCounter().Name(name).Help(help).Register(registry).Add({});
}

}  // namespace reelfs::indexd
