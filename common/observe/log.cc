#include "common/observe/log.h"

#include <map>
#include <mutex>

#include <spdlog/sinks/basic_file_sink.h>
#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/sinks/syslog_sink.h>

namespace reelfs {
namespace {

constexpr auto kPattern = "%Y-%m-%dT%H:%M:%S.%f%z %^%l%$ %n %v";
constexpr auto kSystemLogPattern = "%l %n %v";  // syslog adds the time

class Loggers {
 public:
  Loggers() : sink_(std::make_shared<spdlog::sinks::stderr_color_sink_mt>()) { sink_->set_pattern(kPattern); }

  spdlog::logger& find(const std::string& module) {
    const std::lock_guard lock(mutex_);
    auto& found = loggers_[module];
    if (!found) found = make(module);
    return *found;
  }

  void configure(spdlog::level::level_enum level, spdlog::sink_ptr sink, const char* pattern) {
    const std::lock_guard lock(mutex_);
    level_ = level;
    if (sink) sink_ = std::move(sink);
    sink_->set_pattern(pattern);
    for (auto& [module, logger] : loggers_) {
      logger->sinks() = {sink_};
      logger->set_level(level_);
    }
  }

 private:
  std::shared_ptr<spdlog::logger> make(const std::string& module) const {
    auto logger = std::make_shared<spdlog::logger>(module, sink_);
    logger->set_level(level_);
    logger->flush_on(spdlog::level::trace);
    return logger;
  }

  std::mutex mutex_;
  std::map<std::string, std::shared_ptr<spdlog::logger>> loggers_;  // guarded by mutex_
  spdlog::sink_ptr sink_;                                           // guarded by mutex_
  spdlog::level::level_enum level_ = spdlog::level::info;           // guarded by mutex_
};

// Lives until the process ends: a thread may log while others' static objects are being destroyed.
Loggers& loggers() {
  static auto* const instance = new Loggers;
  return *instance;
}

}  // namespace

Result<void> init_logging(const LogConfig& config, const std::string& program) {
  const auto level = spdlog::level::from_str(config.level);
  if (level == spdlog::level::off && config.level != "off") {
    return Error(Errc::bad_config,
                 "log level \"" + config.level + "\" is none of trace, debug, info, warning, error");
  }
  spdlog::sink_ptr sink;
  const bool system_log = config.file == kSystemLog;
  if (system_log) {
    constexpr bool kEnableFormatting = true;
    sink = std::make_shared<spdlog::sinks::syslog_sink_mt>(program, LOG_PID, LOG_DAEMON, kEnableFormatting);
  } else if (!config.file.empty()) {
    try {
      sink = std::make_shared<spdlog::sinks::basic_file_sink_mt>(config.file);
    } catch (const spdlog::spdlog_ex& error) {
      return Error(Errc::bad_config, "log file: " + std::string(error.what()));
    }
  }
  loggers().configure(level, std::move(sink), system_log ? kSystemLogPattern : kPattern);
  logger(program.c_str()).debug("logging level={}", config.level);
  return ok();
}

spdlog::logger& logger(const char* module) { return loggers().find(module); }

}  // namespace reelfs
