#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "common/base/result.h"

namespace reelfs::indexd::tree {

/// A POSIX access control list, as acl(5) has it.
struct Acl {
  enum class Tag : std::uint16_t {
    user_obj = 0x01,
    user = 0x02,
    group_obj = 0x04,
    group = 0x08,
    mask = 0x10,
    other = 0x20,
  };
  struct Entry {
    Tag tag = Tag::other;
    std::uint16_t permissions = 0;  // S_IRWXO
    std::uint32_t id = 0;           // of user and group
    friend bool operator==(const Entry&, const Entry&) = default;
  };
  std::vector<Entry> entries;  // ordered by tag
  friend bool operator==(const Acl&, const Acl&) = default;
};

/// The extended attributes in which the kernel hands lists over.
inline constexpr std::string_view kAccessAcl = "system.posix_acl_access";
inline constexpr std::string_view kDefaultAcl = "system.posix_acl_default";

/// The form of the kernel's extended attributes (linux/posix_acl_xattr.h), version 2.
/// @errors unsupported (another version), invalid (not a list, or one that acl_valid(3) refuses)
Result<Acl> decode_acl(std::string_view bytes);
std::string encode_acl(const Acl& acl);

inline constexpr std::uint32_t kPermissionBits = 0777;
/// The permission bits that a list stands for: the group's are the mask's where there is one.
std::uint32_t permission_bits(const Acl& acl);
/// True where the permission bits say all that the list does.
bool says_no_more_than_bits(const Acl& acl);
/// The list after chmod(2) to these permission bits.
void apply_mode(Acl& acl, std::uint32_t mode);
/// What a new file gets from a default list and the mode it is made with: entries and mode each lose what the
/// other does not grant.
void inherit(Acl& acl, std::uint32_t& mode);

}  // namespace reelfs::indexd::tree
