#include "indexd/tree/policy.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <utility>

#include <fmt/format.h>

#include "common/config/config.h"

namespace reelfs::indexd::tree {
namespace {

constexpr std::string_view kPrefix = "user.reel.";
constexpr std::string_view kHold = "user.reel.hold";
constexpr std::string_view kNone = "none";
constexpr std::uint64_t kNoLimit = PolicyRow::kNoLimit;
using Switch = PolicyRow::Switch;

struct Unit {
  char letter;
  std::uint64_t size;
};
constexpr std::array kTimeUnits{Unit{'w', 7 * 86400}, Unit{'d', 86400}, Unit{'h', 3600}, Unit{'m', 60},
                                Unit{'s', 1}};
constexpr std::array kByteUnits{Unit{'P', 1ULL << 50}, Unit{'T', 1ULL << 40}, Unit{'G', 1ULL << 30},
                                Unit{'M', 1ULL << 20}, Unit{'K', 1ULL << 10}};
constexpr std::uint64_t kMaxSeconds = 1000ULL * 366 * 86400;  // a thousand years

std::optional<std::uint64_t> parse_seconds(std::string_view text) {
  std::uint64_t total = 0;
  if (text.empty()) return std::nullopt;
  while (!text.empty()) {
    std::uint64_t number = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
    if (error != std::errc{} || number > kMaxSeconds) return std::nullopt;
    text.remove_prefix(static_cast<std::size_t>(end - text.data()));
    std::uint64_t unit = 1;
    if (!text.empty()) {
      unit = 0;
      for (const auto& [letter, size] : kTimeUnits) {
        if (letter == text.front()) unit = size;
      }
      text.remove_prefix(1);
    }
    total += number * unit;
    if (unit == 0 || total > kMaxSeconds) return std::nullopt;
  }
  return total;
}

std::string show_seconds(std::uint64_t seconds) {
  if (seconds == 0 || seconds == kNoLimit) return std::string(kNone);
  std::string text;
  for (const auto& [letter, size] : kTimeUnits) {
    if (letter == 'w' || seconds < size) continue;
    text += fmt::format("{}{}", seconds / size, letter);
    seconds %= size;
  }
  return text;
}

std::string show_bytes(std::uint64_t bytes) {
  if (bytes == 0 || bytes == kNoLimit) return std::string(kNone);
  for (const auto& [letter, size] : kByteUnits) {
    if (bytes % size == 0) return fmt::format("{}{}", bytes / size, letter);
  }
  return std::to_string(bytes);
}

Result<void> set_age(std::uint64_t& age, std::string_view value) {
  const auto seconds = parse_seconds(value);
  if (value == kNone || seconds == 0U) {
    age = kNoLimit;
  } else if (seconds) {
    age = *seconds;
  } else {
    return Error(Errc::invalid, fmt::format("\"{}\" is no time: like 30d, 12h, 90m, 1d12h, or none", value));
  }
  return ok();
}

/// What is decided for an inode, together with a channel's own row.
struct Decided {
  PolicyRow row;
  std::optional<ChannelRow> channel;
};

struct Setting {
  std::string_view name;
  Result<void> (*set)(Decided&, std::string_view value);
  void (*reset)(Decided&);
  bool (*is_set)(const Decided&);
  std::string (*show)(const Decided&);  // of what is in force
};

Result<void> set_quota(Decided& decided, std::string_view value) {
  decided.row.quota_bytes = kNoLimit;
  if (value == kNone) return ok();
  const auto bytes = config::parse_bytes(value);
  if (!bytes || bytes.value() == 0)
    return Error(Errc::invalid, fmt::format("\"{}\" is no quota: like 500G, 2T, or none", value));
  decided.row.quota_bytes = bytes.value();
  return ok();
}

Result<void> set_overwrite(Decided& decided, std::string_view value) {
  if (value != "on" && value != "off")
    return Error(Errc::invalid, fmt::format("overwrite is on or off, and not \"{}\"", value));
  decided.row.overwrite = value == "on" ? Switch::on : Switch::off;
  return ok();
}

Result<std::uint32_t> parse_copies(std::string_view value) {
  std::uint32_t copies = 0;
  const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), copies);
  if (error != std::errc{} || end != value.data() + value.size() || copies < 1 || copies > kMaxCopies)
    return Error(Errc::invalid, fmt::format("copies are 1 to {}, and not \"{}\"", kMaxCopies, value));
  return copies;
}

