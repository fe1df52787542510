#include "indexd/tree/acl.h"

#include "indexd/tree/permissions.h"
#include "tests/unit/indexd/tree/tree_test.h"

namespace reelfs::indexd::tree {
namespace {

using namespace std::string_literals;
using Tag = Acl::Tag;

constexpr std::uint32_t kNobody = 0xffffffff;

Acl acl_of(std::uint16_t owner, std::uint16_t named, std::uint16_t group, std::uint16_t mask,
           std::uint16_t other) {
  return {{{Tag::user_obj, owner, kNobody},
           {Tag::user, named, 1000},
           {Tag::group_obj, group, kNobody},
           {Tag::mask, mask, kNobody},
           {Tag::other, other, kNobody}}};
}

TEST(Acl, HasTheKernelsForm) {
  const auto acl = acl_of(7, 5, 4, 5, 0);
  const auto bytes =
      "\2\0\0\0"
      "\1\0\7\0\xff\xff\xff\xff"
      "\2\0\5\0\xe8\3\0\0"
      "\4\0\4\0\xff\xff\xff\xff"
      "\x10\0\5\0\xff\xff\xff\xff"
      "\x20\0\0\0\xff\xff\xff\xff"s;
  EXPECT_EQ(encode_acl(acl), bytes);
  EXPECT_EQ(decode_acl(bytes).value(), acl);
  for (std::size_t size = 0; size < bytes.size(); ++size) EXPECT_FALSE(decode_acl(bytes.substr(0, size)));
}

TEST(Acl, WhatContradictsItselfIsRefused) {
  const auto refused = [](const Acl& acl) { return code(decode_acl(encode_acl(acl))); };
  auto unmasked = acl_of(7, 5, 4, 5, 0);
  unmasked.entries.erase(unmasked.entries.begin() + 3);
  EXPECT_EQ(refused(unmasked), Errc::invalid) << "somebody is named and there is no mask";
  auto twice = acl_of(7, 5, 4, 5, 0);
  twice.entries.push_back(twice.entries.back());
  EXPECT_EQ(refused(twice), Errc::invalid);
  auto disordered = acl_of(7, 5, 4, 5, 0);
  std::swap(disordered.entries[0], disordered.entries[4]);
  EXPECT_EQ(refused(disordered), Errc::invalid);
  EXPECT_EQ(refused(acl_of(8, 5, 4, 5, 0)), Errc::invalid) << "no such permission";
  auto unnamed = acl_of(7, 5, 4, 5, 0);
  unnamed.entries[1].id = kNobody;
  EXPECT_EQ(refused(unnamed), Errc::invalid);
  EXPECT_EQ(code(decode_acl("\1\0\0\0"s)), Errc::unsupported);
  EXPECT_EQ(code(decode_acl("\2\0\0\0\3\0\0\0\0\0\0\0"s)), Errc::invalid) << "no such tag";
}

class AclTest : public TreeTest {
 protected:
  Result<void> put_acl(InodeId inode, std::string_view name, const Acl& acl, bool clear_sgid = false) {
    SetXattrParams params;
    params.inode = inode;
    params.name = name;
    params.value = encode_acl(acl);
    params.clear_sgid = clear_sgid;
    return run([&] { return set_xattr(*txn_, params, now_); });
  }
  std::optional<Acl> acl(InodeId inode, std::string_view name = kAccessAcl) {
    const auto bytes = get_xattr(*txn_, inode, std::string(name));
    if (!bytes) return std::nullopt;
    return decode_acl(bytes.value()).value();
  }
  Inode make_masked(InodeId parent, const std::string& name, std::uint32_t mode, std::uint32_t umask) {
    CreateParams params;
    params.parent = parent;
    params.name = name;
    params.mode = mode;
    params.umask = umask;
    return run([&] { return create(*txn_, params, now_); }).value();
  }
  std::uint32_t permissions(InodeId inode) { return row(inode).mode & 07777U; }
};

TEST_F(AclTest, ThePermissionBitsFollowTheList) {
  const auto file = make(cam1_, "f", S_IFREG | 02604);
  const auto version = row(file).version;
  ASSERT_TRUE(put_acl(file, kAccessAcl, acl_of(7, 5, 4, 6, 1)));
  EXPECT_EQ(permissions(file), 02761U);
  EXPECT_EQ(row(file).ctime_ns, now_);
  EXPECT_GT(row(file).version, version);
  EXPECT_EQ(row(file).flags, kInodeHasAccessAcl);
  EXPECT_EQ(list_xattr(*txn_, file).value(), std::vector<std::string>{std::string(kAccessAcl)});
  ASSERT_TRUE(put_acl(file, kAccessAcl, acl_of(7, 5, 4, 6, 1), true));
  EXPECT_EQ(permissions(file), 0761U) << "set by one who is not of its group";
}

TEST_F(AclTest, TheListFollowsChmod) {
  const auto file = make(cam1_, "f");
  ASSERT_TRUE(put_acl(file, kAccessAcl, acl_of(7, 5, 4, 6, 1)));
  SetAttributesParams params;
  params.inode = file;
  params.mode = 04640;
  ASSERT_TRUE(set(params));
  EXPECT_EQ(acl(file), acl_of(6, 5, 4, 4, 0)) << "the group's bits are the mask";
  EXPECT_EQ(permissions(file), 04640U);
}

TEST_F(AclTest, AListThatSaysNoMoreThanBitsIsKeptAsBits) {
  const auto file = make(cam1_, "f");
  ASSERT_TRUE(put_acl(file, kAccessAcl, acl_of(7, 5, 4, 6, 1)));
  const Acl plain{{{Tag::user_obj, 6, kNobody}, {Tag::group_obj, 4, kNobody}, {Tag::other, 4, kNobody}}};
  ASSERT_TRUE(put_acl(file, kAccessAcl, plain));
  EXPECT_FALSE(acl(file));
  EXPECT_EQ(permissions(file), 0644U);
  EXPECT_EQ(row(file).flags, 0U);
}

TEST_F(AclTest, RemovingLeavesTheBits) {
  const auto file = make(cam1_, "f");
  ASSERT_TRUE(put_acl(file, kAccessAcl, acl_of(7, 5, 4, 6, 1)));
  const auto remove = [&](std::string_view name) {
    return run([&] { return remove_xattr(*txn_, file, std::string(name), now_); });
  };
  ASSERT_TRUE(remove(kAccessAcl));
  EXPECT_FALSE(acl(file));
  EXPECT_EQ(permissions(file), 0761U);
  EXPECT_TRUE(remove(kAccessAcl)) << "is not there already";
  EXPECT_TRUE(remove(kDefaultAcl));
}

TEST_F(AclTest, ADefaultListIsInheritedAndTheUmaskIsNotAsked) {
  const auto directory = make(cam1_, "d", S_IFDIR | 0755);
  ASSERT_TRUE(put_acl(directory, kDefaultAcl, acl_of(7, 7, 5, 7, 0)));
  EXPECT_EQ(row(directory).flags, kInodeHasDefaultAcl);
  EXPECT_EQ(permissions(directory), 0755U);
  const auto file = make_masked(directory, "f", S_IFREG | 0664, 077).id;
  EXPECT_EQ(acl(file), acl_of(6, 7, 5, 6, 0));
  EXPECT_EQ(permissions(file), 0660U);
  EXPECT_FALSE(acl(file, kDefaultAcl));
  const auto below = make_masked(directory, "below", S_IFDIR | 0777, 077).id;
  EXPECT_EQ(acl(below), acl_of(7, 7, 5, 7, 0));
  EXPECT_EQ(acl(below, kDefaultAcl), acl_of(7, 7, 5, 7, 0));
  EXPECT_EQ(row(make(directory, "link", S_IFLNK | 0777)).flags, 0U);
  const Acl plain{{{Tag::user_obj, 7, kNobody}, {Tag::group_obj, 5, kNobody}, {Tag::other, 5, kNobody}}};
  ASSERT_TRUE(put_acl(directory, kDefaultAcl, plain));
  const auto simple = make_masked(directory, "simple", S_IFREG | 0666, 077).id;
  EXPECT_EQ(permissions(simple), 0644U);
  EXPECT_EQ(row(simple).flags, 0U);
}

TEST_F(AclTest, WithoutADefaultListTheUmaskHolds) {
  EXPECT_EQ(make_masked(cam1_, "f", S_IFREG | 04666, 027).row.mode, S_IFREG | 04640U);
  EXPECT_EQ(make_masked(cam1_, "d", S_IFDIR | 0777, 022).row.mode, S_IFDIR | 0755U);
}

TEST_F(AclTest, ListsAreOfWhatHasPermissionsToHandDown) {
  const auto file = make(cam1_, "f");
  EXPECT_EQ(code(put_acl(file, kDefaultAcl, acl_of(7, 7, 5, 7, 0))), Errc::access_denied);
  EXPECT_EQ(code(put_acl(make(cam1_, "l", S_IFLNK | 0777), kAccessAcl, acl_of(7, 7, 5, 7, 0))),
            Errc::unsupported);
  EXPECT_EQ(code(get_xattr(*txn_, file, std::string(kAccessAcl))), Errc::no_attribute);
}

TEST_F(AclTest, AListGoesWithItsFile) {
  const auto file = make(cam1_, "f");
  ASSERT_TRUE(put_acl(file, kAccessAcl, acl_of(7, 5, 4, 6, 1)));
  ASSERT_TRUE(remove(cam1_, "f"));
  ASSERT_TRUE(reap_orphan(*txn_, file, 1).value().done);
  EXPECT_FALSE(txn_->has(XattrKey{file, std::string(kAccessAcl)}).value());
}

}  // namespace
}  // namespace reelfs::indexd::tree
