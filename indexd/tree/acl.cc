#include "indexd/tree/acl.h"

#include <algorithm>
#include <cstring>
#include <optional>

#include <linux/posix_acl_xattr.h>
#include <sys/stat.h>

namespace reelfs::indexd::tree {
namespace {

using Tag = Acl::Tag;

constexpr std::uint32_t kNoId = ACL_UNDEFINED_ID;

static_assert(sizeof(posix_acl_xattr_header) == 4 && sizeof(posix_acl_xattr_entry) == 8);

bool has_id(Tag tag) { return tag == Tag::user || tag == Tag::group; }

bool is_tag(std::uint16_t value) {
  switch (static_cast<Tag>(value)) {
    case Tag::user_obj:
    case Tag::user:
    case Tag::group_obj:
    case Tag::group:
    case Tag::mask:
    case Tag::other:
      return true;
  }
  return false;
}

/// As acl_valid(3): one owner, group and others each, a mask where somebody is named.
bool is_valid(const Acl& acl) {
  const auto count = [&](Tag tag) {
    return std::count_if(acl.entries.begin(), acl.entries.end(),
                         [&](const auto& entry) { return entry.tag == tag; });
  };
  const bool in_order = std::is_sorted(acl.entries.begin(), acl.entries.end(),
                                       [](const auto& a, const auto& b) { return a.tag < b.tag; });
  const bool names_somebody = count(Tag::user) + count(Tag::group) > 0;
  return in_order && count(Tag::user_obj) == 1 && count(Tag::group_obj) == 1 && count(Tag::other) == 1 &&
         count(Tag::mask) <= 1 && (!names_somebody || count(Tag::mask) == 1) &&
         std::all_of(acl.entries.begin(), acl.entries.end(), [](const auto& entry) {
           return entry.permissions <= S_IRWXO && (!has_id(entry.tag) || entry.id != kNoId);
         });
}

Acl::Entry* find(Acl& acl, Tag tag) {
  const auto found = std::find_if(acl.entries.begin(), acl.entries.end(),
                                  [&](const auto& entry) { return entry.tag == tag; });
  return found == acl.entries.end() ? nullptr : &*found;
}

/// Of which entry the group's permission bits are.
Acl::Entry* group_class(Acl& acl) {
  auto* mask = find(acl, Tag::mask);
  return mask != nullptr ? mask : find(acl, Tag::group_obj);
}

}  // namespace

Result<Acl> decode_acl(std::string_view bytes) {
  posix_acl_xattr_header header;
  if (bytes.size() < sizeof header || (bytes.size() - sizeof header) % sizeof(posix_acl_xattr_entry) != 0)
    return Error(Errc::invalid, "not an access control list");
  std::memcpy(&header, bytes.data(), sizeof header);
  if (header.a_version != POSIX_ACL_XATTR_VERSION)
    return Error(Errc::unsupported, "an access control list of an unknown version");
  bytes.remove_prefix(sizeof header);
  Acl acl;
  for (; !bytes.empty(); bytes.remove_prefix(sizeof(posix_acl_xattr_entry))) {
    posix_acl_xattr_entry entry;
    std::memcpy(&entry, bytes.data(), sizeof entry);
    if (!is_tag(entry.e_tag)) return Error(Errc::invalid, "an access control list with an unknown tag");
    const auto tag = static_cast<Tag>(entry.e_tag);
    acl.entries.push_back(
        {.tag = tag, .permissions = entry.e_perm, .id = has_id(tag) ? std::uint32_t{entry.e_id} : kNoId});
  }
  if (!is_valid(acl)) return Error(Errc::invalid, "an access control list that contradicts itself");
  return acl;
}

std::string encode_acl(const Acl& acl) {
  std::string bytes;
  const posix_acl_xattr_header header{.a_version = POSIX_ACL_XATTR_VERSION};
  bytes.append(reinterpret_cast<const char*>(&header), sizeof header);
  for (const auto& entry : acl.entries) {
    const posix_acl_xattr_entry packed{
        .e_tag = static_cast<std::uint16_t>(entry.tag), .e_perm = entry.permissions, .e_id = entry.id};
    bytes.append(reinterpret_cast<const char*>(&packed), sizeof packed);
  }
  return bytes;
}

std::uint32_t permission_bits(const Acl& acl) {
  std::uint32_t owner = 0;
  std::uint32_t group = 0;
  std::optional<std::uint32_t> mask;
  std::uint32_t other = 0;
  for (const auto& entry : acl.entries) {
    if (entry.tag == Tag::user_obj) owner = entry.permissions;
    if (entry.tag == Tag::group_obj) group = entry.permissions;
    if (entry.tag == Tag::mask) mask = entry.permissions;
    if (entry.tag == Tag::other) other = entry.permissions;
  }
  return owner << 6 | mask.value_or(group) << 3 | other;
}

bool says_no_more_than_bits(const Acl& acl) {
  return std::all_of(acl.entries.begin(), acl.entries.end(), [](const auto& entry) {
    return entry.tag == Tag::user_obj || entry.tag == Tag::group_obj || entry.tag == Tag::other;
  });
}

void apply_mode(Acl& acl, std::uint32_t mode) {
  find(acl, Tag::user_obj)->permissions = (mode >> 6) & S_IRWXO;
  group_class(acl)->permissions = (mode >> 3) & S_IRWXO;
  find(acl, Tag::other)->permissions = mode & S_IRWXO;
}

void inherit(Acl& acl, std::uint32_t& mode) {
  find(acl, Tag::user_obj)->permissions &= (mode >> 6) & S_IRWXO;
  group_class(acl)->permissions &= (mode >> 3) & S_IRWXO;
  find(acl, Tag::other)->permissions &= mode & S_IRWXO;
  mode = (mode & ~kPermissionBits) | permission_bits(acl);
}

}  // namespace reelfs::indexd::tree
