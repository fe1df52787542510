// The product's log lines become notes of the world, with its time. Linked instead of common/observe/log.cc.
#include "common/observe/log.h"

#include <map>
#include <mutex>
#include <string>

#include <spdlog/sinks/base_sink.h>

#include "tests/sim/cluster/world.h"

namespace reelfs {
namespace {

class NoteSink final : public spdlog::sinks::base_sink<spdlog::details::null_mutex> {
 protected:
  void sink_it_(const spdlog::details::log_msg& message) override {
    sim::world().note("{}: {}", std::string_view(message.logger_name.data(), message.logger_name.size()),
                      std::string_view(message.payload.data(), message.payload.size()));
  }
  void flush_() override {}
};

}  // namespace

Result<void> init_logging(const LogConfig&, const std::string&) { return ok(); }

spdlog::logger& logger(const char* module) {
  static auto* const loggers = new std::map<std::string, std::unique_ptr<spdlog::logger>>;
  auto& found = (*loggers)[module];
  if (!found) {
    found = std::make_unique<spdlog::logger>(module, std::make_shared<NoteSink>());
    found->set_level(sim::world().traced() ? spdlog::level::debug : spdlog::level::off);
  }
  return *found;
}

}  // namespace reelfs
