#include "common/base/assert.h"
#include "indexd/tree/acl.h"
#include "tests/fuzz/fuzz.h"

namespace reelfs::fuzz {

using namespace reelfs::indexd::tree;

void run(std::span<const std::byte> input) {
  const auto acl = decode_acl({reinterpret_cast<const char*>(input.data()), input.size()});
  if (!acl) return;
  const auto again = decode_acl(encode_acl(acl.value()));
  REELFS_ASSERT(again && again.value() == acl.value());
  // What is inherited or changed stays a list that decodes, and says what the permission bits say.
  for (std::uint32_t mode = 0; mode < 01000; mode += 0123) {
    auto inherited = acl.value();
    auto granted = mode;
    inherit(inherited, granted);
    REELFS_ASSERT((granted & ~mode) == 0 && permission_bits(inherited) == granted);
    auto changed = acl.value();
    apply_mode(changed, mode);
    REELFS_ASSERT(permission_bits(changed) == mode && decode_acl(encode_acl(changed)).has_value());
  }
}

std::vector<std::string> seeds() {
  const Acl acl{{{Acl::Tag::user_obj, 7, ~0U},
                 {Acl::Tag::user, 5, 1000},
                 {Acl::Tag::group_obj, 5, ~0U},
                 {Acl::Tag::group, 5, 1000},
                 {Acl::Tag::mask, 5, ~0U},
                 {Acl::Tag::other, 0, ~0U}}};
  return {encode_acl(acl)};
}

}  // namespace reelfs::fuzz
