"""Access control lists, set-group-id and extended attributes on the real mount."""
import errno
import os
import re
import signal
import stat
import struct
import unittest
import urllib.request

from harness import BoxTest, is_gone, run, until

ACCESS, DEFAULT = "system.posix_acl_access", "system.posix_acl_default"
OWNER, USER, GROUP_OBJ, GROUP, MASK, OTHER = 1, 2, 4, 8, 16, 32
NO_ID = 0xFFFFFFFF


def acl(*entries):
    """An access control list as the kernel has it, from (tag, permissions[, id])."""
    return struct.pack("<I", 2) + b"".join(
        struct.pack("<HHI", entry[0], entry[1], entry[2] if len(entry) > 2 else NO_ID) for entry in entries)


def as_user(uid, *command, gid=65534, groups=(), **options):
    return run("setpriv", "--reuid", uid, "--regid", gid, *(("--groups", ",".join(map(str, groups))) if groups else
                                                            ("--clear-groups",)), *command, **options)


class Lists(BoxTest):
    def setUp(self):
        super().setUp()
        os.chmod(self.box.base, 0o755)
        self.path = self.channel / "file"
        self.path.write_bytes(b"secret")
        os.chmod(self.path, 0o640)

    def mode(self, path=None):
        return stat.S_IMODE((path or self.path).stat().st_mode)

    def getfacl(self, path):
        return [line for line in run("getfacl", "-cpn", path).stdout.splitlines() if line]

    def fails_with(self, number, call, *arguments, **named):
        with self.assertRaises(OSError) as failed:
            call(*arguments, **named)
        self.assertEqual(failed.exception.errno, number, failed.exception)

    def test_the_kernel_checks_by_the_list(self):
        self.assertNotEqual(as_user(1000, "cat", self.path, check=False).returncode, 0)
        run("setfacl", "-m", "u:1000:r", self.path)
        self.assertEqual(as_user(1000, "cat", self.path).stdout, "secret")
        self.assertNotEqual(as_user(1001, "cat", self.path, check=False).returncode, 0)
        self.assertNotEqual(as_user(1000, "sh", "-c", f"echo x >> {self.path}", check=False).returncode, 0)
        run("setfacl", "-m", "g:77:rw", self.path)
        as_user(1001, "sh", "-c", f"cat {self.path} >> {self.path}", gid=65534, groups=(77,), check=False)
        as_user(1001, "sh", "-c", f"echo -n x >> {self.path}", groups=(77,))
        run("setfacl", "-m", "m::r", self.path)
        self.assertNotEqual(as_user(1001, "sh", "-c", f"echo x >> {self.path}", groups=(77,), check=False).returncode, 0)
        run("setfacl", "-b", self.path)
        self.assertNotEqual(as_user(1000, "cat", self.path, check=False).returncode, 0)

    def test_the_list_of_a_directory_on_the_way_counts(self):
        (self.channel / "dir").mkdir(mode=0o750)
        (self.channel / "dir/file").write_bytes(b"below")
        self.assertNotEqual(as_user(1000, "cat", self.channel / "dir/file", check=False).returncode, 0)
        run("setfacl", "-m", "u:1000:x", self.channel / "dir")
        self.assertEqual(as_user(1000, "cat", self.channel / "dir/file").stdout, "below")
        run("setfacl", "-x", "u:1000", self.channel / "dir")
        self.assertNotEqual(as_user(1000, "cat", self.channel / "dir/file", check=False).returncode, 0)

    def test_permission_bits_and_list_say_the_same(self):
        run("setfacl", "-m", "u:1000:rwx", self.path)
        self.assertEqual(self.mode(), 0o670, "the group's bits are the mask")
        os.chmod(self.path, 0o704)
        self.assertEqual(self.getfacl(self.path),
                         ["user::rwx", "user:1000:rwx\t#effective:---", "group::r--\t#effective:---", "mask::---",
                          "other::r--"])
        run("setfacl", "-b", self.path)
        self.assertEqual(self.mode(), 0o704, "setfacl gives the owning group what the mask left it")
        self.assertEqual(os.listxattr(self.path), [])
        ctime = self.path.stat().st_ctime_ns
        os.setxattr(self.path, ACCESS, acl((OWNER, 6), (GROUP_OBJ, 4), (OTHER, 0)))
        self.assertEqual(self.mode(), 0o640)
        self.assertEqual(os.listxattr(self.path), [], "it says no more than the bits do")
        self.assertGreater(self.path.stat().st_ctime_ns, ctime)

    def test_what_is_made_in_a_directory_inherits_its_default_list(self):
        run("setfacl", "-d", "-m", "u::rwx,u:1000:rwx,g::rx,o::-", self.channel)
        old = os.umask(0o077)
        try:
            os.close(os.open(self.channel / "new", os.O_CREAT | os.O_WRONLY, 0o666))
            (self.channel / "sub").mkdir()
            os.mkfifo(self.channel / "fifo", 0o620)
        finally:
            os.umask(old)
        self.assertEqual(self.mode(self.channel / "new"), 0o660, "the umask is not asked")
        self.assertEqual(self.getfacl(self.channel / "new"),
                         ["user::rw-", "user:1000:rwx\t#effective:rw-", "group::r-x\t#effective:r--", "mask::rw-",
                          "other::---"])
        self.assertIn("default:user:1000:rwx", self.getfacl(self.channel / "sub"))
        self.assertIn("user:1000:rwx", self.getfacl(self.channel / "sub"))
        self.assertEqual(self.mode(self.channel / "fifo"), 0o620)
        os.symlink("new", self.channel / "link")
        self.fails_with(errno.EOPNOTSUPP, os.getxattr, self.channel / "link", ACCESS, follow_symlinks=False)
        run("setfacl", "-k", self.channel)
        self.fails_with(errno.ENODATA, os.getxattr, self.channel, DEFAULT)

    def test_without_a_default_list_the_umask_holds(self):
        old = os.umask(0o026)
        try:
            os.close(os.open(self.channel / "file2", os.O_CREAT | os.O_WRONLY, 0o666))
            (self.channel / "dir2").mkdir()
            os.mkfifo(self.channel / "fifo2")
        finally:
            os.umask(old)
        self.assertEqual([self.mode(self.channel / name) for name in ("file2", "dir2", "fifo2")], [0o640, 0o751, 0o640])

    def test_lists_that_cannot_be_are_refused(self):
        self.fails_with(errno.EACCES, os.setxattr, self.path, DEFAULT, acl((OWNER, 6), (GROUP_OBJ, 4), (OTHER, 0)))
        self.fails_with(errno.EINVAL, os.setxattr, self.path, ACCESS, acl((OWNER, 6), (USER, 6, 7), (GROUP_OBJ, 4), (OTHER, 0)))
        self.fails_with(errno.EINVAL, os.setxattr, self.path, ACCESS, b"\2\0\0\0\1")
        self.fails_with(errno.ENODATA, os.getxattr, self.path, ACCESS)
        self.fails_with(errno.ENODATA, os.getxattr, self.path, DEFAULT)
        os.removexattr(self.path, ACCESS)
        self.assertNotEqual(as_user(1000, "setfacl", "-m", "u:1000:rw", self.path, check=False).returncode, 0)

    def test_set_group_id_goes_when_one_who_is_not_of_the_group_sets_a_list(self):
        os.chown(self.path, 1000, 77)
        os.chmod(self.path, 0o2755)
        as_user(1000, "setfacl", "-m", "u:5:r", self.path, groups=(77,))
        self.assertEqual(self.mode(), 0o2755)
        as_user(1000, "setfacl", "-m", "u:6:r", self.path, groups=(78,))
        self.assertEqual(self.mode(), 0o755)
        os.chmod(self.path, 0o2755)
        run("setfacl", "-m", "u:7:r", self.path)
        self.assertEqual(self.mode(), 0o2755, "root may")

    def test_another_mount_sees_the_list_at_once(self):
        other = self.box.another_mount()
        there = other / self.channel.name / "file"
        self.assertNotEqual(as_user(1000, "cat", there, check=False).returncode, 0)
        run("setfacl", "-m", "u:1000:r", self.path)
        self.assertEqual(as_user(1000, "cat", there).stdout, "secret")
        run("setfacl", "-x", "u:1000", there)
        self.assertNotEqual(as_user(1000, "cat", self.path, check=False).returncode, 0)
        other.unmount()

    def test_tools_carry_lists_along(self):
        tree = self.channel / "tree"
        (tree / "a/b").mkdir(parents=True)
        (tree / "a/b/file").write_bytes(b"x")
        run("setfacl", "-R", "-m", "u:1000:rX,g:77:rwX", tree)
        run("setfacl", "-R", "-d", "-m", "u:1000:rwX", tree)
        local = self.local()
        listing = "cd $1 && getfacl -Rn . && find . | sort | xargs stat -c '%n %a %u %g'"
        shown = run("sh", "-ec", listing, "-", tree).stdout
        self.assertIn("default:user:1000:rwx", shown)
        run("cp", "-a", tree, local / "cp")
        run("cp", "-a", local / "cp", self.channel / "cp")
        run("rsync", "-aAX", f"{tree}/", self.channel / "rsync")
        run("tar", "--acls", "-C", tree, "-cf", local / "all.tar", ".")
        (self.channel / "tar").mkdir()
        run("tar", "--acls", "-C", self.channel / "tar", "-xpf", local / "all.tar")
        run("sh", "-ec", "cd $1 && getfacl -R . > $2/saved", "-", tree, local)
        run("cp", "-r", "--no-preserve=mode", tree, self.channel / "restored")
        run("setfacl", "--restore", local / "saved", cwd=self.channel / "restored")
        for copy in (local / "cp", self.channel / "cp", self.channel / "rsync", self.channel / "tar",
                     self.channel / "restored"):
            with self.subTest(copy=copy.name):
                self.assertEqual(run("sh", "-ec", listing, "-", copy).stdout, shown)
        self.assertEqual(run("rsync", "-aAXni", f"{tree}/", f"{self.channel}/rsync/").stdout, "")

    def test_files_without_lists_cost_the_index_nothing(self):
        directory = self.channel
        for name in "abcdefgh":
            directory = directory / name
            directory.mkdir()
        (directory / "file").write_bytes(b"deep")
        run("cat", directory / "file")
        self.tell_metrics()
        before = self.calls("get_xattr", "get_attributes")
        as_user(1000, "sh", "-ec", f"for i in $(seq 50); do stat {directory}/file; done >/dev/null")
        # Leases end, and without one an absence is believed for 100 ms.
        self.assertLess(self.calls("get_xattr", "get_attributes") - before, 40, "of 450 lists")

    def tell_metrics(self):
        config = self.box.directory / "index1.toml"
        config.write_text(config.read_text() + 'metrics_listen = "127.0.0.1:0"\n')
        pid = self.box.processes()["index1"]["pid"]
        os.kill(pid, signal.SIGTERM)
        until(lambda: is_gone(pid), "the index server ends")
        self.box.start("index1")
        self.channel.stat()

    def calls(self, *methods):
        """How often the index server was asked for these."""
        log = (self.box.directory / "log/index1.log").read_text()
        port = re.findall(r"metrics host=\S+ port=(\d+)", log)[-1]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith("reelfs_indexd_request_seconds_count")
                   and any(f'"{method}"' in line for method in methods))


