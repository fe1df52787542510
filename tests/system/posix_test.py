"""What a program may expect of a filesystem, on the real mount. Each case is checked on the local disk's rules, too."""
import ctypes
import errno
import fcntl
import mmap
import os
import random
import shutil
import socket
import stat
import tempfile
import unittest
import pathlib

import harness

LIBC = ctypes.CDLL(None, use_errno=True)
AT_FDCWD = -100
RENAME_NOREPLACE, RENAME_EXCHANGE = 1, 2
FALLOC_KEEP_SIZE, FALLOC_PUNCH_HOLE = 1, 2


def renameat2(old, new, flags):
    if LIBC.renameat2(AT_FDCWD, os.fsencode(old), AT_FDCWD, os.fsencode(new), flags) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(old))


def fallocate(fd, mode, offset, length):
    if LIBC.fallocate(fd, mode, ctypes.c_long(offset), ctypes.c_long(length)) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


class Posix(harness.BoxTest):
    def fails(self, number, action, *words):
        with self.assertRaises(OSError) as caught:
            action(*words)
        self.assertEqual(errno.errorcode[caught.exception.errno], errno.errorcode[number])

    def test_writes_at_any_offset_read_back(self):
        path = self.channel / "f"
        with open(path, "wb") as file:
            os.pwrite(file.fileno(), b"tail", 5_000_000)
            os.pwrite(file.fileno(), b"head", 0)
            os.pwrite(file.fileno(), b"X", 5_000_001)
            self.assertEqual(os.fstat(file.fileno()).st_size, 5_000_004)
        self.assertEqual(path.stat().st_size, 5_000_004)
        with open(path, "rb") as file:
            self.assertEqual(file.read(8), b"head\0\0\0\0")
            self.assertEqual(os.pread(file.fileno(), 100, 4_999_998), b"\0\0tXil")

    def test_reads_its_own_unflushed_writes(self):
        fd = os.open(self.channel / "f", os.O_RDWR | os.O_CREAT)
        body = os.urandom(3_000_000)
        os.write(fd, body)
        os.pwrite(fd, b"patched", 1_000_000)
        want = body[:1_000_000] + b"patched" + body[1_000_007:]
        self.assertEqual(os.pread(fd, len(want) + 1, 0), want)
        os.close(fd)
        self.assertEqual((self.channel / "f").read_bytes(), want)

    def test_truncate_cuts_and_grows_with_zeros(self):
        path = self.channel / "f"
        path.write_bytes(b"0123456789" * 1000)
        os.truncate(path, 5)
        self.assertEqual(path.read_bytes(), b"01234")
        os.truncate(path, 10)
        self.assertEqual(path.read_bytes(), b"01234\0\0\0\0\0")
        with open(path, "r+b") as file:
            file.write(b"abc")
            file.truncate(2)
            file.seek(4)
            file.write(b"z")
        self.assertEqual(path.read_bytes(), b"ab\0\0z")

    def test_append_truncate_and_exclusive_flags(self):
        path = self.channel / "f"
        path.write_bytes(b"one")
        fd = os.open(path, os.O_WRONLY | os.O_APPEND)
        os.write(fd, b"two")
        os.close(fd)
        self.assertEqual(path.read_bytes(), b"onetwo")
        self.fails(errno.EEXIST, os.open, path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        os.close(os.open(path, os.O_WRONLY | os.O_TRUNC))
        self.assertEqual(path.read_bytes(), b"")

    def test_fallocate_and_punch_hole(self):
        path = self.channel / "f"
        path.write_bytes(b"x" * 307_200)
        fd = os.open(path, os.O_RDWR)
        try:
            fallocate(fd, FALLOC_PUNCH_HOLE | FALLOC_KEEP_SIZE, 102_400, 102_400)
            self.assertEqual(os.pread(fd, 307_200, 0), b"x" * 102_400 + bytes(102_400) + b"x" * 102_400)
            self.assertEqual(os.lseek(fd, 0, os.SEEK_HOLE), 102_400)
            self.assertEqual(os.lseek(fd, 102_400, os.SEEK_DATA), 204_800)
            self.assertEqual(os.lseek(fd, 204_800, os.SEEK_HOLE), 307_200)
            self.fails(errno.ENXIO, os.lseek, fd, 307_200, os.SEEK_DATA)
            fallocate(fd, FALLOC_KEEP_SIZE, 0, 1_000_000)
            self.assertEqual(os.fstat(fd).st_size, 307_200)
            fallocate(fd, 0, 0, 1_000_000)
            self.assertEqual(os.fstat(fd).st_size, 1_000_000)
        finally:
            os.close(fd)

    def test_shared_mapping_writes_through(self):
        path = self.channel / "f"
        path.write_bytes(bytes(65536))
        with open(path, "r+b") as file, mmap.mmap(file.fileno(), 65536) as view:
            view[10:15] = b"hello"
            view.flush()
            self.assertEqual(os.pread(file.fileno(), 5, 10), b"hello")
        self.assertEqual(path.read_bytes()[8:17], b"\0\0hello\0\0")

    def test_deleted_but_open_file_lives_on(self):
        path = self.channel / "f"
        fd = os.open(path, os.O_RDWR | os.O_CREAT)
        os.write(fd, b"before")
        os.unlink(path)
        self.assertFalse(path.exists())
        os.write(fd, b" after")
        os.fsync(fd)
        self.assertEqual(os.pread(fd, 100, 0), b"before after")
        self.assertEqual(os.fstat(fd).st_nlink, 0)
        os.close(fd)

    def test_rename_over_an_open_file(self):
        old, new = self.channel / "old", self.channel / "new"
        old.write_bytes(b"old")
        new.write_bytes(b"new")
        with open(old, "rb") as reader:
            os.rename(new, old)
            self.assertEqual(reader.read(), b"old")
        self.assertEqual(old.read_bytes(), b"new")
        self.assertFalse(new.exists())

    def test_rename_flags(self):
        a, b = self.channel / "a", self.channel / "b"
        a.write_bytes(b"a")
        b.write_bytes(b"b")
        self.fails(errno.EEXIST, renameat2, a, b, RENAME_NOREPLACE)
        renameat2(a, b, RENAME_EXCHANGE)
        self.assertEqual((a.read_bytes(), b.read_bytes()), (b"b", b"a"))
        renameat2(a, self.channel / "c", RENAME_NOREPLACE)
        self.assertEqual(sorted(os.listdir(self.channel)), ["b", "c"])
        self.fails(errno.ENOENT, renameat2, self.channel / "c", self.channel / "none", RENAME_EXCHANGE)

    def test_directories(self):
        tree = self.channel / "d"
        tree.mkdir()
        self.assertEqual(tree.stat().st_nlink, 2)
        (tree / "sub").mkdir()
        self.assertEqual(tree.stat().st_nlink, 3)
        self.fails(errno.ENOTEMPTY, os.rmdir, tree)
        self.fails(errno.EEXIST, os.mkdir, tree)
        self.fails(errno.EINVAL, os.rename, tree, tree / "sub" / "loop")
        (tree / "file").write_bytes(b"")
        self.fails(errno.EISDIR, os.rename, tree / "file", tree / "sub")
        self.fails(errno.ENOTDIR, os.rename, tree / "sub", tree / "file")
        self.fails(errno.ENOTDIR, os.rmdir, tree / "file")
        self.fails(errno.EISDIR, os.unlink, tree / "sub")
        self.fails(errno.ENOTDIR, os.stat, tree / "file" / "x")
        os.rmdir(tree / "sub")
        self.assertEqual(tree.stat().st_nlink, 2)
        self.fails(errno.ENAMETOOLONG, os.mkdir, tree / ("n" * 256))
        os.mkdir(tree / ("n" * 255))

    def test_a_directory_of_5000_names_is_listed_once_each(self):
        names = {f"clip-{n:05}" for n in range(5000)}
        for name in names:
            os.close(os.open(self.channel / name, os.O_CREAT | os.O_WRONLY))
        listed = [entry.name for entry in os.scandir(self.channel)]
        self.assertEqual(len(listed), len(names))
        self.assertEqual(set(listed), names)
        seen = []
        with os.scandir(self.channel) as entries:
            for entry in entries:
                os.unlink(entry.path)
                seen.append(entry.name)
        self.assertEqual(set(seen), names)
        self.assertEqual(os.listdir(self.channel), [])

    def test_links(self):
        path = self.channel / "f"
        path.write_bytes(b"x")
        os.link(path, self.channel / "hard")
        self.assertEqual(path.stat().st_nlink, 2)
        self.assertEqual(path.stat().st_ino, (self.channel / "hard").stat().st_ino)
        os.unlink(path)
        self.assertEqual((self.channel / "hard").stat().st_nlink, 1)
        os.symlink("hard", self.channel / "soft")
        self.assertEqual(os.readlink(self.channel / "soft"), "hard")
        self.assertEqual((self.channel / "soft").read_bytes(), b"x")
        self.assertEqual(os.lstat(self.channel / "soft").st_size, 4)
        self.fails(errno.EPERM, os.link, self.channel, self.channel / "dirlink")

    def test_special_files(self):
        os.mkfifo(self.channel / "fifo", 0o640)
        self.assertTrue(stat.S_ISFIFO(os.lstat(self.channel / "fifo").st_mode))
        with socket.socket(socket.AF_UNIX) as server:
            folder = os.open(self.channel, os.O_RDONLY)
            server.bind(f"/proc/self/fd/{folder}/socket")
            os.close(folder)
        self.assertTrue(stat.S_ISSOCK(os.lstat(self.channel / "socket").st_mode))
        os.mknod(self.channel / "null", stat.S_IFCHR | 0o600, os.makedev(1, 3))
        self.assertEqual(os.lstat(self.channel / "null").st_rdev, os.makedev(1, 3))

    def test_modes_owners_and_times(self):
        path = self.channel / "f"
        path.write_bytes(b"x")
        before = path.stat().st_ctime_ns
        os.chmod(path, 0o4751)
        self.assertEqual(stat.S_IMODE(path.stat().st_mode), 0o4751)
        os.chown(path, 1234, 5678)
        self.assertEqual((path.stat().st_uid, path.stat().st_gid), (1234, 5678))
        os.utime(path, ns=(1_234_567_890_123_456_789, 987_654_321_987_654_321))
        self.assertEqual(path.stat().st_atime_ns, 1_234_567_890_123_456_789)
        self.assertEqual(path.stat().st_mtime_ns, 987_654_321_987_654_321)
        self.assertGreater(path.stat().st_ctime_ns, before)

    def test_explicit_times_survive_close_of_the_writer(self):
        path = self.channel / "f"
        fd = os.open(path, os.O_WRONLY | os.O_CREAT)
        os.write(fd, b"x" * 100_000)
        os.utime(fd, ns=(5_000_000_000, 6_000_000_007))
        os.close(fd)
        self.assertEqual(path.stat().st_mtime_ns, 6_000_000_007)

    def test_extended_attributes(self):
        path = self.channel / "f"
        path.write_bytes(b"x")
        self.fails(errno.ENODATA, os.getxattr, path, "user.none")
        os.setxattr(path, "user.case", b"4711")
        self.fails(errno.EEXIST, os.setxattr, path, "user.case", b"1", os.XATTR_CREATE)
        self.fails(errno.ENODATA, os.setxattr, path, "user.other", b"1", os.XATTR_REPLACE)
        os.setxattr(path, "user.empty", b"")
        self.assertEqual(os.getxattr(path, "user.case"), b"4711")
        self.assertEqual(os.getxattr(path, "user.empty"), b"")
        self.assertEqual(sorted(os.listxattr(path)), ["user.case", "user.empty"])
        os.removexattr(path, "user.case")
        self.fails(errno.ENODATA, os.removexattr, path, "user.case")

    def test_the_root_holds_channels_only(self):
        self.fails(errno.EPERM, os.open, self.box.mount / "stray", os.O_CREAT | os.O_WRONLY)
        self.fails(errno.EPERM, os.symlink, "x", self.box.mount / "stray")
        self.assertFalse((self.box.mount / "stray").exists())

    def test_nothing_moves_between_channels_but_by_copying(self):
        other = self.box.mount / "other-channel"
        other.mkdir()
        (self.channel / "f").write_bytes(b"x")
        self.fails(errno.EXDEV, os.rename, self.channel / "f", other / "f")
        self.fails(errno.EXDEV, os.link, self.channel / "f", other / "f")
        harness.run("mv", self.channel / "f", other / "f")
        self.assertEqual((other / "f").read_bytes(), b"x")

    def test_statfs_counts_the_devices_net_of_copies(self):
        space = os.statvfs(self.channel)
        self.assertEqual(space.f_namemax, 255)
        total = space.f_blocks * space.f_frsize
        self.assertGreater(total, 1 << 30)
        self.assertLess(total, 2.1 * (1 << 30))
        self.assertLessEqual(space.f_bavail, space.f_blocks)

    def test_fsync_of_files_and_directories(self):
        fd = os.open(self.channel / "f", os.O_WRONLY | os.O_CREAT)
        os.write(fd, b"x" * 10)
        os.fsync(fd)
        os.fdatasync(fd)
        os.close(fd)
        folder = os.open(self.channel, os.O_RDONLY | os.O_DIRECTORY)
        os.fsync(folder)
        os.close(folder)
        fd = os.open(self.channel / "s", os.O_WRONLY | os.O_CREAT | os.O_SYNC)
        os.write(fd, b"y" * 10)
        os.close(fd)
        harness.run("sync", "-f", self.channel)

    def test_local_locks_work(self):
        path = self.channel / "f"
        path.write_bytes(b"x")
        with open(path, "r+b") as one, open(path, "r+b") as two:
            fcntl.flock(one, fcntl.LOCK_EX)
            self.fails(errno.EAGAIN, fcntl.flock, two, fcntl.LOCK_EX | fcntl.LOCK_NB)


class Differential(harness.BoxTest):
    """Random operations on the mount and on a local directory: same results, errors and contents."""

    STEPS = int(os.environ.get("REELFS_STEPS", "4000"))
    SEED = int(os.environ.get("REELFS_SEED", "1"))

    def test_mount_behaves_as_the_local_disk(self):
        local = pathlib.Path(tempfile.mkdtemp(prefix="reelfs-local-", dir=self.base))
        self.addCleanup(shutil.rmtree, local, ignore_errors=True)
        rng = random.Random(self.SEED)
        for step in range(self.STEPS):
            operation = self.choose(rng)
            results = [self.carry_out(root, *operation) for root in (local, self.channel)]
            self.assertEqual(results[0], results[1], f"seed {self.SEED} step {step}: {operation}")
        self.assertEqual(self.picture(local), self.picture(self.channel), f"seed {self.SEED}")

    def choose(self, rng):
        def name():
            return "/".join(rng.choice("abcd") for _ in range(rng.choice([1, 1, 2, 2, 3])))

        kind = rng.choice(["write"] * 6 + ["read"] * 4 + ["truncate", "mkdir", "rmdir", "unlink", "rename", "rename", "link",
                                           "symlink", "stat", "stat", "list", "chmod", "punch", "append"])
        return (kind, name(), name(), rng.randrange(0, 400_000), rng.choice([1, 40, 4096, 70_000, 300_000]), rng.randrange(1 << 30))

    def carry_out(self, root, kind, one, two, offset, length, seed):
        a, b = root / one, root / two
        try:
            if kind == "write":
                fd = os.open(a, os.O_WRONLY | os.O_CREAT, 0o644)
                try:
                    return os.pwrite(fd, random.Random(seed).randbytes(length), offset)
                finally:
                    os.close(fd)
            if kind == "append":
                fd = os.open(a, os.O_WRONLY | os.O_APPEND)
                try:
                    return os.write(fd, random.Random(seed).randbytes(min(length, 5000)))
                finally:
                    os.close(fd)
            if kind == "read":
                with open(a, "rb") as file:
                    return os.pread(file.fileno(), length, offset)
            if kind == "truncate":
                return os.truncate(a, offset)
            if kind == "punch":
                fd = os.open(a, os.O_RDWR)
                try:
                    return fallocate(fd, FALLOC_PUNCH_HOLE | FALLOC_KEEP_SIZE, offset, length)
                finally:
                    os.close(fd)
            if kind == "mkdir":
                return os.mkdir(a)
            if kind == "rmdir":
                return os.rmdir(a)
            if kind == "unlink":
                return os.unlink(a)
            if kind == "rename":
                return os.rename(a, b)
            if kind == "link":
                return os.link(a, b, follow_symlinks=False)
            if kind == "symlink":
                return os.symlink(one, b)
            if kind == "chmod":
                return os.chmod(a, seed & 0o777 | 0o700)
            if kind == "list":
                return sorted(os.listdir(a))
            return self.facts(a)
        except OSError as error:
            return errno.errorcode[error.errno]

    def facts(self, path):
        info = os.lstat(path)
        size = 0 if stat.S_ISDIR(info.st_mode) else info.st_size
        return (stat.filemode(info.st_mode), size, info.st_nlink, info.st_uid, info.st_gid)

    def picture(self, root):
        found = {}
        for folder, _, _ in os.walk(root):
            for name in os.listdir(folder):
                path = pathlib.Path(folder, name)
                body = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else None
                found[str(path.relative_to(root))] = (self.facts(path), body)
        return found


if __name__ == "__main__":
    unittest.main()
