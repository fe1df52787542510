#pragma once

#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include <rocksdb/db.h>

#include "common/base/result.h"

namespace reelfs::indexd {

inline rocksdb::Slice slice(std::string_view bytes) { return {bytes.data(), bytes.size()}; }
inline std::string_view view_of(const rocksdb::Slice& bytes) { return {bytes.data(), bytes.size()}; }

/// @pre not ok
Error from_rocksdb(const rocksdb::Status& status, std::string_view what);

/// One value. @errors io, corrupt
Result<std::optional<std::string>> find_in(rocksdb::DB& db, const rocksdb::ReadOptions& options,
                                           std::string_view key);

}  // namespace reelfs::indexd