class Attributes(BoxTest):
    def setUp(self):
        super().setUp()
        os.chmod(self.box.base, 0o755)
        self.path = self.channel / "file"
        self.path.touch()

    fails_with = Lists.fails_with

    def test_namespaces(self):
        for name in ("user.a", "trusted.a", "security.a"):
            os.setxattr(self.path, name, b"value")
            self.assertEqual(os.getxattr(self.path, name), b"value")
        os.chmod(self.path, 0o644)
        self.assertEqual(as_user(1000, "getfattr", "-h", "--absolute-names", "-m", "-", self.path).stdout.split()[3:],
                         ["security.a", "user.a"], "trusted is root's")
        for name in ("system.a", "other.a", "a", "user."):
            self.fails_with(errno.EINVAL if name == "user." else errno.EOPNOTSUPP, os.setxattr, self.path, name, b"")
        os.symlink("file", self.channel / "link")
        os.mkfifo(self.channel / "fifo")
        for name in ("link", "fifo"):
            self.fails_with(errno.EPERM, os.setxattr, self.channel / name, "user.a", b"", follow_symlinks=False)
            os.setxattr(self.channel / name, "trusted.a", b"v", follow_symlinks=False)
            self.assertEqual(os.listxattr(self.channel / name, follow_symlinks=False), ["trusted.a"])

    def test_sizes(self):
        os.setxattr(self.path, "user.large", b"v" * 65536)
        self.fails_with(errno.E2BIG, os.setxattr, self.path, "user.larger", b"v" * 65537)
        os.setxattr(self.path, "user." + "n" * 250, b"")
        self.fails_with(errno.ERANGE, os.setxattr, self.path, "user." + "n" * 251, b"")
        for number in range(300):
            try:
                os.setxattr(self.path, f"user.{number:0250}", b"")
            except OSError as error:
                self.assertEqual(error.errno, errno.ENOSPC)
                break
        self.assertGreater(len(os.listxattr(self.path)), 200, "what was accepted can be listed")

    def test_flags_and_absence(self):
        self.fails_with(errno.ENODATA, os.setxattr, self.path, "user.a", b"", os.XATTR_REPLACE)
        os.setxattr(self.path, "user.a", b"1", os.XATTR_CREATE)
        self.fails_with(errno.EEXIST, os.setxattr, self.path, "user.a", b"", os.XATTR_CREATE)
        self.fails_with(errno.EEXIST, os.setxattr, self.path, "user.a", b"", os.XATTR_CREATE | os.XATTR_REPLACE)
        self.fails_with(errno.ENODATA, os.removexattr, self.path, "user.b")

    def rename_and_back(self):
        os.rename(self.path, self.channel / "other")
        os.rename(self.channel / "other", self.path)

    def test_every_change_moves_the_ctime(self):
        for change in (lambda: os.setxattr(self.path, "user.a", b"1"), lambda: os.setxattr(self.path, "user.a", b"1"),
                       lambda: os.removexattr(self.path, "user.a"), lambda: os.chmod(self.path, 0o644),
                       lambda: os.chmod(self.path, 0o644), lambda: os.chown(self.path, 0, -1),
                       lambda: os.link(self.path, self.channel / "second"), lambda: os.unlink(self.channel / "second"),
                       self.rename_and_back, lambda: os.truncate(self.path, 0)):
            before = self.path.stat()
            change()
            after = self.path.stat()
            self.assertGreater(after.st_ctime_ns, before.st_ctime_ns)
        os.chown(self.path, -1, -1)
        self.assertEqual(self.path.stat().st_ctime_ns, after.st_ctime_ns, "nothing was changed")

    def test_a_write_drops_capabilities(self):
        capability = struct.pack("<IIIII", 0x02000001, 0x400, 0, 0, 0)
        os.chmod(self.channel, 0o777)
        os.chmod(self.path, 0o666)
        os.setxattr(self.path, "security.capability", capability)
        as_user(1000, "sh", "-c", f"echo x >> {self.path}")
        self.fails_with(errno.ENODATA, os.getxattr, self.path, "security.capability")


if __name__ == "__main__":
    unittest.main()
