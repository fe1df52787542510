#include "common/config/config.h"

#include <charconv>
#include <fstream>
#include <map>
#include <optional>
#include <set>
#include <sstream>
#include <utility>

#include <toml++/toml.h>

#include "common/observe/log.h"

namespace reelfs::config {
namespace {

struct Unit {
  std::string_view suffix;
  std::uint64_t factor;
};

constexpr Unit kByteUnits[] = {{"", 1},
                               {"B", 1},
                               {"K", 1ull << 10},
                               {"KB", 1ull << 10},
                               {"Ki", 1ull << 10},
                               {"KiB", 1ull << 10},
                               {"M", 1ull << 20},
                               {"MB", 1ull << 20},
                               {"Mi", 1ull << 20},
                               {"MiB", 1ull << 20},
                               {"G", 1ull << 30},
                               {"GB", 1ull << 30},
                               {"Gi", 1ull << 30},
                               {"GiB", 1ull << 30},
                               {"T", 1ull << 40},
                               {"TB", 1ull << 40},
                               {"Ti", 1ull << 40},
                               {"TiB", 1ull << 40}};
constexpr Unit kTimeUnits[] = {{"", 1},         {"ms", 1},        {"s", 1000},      {"m", 60'000},
                               {"min", 60'000}, {"h", 3'600'000}, {"d", 86'400'000}};

template <std::size_t N>
std::optional<std::uint64_t> parse_with_unit(std::string_view text, const Unit (&units)[N],
                                             std::uint64_t max) {
  std::uint64_t number = 0;
  const auto [end, failure] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (failure != std::errc{} || end == text.data()) return std::nullopt;
  const std::string_view suffix(end, static_cast<std::size_t>(text.data() + text.size() - end));
  for (const auto& unit : units) {
    if (unit.suffix == suffix && number <= max / unit.factor) return number * unit.factor;
  }
  return std::nullopt;
}

std::string in_quotes(std::string_view text) { return '"' + std::string(text) + '"'; }

}  // namespace

struct File::Document {
  std::filesystem::path path;
  toml::table root;
  std::map<const toml::table*, std::set<std::string, std::less<>>> read;
  std::optional<Error> first;

  Error error_at(const toml::source_region& where, const std::string& what) const {
    return Error(Errc::bad_config, path.string() + ':' + std::to_string(where.begin.line) + ": " + what);
  }
  void fail(const toml::source_region& where, const std::string& what) {
    if (!first) first = error_at(where, what);
  }
  // The unread key that stands first in the file.
  const toml::key* find_unread(const toml::table& table) const {
    const toml::key* found = nullptr;
    const auto earlier = [&](const toml::key* key) {
      if (key != nullptr && (found == nullptr || key->source().begin < found->source().begin)) found = key;
    };
    const auto known = read.find(&table);
    for (const auto& [key, node] : table) {
      if (known == read.end() || !known->second.contains(key.str())) {
        earlier(&key);
      } else if (const auto* child = node.as_table()) {
        earlier(find_unread(*child));
      }
    }
    return found;
  }
};

struct Table::Node {
  std::shared_ptr<File::Document> document;
  const toml::table* table = nullptr;  // null: absent

  const toml::node* find(std::string_view key) {
    if (table == nullptr) return nullptr;
    document->read[table].emplace(key);
    return table->get(key);
  }
  void fail(const toml::node& node, std::string_view key, const std::string& what) {
    document->fail(node.source(), std::string(key) + ' ' + what);
  }
  const std::string* find_string(std::string_view key, const char* what) {
    const auto* node = find(key);
    if (node == nullptr) return nullptr;
    if (const auto* text = node->as_string()) return &text->get();
    fail(*node, key, what);
    return nullptr;
  }
  bool within(const toml::node& node, std::string_view key, std::uint64_t value, Bounds bounds) {
    const auto min = static_cast<std::uint64_t>(std::max<std::int64_t>(bounds.min, 0));
    const auto max = static_cast<std::uint64_t>(std::max<std::int64_t>(bounds.max, 0));
    if (value >= min && value <= max) return true;
    fail(node, key,
         "must be " + std::to_string(min) + " to " + std::to_string(max) + ", not " + std::to_string(value));
    return false;
  }
  template <std::size_t N>
  std::optional<std::uint64_t> find_with_unit(std::string_view key, const Unit (&units)[N], Bounds bounds,
                                              const char* what) {
    const auto* node = find(key);
    if (node == nullptr) return std::nullopt;
    std::optional<std::uint64_t> value;
    if (const auto* number = node->as_integer(); number != nullptr && number->get() >= 0) {
      value = static_cast<std::uint64_t>(number->get());
    } else if (const auto* text = node->as_string()) {
      value = parse_with_unit(text->get(), units, INT64_MAX);
    }
    if (!value) {
      fail(*node, key, what);
    } else if (!within(*node, key, *value, bounds)) {
      value.reset();
    }
    return value;
  }
  std::optional<std::vector<std::string>> find_strings(std::string_view key) {
    const auto* node = find(key);
    if (node == nullptr) return std::nullopt;
    std::vector<std::string> strings;
    if (const auto* array = node->as_array()) {
      for (const auto& item : *array) {
        if (const auto* text = item.as_string()) strings.push_back(text->get());
      }
      if (strings.size() == array->size()) return strings;
    }
    fail(*node, key, "must be a list of strings");
    return std::nullopt;
  }
};

Table::Table(std::shared_ptr<Node> node) : node_(std::move(node)) {}

void Table::read(std::string_view key, std::string& into) {
  if (const auto* text = node_->find_string(key, "must be a string")) into = *text;
}

void Table::read(std::string_view key, bool& into) {
  const auto* node = node_->find(key);
  if (node == nullptr) return;
  if (const auto* value = node->as_boolean()) {
    into = value->get();
  } else {
    node_->fail(*node, key, "must be true or false");
  }
}

void Table::read(std::string_view key, std::uint64_t& into, Bounds bounds) {
  const auto* node = node_->find(key);
  if (node == nullptr) return;
  const auto* value = node->as_integer();
  if (value == nullptr || value->get() < 0) {
    node_->fail(*node, key, "must be a whole number, not below zero");
  } else if (const auto number = static_cast<std::uint64_t>(value->get());
             node_->within(*node, key, number, bounds)) {
    into = number;
  }
}

void Table::read(std::string_view key, std::uint32_t& into, Bounds bounds) {
  std::uint64_t value = into;
  bounds.max = std::min<std::int64_t>(bounds.max, UINT32_MAX);
  read(key, value, bounds);
  into = static_cast<std::uint32_t>(value);
}

void Table::read(std::string_view key, std::filesystem::path& into) {
  const auto* text = node_->find_string(key, "must be a path");
  if (text != nullptr) into = node_->document->path.parent_path() / *text;
}

void Table::read(std::string_view key, rpc::Endpoint& into) {
  const auto* text = node_->find_string(key, "must be \"host:port\"");
  if (text == nullptr) return;
  const auto parsed = rpc::Endpoint::parse(*text);
  if (parsed) {
    into = parsed.value();
  } else {
    node_->fail(*node_->find(key), key, "must be \"host:port\", not " + in_quotes(*text));
  }
}

void Table::read(std::string_view key, std::vector<std::string>& into) {
  if (auto strings = node_->find_strings(key)) into = std::move(*strings);
}

void Table::read(std::string_view key, std::vector<rpc::Endpoint>& into) {
  const auto* node = node_->find(key);
  if (node != nullptr && node->is_string()) {
    rpc::Endpoint one;
    read(key, one);
    into = {one};
    return;
  }
  const auto strings = node_->find_strings(key);
  if (!strings) return;
  std::vector<rpc::Endpoint> endpoints;
  for (const auto& text : *strings) {
    rpc::Endpoint endpoint;
    std::istringstream words(text);
    for (std::string word; words >> word;) {
      const auto parsed = rpc::Endpoint::parse(word);
      if (!parsed) return node_->fail(*node, key, "must be a list of \"host:port\", not " + in_quotes(text));
      if (endpoint.host.empty())
        endpoint = parsed.value();
      else
        endpoint.others.push_back(parsed.value());
    }
    if (endpoint.host.empty())
      return node_->fail(*node, key, "must be a list of \"host:port\", not " + in_quotes(text));
    endpoints.push_back(std::move(endpoint));
  }
  into = std::move(endpoints);
}

void Table::read_bytes(std::string_view key, std::uint64_t& into, Bounds bounds) {
  const auto value =
      node_->find_with_unit(key, kByteUnits, bounds, "must be a number of bytes, such as 1048576 or \"64M\"");
  if (value) into = *value;
}

void Table::read_duration(std::string_view key, std::chrono::milliseconds& into, Bounds bounds_ms) {
  const auto value = node_->find_with_unit(key, kTimeUnits, bounds_ms,
                                           "must be a time, such as \"200ms\", \"30s\" or milliseconds");
  if (value) into = std::chrono::milliseconds(*value);
}

void Table::read(std::string_view key, rpc::TlsFiles& into) {
  auto table = child(key);
  if (table.node_->table == nullptr) return;
  for (const auto* file : {"ca", "cert", "key"}) table.require(file);
  table.read("ca", into.authority);
  table.read("cert", into.certificate);
  table.read("key", into.key);
}

void Table::read(std::string_view key, LogConfig& into) {
  auto table = child(key);
  table.read("level", into.level);
  table.read("file", into.file);
  const bool is_path = !into.file.empty() && into.file != kSystemLog;
  if (is_path) into.file = node_->document->path.parent_path() / into.file;
}

void Table::require(std::string_view key) {
  if (node_->table != nullptr && node_->table->contains(key)) return;
  const auto& there = node_->table != nullptr ? *node_->table : node_->document->root;
  node_->document->fail(there.source(), std::string(key) + " is missing");
}

Table Table::child(std::string_view key) {
  auto child = std::make_shared<Node>();
  child->document = node_->document;
  if (const auto* found = node_->find(key)) {
    child->table = found->as_table();
    if (child->table == nullptr) node_->fail(*found, key, "must be a table");
  }
  return Table(std::move(child));
}

File::File(std::shared_ptr<Document> document) : document_(std::move(document)) {}

Result<File> File::load(const std::filesystem::path& path) {
  std::error_code failure;
  if (!std::filesystem::exists(path, failure)) return Error(Errc::not_found, "no file " + path.string());
  std::ifstream stream(path, std::ios::binary);
  std::ostringstream text;
  text << stream.rdbuf();
  if (!stream || !text) return Error(Errc::bad_config, "cannot read " + path.string());
  return parse(text.str(), path);
}

Result<File> File::parse(std::string_view text, std::filesystem::path path) {
  auto document = std::make_shared<Document>();
  document->path = std::move(path);
  try {
    document->root = toml::parse(text);
  } catch (const toml::parse_error& error) {
    const auto& at = error.source().begin;
    return Error(Errc::bad_config, document->path.string() + ':' + std::to_string(at.line) + ':' +
                                       std::to_string(at.column) + ": " + std::string(error.description()));
  }
  return File(std::move(document));
}

Table File::root() {
  auto node = std::make_shared<Table::Node>();
  node->document = document_;
  node->table = &document_->root;
  return Table(std::move(node));
}

Result<void> File::finish() {
  if (document_->first) return *document_->first;
  const auto* unread = document_->find_unread(document_->root);
  if (unread != nullptr)
    return document_->error_at(unread->source(), "unknown key " + in_quotes(unread->str()));
  return ok();
}

Result<std::uint64_t> parse_bytes(std::string_view text) {
  const auto value = parse_with_unit(text, kByteUnits, UINT64_MAX);
  if (!value) return Error(Errc::invalid, "not a number of bytes: " + in_quotes(text));
  return *value;
}

}  // namespace reelfs::config
