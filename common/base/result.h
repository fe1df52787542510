#pragma once

#include <boost/outcome/basic_result.hpp>
#include <boost/outcome/coroutine_support.hpp>
#include <boost/outcome/policy/terminate.hpp>
#include <boost/outcome/try.hpp>

#include "common/base/error.h"

namespace reelfs {

namespace outcome = BOOST_OUTCOME_V2_NAMESPACE;

/// A value or an Error. Looking at the wrong one terminates: it is a bug.
template <class T>
using Result = outcome::basic_result<T, Error, outcome::policy::terminate>;

/// Success of a Result<void>.
inline auto ok() { return outcome::success(); }

}  // namespace reelfs

/// REELFS_TRY(auto x, expression): x is the value, or the error is returned. REELFS_TRY(expression) likewise.
#define REELFS_TRY(...) BOOST_OUTCOME_TRY(__VA_ARGS__)
/// The same in a coroutine, with co_return.
#define REELFS_CO_TRY(...) BOOST_OUTCOME_CO_TRY(__VA_ARGS__)
