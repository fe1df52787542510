#pragma once

#include <bit>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "common/base/ids.h"

namespace reelfs::indexd::codec {

static_assert(std::endian::native == std::endian::little);

template <class T>
inline constexpr bool kIsId = false;
template <class Tag, class Rep>
inline constexpr bool kIsId<Id<Tag, Rep>> = true;
template <class T>
inline constexpr bool kIsVector = false;
template <class T>
inline constexpr bool kIsVector<std::vector<T>> = true;

/// Appends fields to a row: little-endian numbers, strings and lists behind a 32-bit count.
class RowEncoder {
 public:
  explicit RowEncoder(std::string& out) : out_(out) {}
  template <class... T>
  void operator()(const T&... values) {
    (add(values), ...);
  }

 private:
  template <class T>
  void add(const T& value) {
    if constexpr (kIsId<T>) {
      add(value.value);
    } else if constexpr (std::is_enum_v<T>) {
      add(static_cast<std::underlying_type_t<T>>(value));
    } else if constexpr (std::is_integral_v<T>) {
      out_.append(reinterpret_cast<const char*>(&value), sizeof value);
    } else if constexpr (std::is_same_v<T, std::string>) {
      add(static_cast<std::uint32_t>(value.size()));
      out_.append(value);
    } else if constexpr (std::is_same_v<T, Uuid>) {
      out_.append(value.raw());
    } else if constexpr (kIsVector<T>) {
      add(static_cast<std::uint32_t>(value.size()));
      for (const auto& item : value) add(item);
    } else {
      fields(*this, value);
    }
  }
  std::string& out_;
};

/// Reads what RowEncoder wrote. After a field that does not fit everything reads as zero and ok() is false.
class RowDecoder {
 public:
  explicit RowDecoder(std::string_view bytes) : left_(bytes) {}
  template <class... T>
  void operator()(T&... values) {
    (take(values), ...);
  }
  bool ok() const { return ok_; }
  bool at_end() const { return left_.empty(); }
  void refuse() { ok_ = false, left_ = {}; }

 private:
  template <class T>
  void take(T& value) {
    if constexpr (kIsId<T>) {
      take(value.value);
    } else if constexpr (std::is_enum_v<T>) {
      std::underlying_type_t<T> number{};
      take(number);
      value = static_cast<T>(number);
    } else if constexpr (std::is_integral_v<T>) {
      value = 0;
      if (const auto bytes = cut(sizeof value); ok_) std::memcpy(&value, bytes.data(), sizeof value);
    } else if constexpr (std::is_same_v<T, std::string>) {
      std::uint32_t size = 0;
      take(size);
      value = cut(size);
    } else if constexpr (std::is_same_v<T, Uuid>) {
      if (const auto bytes = cut(value.bytes.size()); ok_)
        std::memcpy(value.bytes.data(), bytes.data(), bytes.size());
    } else if constexpr (kIsVector<T>) {
      std::uint32_t count = 0;
      take(count);
      value.clear();
      for (std::uint32_t i = 0; i < count && ok_; ++i) take(value.emplace_back());
    } else {
      fields(*this, value);
    }
  }
  std::string_view cut(std::size_t size) {
    if (!ok_ || size > left_.size()) {
      refuse();
      return {};
    }
    const auto bytes = left_.substr(0, size);
    left_.remove_prefix(size);
    return bytes;
  }
  std::string_view left_;
  bool ok_ = true;
};

/// Appends fields to a key: big-endian numbers, so that keys sort by them, and a string that goes to the end.
class KeyEncoder {
 public:
  explicit KeyEncoder(std::string& out) : out_(out) {}
  template <class... T>
  void operator()(const T&... values) {
    (add(values), ...);
  }

 private:
  template <class T>
  void add(const T& value) {
    if constexpr (kIsId<T>) {
      add(value.value);
    } else if constexpr (std::is_enum_v<T>) {
      add(static_cast<std::underlying_type_t<T>>(value));
    } else if constexpr (std::is_same_v<T, std::string>) {
      out_.append(value);
    } else {
      static_assert(std::is_unsigned_v<T>);
      for (int shift = 8 * (static_cast<int>(sizeof value) - 1); shift >= 0; shift -= 8) {
        out_.push_back(static_cast<char>(value >> shift));
      }
    }
  }
  std::string& out_;
};

class KeyDecoder {
 public:
  explicit KeyDecoder(std::string_view bytes) : left_(bytes) {}
  template <class... T>
  void operator()(T&... values) {
    (take(values), ...);
  }
  bool whole() const { return ok_ && left_.empty(); }

 private:
  template <class T>
  void take(T& value) {
    if constexpr (kIsId<T>) {
      take(value.value);
    } else if constexpr (std::is_enum_v<T>) {
      std::underlying_type_t<T> number{};
      take(number);
      value = static_cast<T>(number);
    } else if constexpr (std::is_same_v<T, std::string>) {
      value = left_;
      left_ = {};
    } else {
      static_assert(std::is_unsigned_v<T>);
      value = 0;
      if (left_.size() < sizeof value) {
        ok_ = false;
        return;
      }
      for (std::size_t i = 0; i < sizeof value; ++i) {
        value = static_cast<T>((std::uint64_t{value} << 8) | static_cast<std::uint8_t>(left_[i]));
      }
      left_.remove_prefix(sizeof value);
    }
  }
  std::string_view left_;
  bool ok_ = true;
};

}  // namespace reelfs::indexd::codec
