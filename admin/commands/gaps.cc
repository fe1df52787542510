#include <chrono>
#include <iostream>
#include <memory>
#include <vector>

#include <CLI/CLI.hpp>
#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "admin/command.h"
#include "admin/output.h"
#include "admin/time_text.h"
#include "common/base/rfc3339.h"
#include "common/wire/gap_cause.h"
#include "common/wire/index.pb.h"

namespace reelfs::admin {
namespace {

using nlohmann::json;

constexpr std::uint32_t kPage = 1024;

struct GapsOptions {
  ClusterOptions cluster;
  std::string channel;
  std::string from;
  std::string to;
};

struct Ledger {
  std::string channel;
  wire::ChannelCoverage coverage;
  std::vector<wire::GapInfo> gaps;
};

std::int64_t now_ns() { return SystemClock().wall().time_since_epoch().count(); }

/// Of the gap, or of what there is of it so far.
std::uint64_t length_ms(const wire::GapInfo& gap) {
  const auto end = gap.end_ns() != 0 ? gap.end_ns() : now_ns();
  return end > gap.start_ns() ? static_cast<std::uint64_t>(end - gap.start_ns()) / 1'000'000 : 0;
}

double percent(const wire::ChannelCoverage& coverage) {
  const auto all = static_cast<double>(coverage.to_ns() - coverage.from_ns());
  return all > 0 ? 100.0 * static_cast<double>(coverage.covered_ns()) / all : 100.0;
}

Result<wire::ListGapsRequest> range_of(const GapsOptions& options) {
  wire::ListGapsRequest request;
  if (!options.from.empty()) {
    REELFS_TRY(const auto time, parse_time(options.from, now_ns()));
    request.set_from_ns(time);
  }
  if (!options.to.empty()) {
    REELFS_TRY(const auto time, parse_time(options.to, now_ns()));
    request.set_to_ns(time);
  }
  if (request.has_from_ns() && request.has_to_ns() && request.from_ns() > request.to_ns())
    return Error(Errc::invalid, "--from is later than --to");
  return request;
}

Result<Ledger> read_ledger(Connection& connection, const wire::ChannelInfo& channel,
                           wire::ListGapsRequest request) {
  Ledger ledger;
  ledger.channel = channel.name();
  request.set_channel(channel.inode());
  request.set_limit(kPage);
  for (;;) {
    REELFS_TRY(auto reply, connection.call<wire::ListGapsReply>(wire::Method::list_gaps, request));
    if (reply.has_coverage()) ledger.coverage = reply.coverage();
    for (auto& gap : *reply.mutable_gaps()) ledger.gaps.push_back(std::move(gap));
    if (reply.end() || reply.gaps().empty()) return ledger;
    request.set_after_ns(ledger.gaps.back().start_ns());
  }
}

/// The start is the time of the last byte before the gap; an end that has not come is null.
json describe(const wire::GapInfo& gap) {
  json end = nullptr;
  json end_ns = nullptr;
  if (gap.end_ns() != 0) end = rfc3339(gap.end_ns()), end_ns = gap.end_ns();
  return {{"start", rfc3339(gap.start_ns())},
          {"start_ns", gap.start_ns()},
          {"end", end},
          {"end_ns", end_ns},
          {"length_ms", length_ms(gap)},
          {"cause", std::string(wire::name_of(gap.cause()))},
          {"open", gap.end_ns() == 0},
          {"longest_stall_ms", gap.longest_stall_ms()}};
}

json describe(const Ledger& ledger) {
  json gaps = json::array();
  for (const auto& gap : ledger.gaps) gaps.push_back(describe(gap));
  const auto& coverage = ledger.coverage;
  json described{{"channel", ledger.channel}, {"recorded", coverage.watched()}, {"gaps", gaps}};
  if (!coverage.watched()) return described;
  described["coverage"] = {{"from", rfc3339(coverage.from_ns())},
                           {"to", rfc3339(coverage.to_ns())},
                           {"covered_s", static_cast<double>(coverage.covered_ns()) / 1e9},
                           {"percent", percent(coverage)},
                           {"gaps", coverage.gaps()}};
  described["longest_stall_ms"] = coverage.longest_stall_ms();
  described["cadence_ms"] = coverage.cadence_ms();
  described["silent_ms"] = coverage.silent_ms();
  return described;
}

void print(const std::vector<Ledger>& ledgers) {
  Table gaps({"CHANNEL", "START", "END", "LENGTH", "CAUSE", "LONGEST STALL"});
  Table summary({"CHANNEL", "FROM", "TO", "COVERED", "GAPS", "LONGEST STALL", "CADENCE", "LAST BYTE"});
  std::size_t found = 0;
  for (const auto& ledger : ledgers) {
    for (const auto& gap : ledger.gaps) {
      gaps.add({ledger.channel, time_text(gap.start_ns()),
                gap.end_ns() != 0 ? time_text(gap.end_ns()) : "open", human_time(length_ms(gap)),
                std::string(wire::name_of(gap.cause())),
                fmt::format("{:.1f} s", static_cast<double>(gap.longest_stall_ms()) / 1e3)});
      ++found;
    }
    const auto& coverage = ledger.coverage;
    if (!coverage.watched()) {
      summary.add({ledger.channel, "-", "-", "not recorded to", "-", "-", "-", "-"});
      continue;
    }
    summary.add({ledger.channel, time_text(coverage.from_ns()), time_text(coverage.to_ns()),
                 fmt::format("{:.2f} %", percent(coverage)), std::to_string(coverage.gaps()),
                 fmt::format("{:.1f} s", static_cast<double>(coverage.longest_stall_ms()) / 1e3),
                 fmt::format("{:.1f} s", static_cast<double>(coverage.cadence_ms()) / 1e3),
                 human_time(coverage.silent_ms()) + " ago"});
  }
  if (found > 0) {
    gaps.print(std::cout);
    std::cout << '\n';
  }
  summary.print(std::cout);
}

Result<void> gaps(const GapsOptions& options) {
  REELFS_TRY(const auto range, range_of(options));
  REELFS_TRY(auto connection, options.cluster.connect());
  std::vector<wire::ChannelInfo> channels;
  if (options.channel.empty()) {
    REELFS_TRY(auto all, connection->list_channels());
    channels.assign(all.channels().begin(), all.channels().end());
  } else {
    REELFS_TRY(auto channel, connection->find_channel(options.channel));
    channels.push_back(std::move(channel));
  }
  std::vector<Ledger> ledgers;
  for (const auto& channel : channels) {
    auto ledger = read_ledger(*connection, channel, range);
    const bool is_gone = ledger.has_error() && ledger.error().code() == Errc::not_found;
    if (is_gone && options.channel.empty()) continue;  // removed meanwhile
    if (!ledger) return std::move(ledger).error();
    ledgers.push_back(std::move(ledger).value());
  }
  if (!options.cluster.json) {
    print(ledgers);
    return ok();
  }
  json all = json::array();
  for (const auto& ledger : ledgers) all.push_back(describe(ledger));
  print_json({{"channels", all}});
  return ok();
}

}  // namespace

void add_gaps(CLI::App& app, Action& action) {
  auto* command = app.add_subcommand(
      "gaps", "When channels that are recorded to were not, and why; and how much of the time is covered");
  auto options = std::make_shared<GapsOptions>();
  options->cluster.add_to(*command);
  command->add_option("--channel", options->channel, "Only this channel");
  command->add_option("--from", options->from,
                      "Only what goes on at or after: 10:00, \"2026-11-21 10:00\", 2026-11-21T10:00:00Z; "
                      "by default the oldest recording");
  command->add_option("--to", options->to, "Only what begins at or before");
  command->callback([options, &action] { action = [options] { return gaps(*options); }; });
}

}  // namespace reelfs::admin
