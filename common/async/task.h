#pragma once

#include <boost/asio/awaitable.hpp>

#include "common/base/result.h"

namespace reelfs {

namespace asio = boost::asio;

/// What can fail and takes time. Runs on the executor of whoever awaits it.
template <class T>
using Task = asio::awaitable<Result<T>>;

}  // namespace reelfs