Result<void> set_copies(Decided& decided, std::string_view value) {
  REELFS_TRY(const auto copies, parse_copies(value));
  (decided.channel ? decided.channel->copies : decided.row.copies) = copies;
  return ok();
}

Result<void> set_min_copies(Decided& decided, std::string_view value) {
  REELFS_TRY(decided.row.min_copies, parse_copies(value));
  return ok();
}

Result<void> set_replication(Decided&, std::string_view value) {
  if (value == "sync") return ok();
  return Error(Errc::invalid, fmt::format("replication is sync, and not \"{}\"", value));
}

const std::array kSettings{
    Setting{"quota", set_quota, [](Decided& decided) { decided.row.quota_bytes = 0; },
            [](const Decided& decided) { return decided.row.quota_bytes != 0; },
            [](const Decided& decided) { return show_bytes(decided.row.quota_bytes); }},
    Setting{"max_age",
            [](Decided& decided, std::string_view value) { return set_age(decided.row.max_age_s, value); },
            [](Decided& decided) { decided.row.max_age_s = 0; },
            [](const Decided& decided) { return decided.row.max_age_s != 0; },
            [](const Decided& decided) { return show_seconds(decided.row.max_age_s); }},
    Setting{"min_age",
            [](Decided& decided, std::string_view value) { return set_age(decided.row.min_age_s, value); },
            [](Decided& decided) { decided.row.min_age_s = 0; },
            [](const Decided& decided) { return decided.row.min_age_s != 0; },
            [](const Decided& decided) { return show_seconds(decided.row.min_age_s); }},
    Setting{"overwrite", set_overwrite, [](Decided& decided) { decided.row.overwrite = Switch::undecided; },
            [](const Decided& decided) { return decided.row.overwrite != Switch::undecided; },
            [](const Decided& decided) {
              return std::string(decided.row.overwrite == Switch::off ? "off" : "on");
            }},
    // A channel always has a number of copies, its own.
    Setting{"copies", set_copies, [](Decided& decided) { decided.row.copies = 0; },
            [](const Decided& decided) { return decided.row.copies != 0; },
            [](const Decided& decided) {
              return std::to_string(decided.channel ? decided.channel->copies : decided.row.copies);
            }},
    Setting{"min_copies", set_min_copies, [](Decided& decided) { decided.row.min_copies = 0; },
            [](const Decided& decided) { return decided.row.min_copies != 0; },
            [](const Decided& decided) { return std::to_string(std::max(decided.row.min_copies, 1u)); }},
    Setting{"replication", set_replication, [](Decided&) {}, [](const Decided&) { return false; },
            [](const Decided&) { return std::string("sync"); }},
};

const Setting* find_setting(std::string_view attribute) {
  attribute.remove_prefix(kPrefix.size());
  for (const auto& setting : kSettings) {
    if (setting.name == attribute) return &setting;
  }
  return nullptr;
}

Result<PolicyRow> row_of(const Reader& reader, InodeId inode) {
  REELFS_TRY(auto row, reader.find(PolicyKey{inode}));
  return row.value_or(PolicyRow{});
}

PolicyRow inherit(PolicyRow own, const PolicyRow& all) {
  if (own.quota_bytes == 0) own.quota_bytes = all.quota_bytes;
  if (own.max_age_s == 0) own.max_age_s = all.max_age_s;
  if (own.min_age_s == 0) own.min_age_s = all.min_age_s;
  if (own.overwrite == Switch::undecided) own.overwrite = all.overwrite;
  if (own.min_copies == 0) own.min_copies = all.min_copies;
  return own;
}

