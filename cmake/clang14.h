// Included before everything else where clang 14 compiles or reads our files (fuzzing,
// tools/lint/coroutines).
#pragma once

#include <algorithm>
#include <compare>
#include <concepts>
#include <vector>

namespace reelfs::rpc {

struct Endpoint;

/// An Endpoint has a vector of Endpoints, and its own comparison is defaulted. clang 14 takes std::vector's
/// for one that cannot be used there, because it asks whether Endpoints can be compared while they are being
/// declared.
template <std::same_as<Endpoint> T>
std::strong_ordering operator<=>(const std::vector<T>& one, const std::vector<T>& other) {
  return std::lexicographical_compare_three_way(one.begin(), one.end(), other.begin(), other.end());
}

}  // namespace reelfs::rpc
