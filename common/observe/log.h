#pragma once

#include <memory>
#include <string>

#include <spdlog/spdlog.h>

#include "common/base/result.h"

namespace reelfs {

/// LogConfig::file for the system's log (syslog, journald).
inline constexpr const char* kSystemLog = "syslog";

struct LogConfig {
  std::string level = "info";  // trace, debug, info, warning, error
  std::string file;            // empty: standard error; kSystemLog
};

/// Sets up logging for the process; once, in main. @errors bad_config
Result<void> init_logging(const LogConfig& config, const std::string& program);

/// The logger of a module ("indexd.journal"). Cheap; keep the reference. Thread-safe.
///     logger("noded.segment").warn("copy lagging node={} behind_bytes={}", node, bytes);
spdlog::logger& logger(const char* module);

}  // namespace reelfs