/// @errors invalid: neither a channel's directory nor the root
Result<Decided> decided_for(const Reader& reader, const Inode& inode) {
  Decided decided;
  REELFS_TRY(auto row, row_of(reader, inode.id));
  decided.row = row;
  if (inode.is_root()) return decided;
  REELFS_TRY(auto channel, reader.find(ChannelKey{inode.id}));
  if (!channel)
    return Error(Errc::invalid, "only a channel's directory, or the root for all of them, has a policy");
  decided.channel = std::move(channel);
  return decided;
}

void store(Transaction& txn, InodeId inode, const Decided& decided) {
  if (decided.channel) txn.put(ChannelKey{inode}, *decided.channel);
  if (decided.row == PolicyRow{}) {
    txn.erase(PolicyKey{inode});
  } else {
    txn.put(PolicyKey{inode}, decided.row);
  }
}

}  // namespace

Result<Policy> policy_of(const Reader& reader, InodeId channel) {
  REELFS_TRY(const auto own, row_of(reader, channel));
  REELFS_TRY(const auto all, row_of(reader, kRootInode));
  const auto row = inherit(own, all);
  const auto limit = [](std::uint64_t value) { return value != 0 && value != kNoLimit; };
  Policy policy;
  if (limit(row.quota_bytes)) policy.quota_bytes = row.quota_bytes;
  if (limit(row.max_age_s)) policy.max_age = std::chrono::seconds(row.max_age_s);
  if (limit(row.min_age_s)) policy.min_age = std::chrono::seconds(row.min_age_s);
  policy.overwrite = row.overwrite != Switch::off;
  if (row.min_copies != 0) policy.min_copies = row.min_copies;
  return policy;
}

Result<std::optional<std::uint32_t>> copies_of_new_channels(const Reader& reader) {
  REELFS_TRY(const auto all, row_of(reader, kRootInode));
  std::optional<std::uint32_t> copies;
  if (all.copies != 0) copies = all.copies;
  return copies;
}

bool is_policy(std::string_view attribute) { return attribute.starts_with(kPrefix) && attribute != kHold; }

Result<void> set_policy(Transaction& txn, const Inode& inode, std::string_view attribute,
                        std::string_view value) {
  const auto* const setting = find_setting(attribute);
  if (setting == nullptr) return Error(Errc::invalid, fmt::format("there is no setting {}", attribute));
  REELFS_TRY(auto decided, decided_for(txn, inode));
  REELFS_TRY(setting->set(decided, value));
  store(txn, inode.id, decided);
  return ok();
}

Result<void> reset_policy(Transaction& txn, const Inode& inode, std::string_view attribute) {
  const auto* const setting = find_setting(attribute);
  auto decided = decided_for(txn, inode);
  if (setting == nullptr || !decided || !setting->is_set(decided.value())) return Error(Errc::no_attribute);
  setting->reset(decided.value());
  store(txn, inode.id, decided.value());
  return ok();
}

Result<std::string> show_policy(const Reader& reader, const Inode& inode, std::string_view attribute) {
  const auto* const setting = find_setting(attribute);
  auto decided = decided_for(reader, inode);
  if (setting == nullptr || !decided) return Error(Errc::no_attribute);
  if (inode.is_root() && setting->name == "copies" && decided.value().row.copies == 0)
    return Error(Errc::no_attribute);  // as the index server's configuration says
  REELFS_TRY(const auto all, row_of(reader, kRootInode));
  decided.value().row = inherit(decided.value().row, all);
  return setting->show(decided.value());
}

Result<std::vector<std::string>> decided_policies(const Reader& reader, InodeId inode) {
  std::vector<std::string> names;
  REELFS_TRY(const auto row, reader.find(PolicyKey{inode}));
  if (!row) return names;
  const Decided decided{*row, std::nullopt};
  for (const auto& setting : kSettings) {
    if (setting.is_set(decided)) names.push_back(std::string(kPrefix) + std::string(setting.name));
  }
  return names;
}

}  // namespace reelfs::indexd::tree
