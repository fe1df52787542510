#pragma once

#include <cstdint>
#include <iosfwd>
#include <string>
#include <vector>

#include <nlohmann/json_fwd.hpp>

namespace reelfs::admin {

/// Rows under headings, each column as wide as its widest cell.
///
///     Table table({"NODE", "STATE"});
///     table.add({"node1", "online"});
///     table.print(std::cout);
class Table {
 public:
  explicit Table(std::vector<std::string> headings);
  /// @pre as many cells as headings
  void add(std::vector<std::string> cells);
  /// Prints nothing but the headings where there are no rows.
  void print(std::ostream& out) const;

 private:
  std::vector<std::vector<std::string>> rows_;
};

/// "1.5 GiB"
std::string human_bytes(std::uint64_t bytes);
/// "3 min", for how long something has been so
std::string human_time(std::uint64_t milliseconds);

/// Bytes that need not be UTF-8 (file names) as a JSON string; what is not UTF-8 becomes U+FFFD.
void print_json(const nlohmann::json& value);

}  // namespace reelfs::admin
