"""Random operations on the mount and on a local directory: the same results, errors and contents.

REELFS_SEED repeats a run, REELFS_STEPS makes it longer.
"""
import ctypes
import errno
import os
import pathlib
import random
import stat
import unittest

from harness import BoxTest

LIBC = ctypes.CDLL(None, use_errno=True)
STEPS = int(os.environ.get("REELFS_STEPS", "4000"))
SEED = int(os.environ.get("REELFS_SEED", random.SystemRandom().randrange(1 << 32)))
AT_FDCWD = -100
FALLOC_KEEP_SIZE, FALLOC_PUNCH_HOLE = 1, 2
RENAME_NOREPLACE, RENAME_EXCHANGE = 1, 2
KINDS = (["write"] * 8 + ["read"] * 5 + ["append"] * 2 + ["truncate"] * 2 + ["rename"] * 3 + ["stat"] * 2 +
         ["punch", "allocate", "mkdir", "mkdir", "rmdir", "unlink", "unlink", "exchange", "noreplace", "link", "symlink",
          "list", "chmod", "utime", "setxattr", "getxattr", "fsync", "rewrite"])


def libc(call, *arguments):
    if call(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


class Differential(BoxTest):
    box_settings = {"device_size": "2G"}

    def test_the_mount_behaves_as_the_local_disk(self):
        local = self.local()
        dice = random.Random(SEED)
        for step in range(STEPS):
            operation = self.choose(dice)
            results = [self.outcome(root, *operation) for root in (local, self.channel)]
            self.assertEqual(results[0], results[1], f"REELFS_SEED={SEED} step {step}: {operation}")
        want = self.picture(local)
        self.assertEqual(self.picture(self.channel), want, f"REELFS_SEED={SEED}")
        other = self.box.another_mount()
        self.assertEqual(self.picture(other / self.channel.name), want, f"REELFS_SEED={SEED}, on another mount")

    def choose(self, dice):
        def name():
            return "/".join(dice.choice("abcd") for _ in range(dice.choice([1, 1, 2, 2, 3])))

        return (dice.choice(KINDS), name(), name(), dice.randrange(0, 400_000),
                dice.choice([1, 40, 4096, 70_000, 300_000]), dice.randrange(1 << 30))

    def outcome(self, root, kind, one, two, offset, length, seed):
        try:
            return getattr(self, kind)(root / one, root / two, offset, length, seed)
        except OSError as failed:
            return errno.errorcode[failed.errno]

    @staticmethod
    def with_open(path, flags, action):
        fd = os.open(path, flags, 0o644)
        try:
            return action(fd)
        finally:
            os.close(fd)

    def write(self, a, _, offset, length, seed):
        return self.with_open(a, os.O_WRONLY | os.O_CREAT,
                              lambda fd: os.pwrite(fd, random.Random(seed).randbytes(length), offset))

    def append(self, a, _, _offset, length, seed):
        return self.with_open(a, os.O_WRONLY | os.O_APPEND,
                              lambda fd: os.write(fd, random.Random(seed).randbytes(min(length, 5000))))

    def rewrite(self, a, _, _offset, length, seed):
        return self.with_open(a, os.O_WRONLY | os.O_CREAT | os.O_TRUNC,
                              lambda fd: os.write(fd, random.Random(seed).randbytes(length)))

    def read(self, a, _, offset, length, _seed):
        return self.with_open(a, os.O_RDONLY, lambda fd: os.pread(fd, length, offset))

    def truncate(self, a, _, offset, _length, _seed):
        return os.truncate(a, offset)

    def punch(self, a, _, offset, length, _seed):
        return self.with_open(a, os.O_RDWR, lambda fd: libc(LIBC.fallocate, fd, FALLOC_PUNCH_HOLE | FALLOC_KEEP_SIZE,
                                                            ctypes.c_long(offset), ctypes.c_long(length)))

    def allocate(self, a, _, offset, length, seed):
        return self.with_open(a, os.O_RDWR, lambda fd: libc(LIBC.fallocate, fd, seed % 2 * FALLOC_KEEP_SIZE,
                                                            ctypes.c_long(offset), ctypes.c_long(length)))

    def fsync(self, a, _, _offset, _length, _seed):
        return self.with_open(a, os.O_RDONLY, os.fsync)

    def mkdir(self, a, *_):
        return os.mkdir(a)

    def rmdir(self, a, *_):
        return os.rmdir(a)

    def unlink(self, a, *_):
        return os.unlink(a)

    def rename(self, a, b, *_):
        return os.rename(a, b)

    def exchange(self, a, b, *_):
        return self.rename_with(a, b, RENAME_EXCHANGE)

    def noreplace(self, a, b, *_):
        return self.rename_with(a, b, RENAME_NOREPLACE)

    @staticmethod
    def rename_with(a, b, flags):
        return libc(LIBC.renameat2, AT_FDCWD, os.fsencode(a), AT_FDCWD, os.fsencode(b), flags)

    def link(self, a, b, *_):
        return os.link(a, b, follow_symlinks=False)

    def symlink(self, a, b, *_):
        return os.symlink(a.name, b)

    def chmod(self, a, _, _offset, _length, seed):
        return os.chmod(a, seed & 0o777 | 0o700)

    def utime(self, a, _, offset, length, seed):
        os.utime(a, ns=(seed, seed * 1_000_003 + offset), follow_symlinks=False)
        return os.lstat(a).st_mtime_ns

    def setxattr(self, a, _, offset, length, _seed):
        return os.setxattr(a, f"user.{offset % 3}", b"v" * min(length, 1000))

    def getxattr(self, a, _, offset, *_rest):
        return os.getxattr(a, f"user.{offset % 3}"), sorted(name for name in os.listxattr(a) if name.startswith("user."))

    def list(self, a, *_):
        return sorted(os.listdir(a))

    def stat(self, a, *_):
        told = os.lstat(a)
        size = 0 if stat.S_ISDIR(told.st_mode) else told.st_size
        return stat.filemode(told.st_mode), size, told.st_nlink, told.st_uid, told.st_gid

    def picture(self, root):
        found = {}
        for folder, directories, files in os.walk(root):
            for name in directories + files:
                path = pathlib.Path(folder, name)
                body = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else None
                found[str(path.relative_to(root))] = self.stat(path), body
        return found


if __name__ == "__main__":
    unittest.main()
