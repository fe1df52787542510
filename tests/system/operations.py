"""Random file operations, carried out alike below several directories.

An operation is plain data and knows nothing of those before it, so every part of a sequence is a sequence, too: that is how `shortest`
finds the few that matter of many that end in a difference.
"""
import contextlib
import ctypes
import errno
import fcntl
import mmap
import os
import random
import stat
import struct
import time
from typing import NamedTuple

LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.mmap.restype = ctypes.c_void_p
LIBC.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
LIBC.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
LIBC.msync.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
LIBC.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_long, ctypes.c_long]
MS_SYNC = 4
AT_FDCWD = -100
FALLOC_KEEP_SIZE, FALLOC_PUNCH_HOLE = 1, 2
RENAME_NOREPLACE, RENAME_EXCHANGE = 1, 2
F_OFD_GETLK, F_OFD_SETLK = 36, 37
PAGE = mmap.PAGESIZE
NOISE = random.Random(0).randbytes(1 << 20)  # what is written


class User(NamedTuple):
    uid: int
    gid: int
    groups: tuple


ROOT = User(0, 0, ())
USERS = (ROOT, ROOT, ROOT, User(1001, 1001, (2001,)), User(1002, 1001, (2002,)))


class Name(str):
    """A path below the directory that the operations are carried out in."""


class Slot(int):
    """The number of an open file."""


class Operation(NamedTuple):
    user: User
    kind: str
    arguments: tuple

    def __str__(self):
        return f"{self.kind}({', '.join(repr(one) for one in self.arguments)}) by {self.user.uid}"

    def touched(self):
        """The open files it is about, the paths, and the directories that these are in."""
        names = {one for one in self.arguments if isinstance(one, Name)}
        return ({one for one in self.arguments if isinstance(one, Slot)} | names |
                {Name(one.rpartition("/")[0]) for one in names})


@contextlib.contextmanager
def acting_as(user):
    """File system calls are this user's, with this user's permissions; everything else stays root's."""
    if user == ROOT:
        yield
        return
    os.setgroups(user.groups)
    LIBC.setfsgid(user.gid)
    LIBC.setfsuid(user.uid)
    try:
        yield
    finally:
        LIBC.setfsuid(0)
        LIBC.setfsgid(0)
        os.setgroups([])


def checked(result):
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


class Place:
    """A directory in which operations are carried out, and the files that they have open there."""

    def __init__(self, root):
        self.root = str(root)
        self.files = {}

    def outcome(self, operation):
        try:
            return getattr(self, operation.kind)(*operation.arguments)
        except OSError as failed:
            return errno.errorcode[failed.errno]

    def close_all(self):
        for slot in list(self.files):
            self.close(slot)

    def at(self, name):
        return f"{self.root}/{name}"

    def fd(self, slot):
        if slot not in self.files:
            raise OSError(errno.EBADF, "not open")
        return self.files[slot]

    def attributes(self, what):
        """What stat says of a name or an open file; an error's name where it says none."""
        try:
            return os.fstat(self.fd(what)) if isinstance(what, Slot) else os.lstat(self.at(what))
        except OSError as failed:
            return errno.errorcode[failed.errno]

    def picture(self, follow_times=False):
        """All there is: attributes, contents, and which names are one file."""
        found = {}
        first_names = {}
        for folder, directories, files in os.walk(self.root):
            for name in sorted(directories + files):
                path = os.path.join(folder, name)
                told = os.lstat(path)
                place = Name(path[len(self.root) + 1:])
                first_names.setdefault(told.st_ino, []).append(place)
                body = None
                if stat.S_ISLNK(told.st_mode):
                    body = os.readlink(path)
                elif stat.S_ISREG(told.st_mode):
                    with open(path, "rb") as file:
                        body = file.read()
                found[place] = seen(told), body, told.st_mtime_ns if follow_times else None
        return found, sorted(sorted(names) for names in first_names.values())

    # ---- open files

    def open(self, name, slot, flags, mode):
        self.close(slot)
        self.files[slot] = os.open(self.at(name), flags | os.O_NONBLOCK | os.O_CLOEXEC, mode)

    def close(self, slot):
        fd = self.files.pop(slot, None)
        if fd is not None:
            os.close(fd)

    def pread(self, slot, offset, length):
        return os.pread(self.fd(slot), length, offset)

    def pwrite(self, slot, offset, length, noise):
        return os.pwrite(self.fd(slot), NOISE[noise:noise + length], offset)

    def read(self, slot, length):
        return os.read(self.fd(slot), length)

    def write(self, slot, length, noise):
        return os.write(self.fd(slot), NOISE[noise:noise + length])

    def writev(self, slot, offset, length, noise):
        return os.pwritev(self.fd(slot), [NOISE[noise:noise + length // 3], b"", NOISE[noise:noise + length]], offset)

    def lseek(self, slot, offset, whence):
        if stat.S_ISDIR(os.fstat(self.fd(slot)).st_mode):
            raise OSError(errno.ENODATA, "what such an offset means is each file system's own")
        return os.lseek(self.fd(slot), offset, whence)

    def ftruncate(self, slot, length):
        return os.ftruncate(self.fd(slot), length)

    def fallocate(self, slot, mode, offset, length):
        return checked(LIBC.fallocate(self.fd(slot), mode, offset, length))

    def fsync(self, slot):
        return os.fsync(self.fd(slot))

    def fdatasync(self, slot):
        return os.fdatasync(self.fd(slot))

    def fchmod(self, slot, mode):
        return os.fchmod(self.fd(slot), mode)

    def fchown(self, slot, uid, gid):
        return os.fchown(self.fd(slot), uid, gid)

    def futime(self, slot, atime, mtime):
        return os.utime(self.fd(slot), ns=(atime, mtime))

    def copy_file_range(self, source, target, offset, offset_there, length):
        return os.copy_file_range(self.fd(source), self.fd(target), length, offset, offset_there)

    def sendfile(self, target, source, offset, length):
        return os.sendfile(self.fd(target), self.fd(source), offset, length)

    def link_open(self, slot, name):
        return os.link(f"/proc/self/fd/{self.fd(slot)}", self.at(name), follow_symlinks=True)

    def flock(self, slot, how):
        return fcntl.flock(self.fd(slot), how | fcntl.LOCK_NB)

    def lock_range(self, slot, command, how, offset, length):
        """Locks of an open file: of one that another slot has open, they conflict."""
        if command == F_OFD_GETLK and how == fcntl.F_UNLCK:
            how = fcntl.F_WRLCK  # to ask for locks of any kind, one's own too, is newer than FUSE's question (Linux 6.6)
        asked = struct.pack("hhqqi4x", how, os.SEEK_SET, offset, length, 0)
        told = struct.unpack("hhqqi4x", fcntl.fcntl(self.fd(slot), command, asked))
        # Not the process: FUSE does not say that the lock is an open file's, which has none.
        return told[:4] if command == F_OFD_GETLK and told[0] != fcntl.F_UNLCK else told[0]

    def data_and_holes(self, slot):
        """The contents, found by looking for data alone."""
        fd = self.fd(slot)
        size = os.fstat(fd).st_size
        os.pread(fd, 1, 0)  # fails where it is no file to be read
        found = bytearray(size)
        at = 0
        while at < size:
            try:
                begin = os.lseek(fd, at, os.SEEK_DATA)
            except OSError as failed:
                if failed.errno != errno.ENXIO:
                    raise
                break
            end = os.lseek(fd, begin, os.SEEK_HOLE)
            if not at <= begin < end <= size:
                return f"data at {begin} to {end} of {size}, looked for from {at}"
            found[begin:end] = os.pread(fd, end - begin, begin)
            at = end
        os.lseek(fd, 0, os.SEEK_SET)
        return bytes(found) if bytes(found) == os.pread(fd, size, 0) else "data in a hole"

    def map_read(self, slot, offset, length):
        """Up to the file's end: what a map shows behind it, until the page is next read, is left open by mmap(2)."""
        with self.mapped(slot, mmap.PROT_READ, offset, length) as (address, length):
            return ctypes.string_at(address, min(length, max(0, os.fstat(self.fd(slot)).st_size - offset)))

    def map_write(self, slot, offset, length, noise, sync):
        """Up to the end of the last page: what is written behind the file's end must never be seen."""
        with self.mapped(slot, mmap.PROT_READ | mmap.PROT_WRITE, offset, length) as (address, length):
            ctypes.memmove(address, NOISE[noise:noise + length], length)
            if sync:
                checked(LIBC.msync(address // PAGE * PAGE, length + address % PAGE, MS_SYNC))
            return length

    @contextlib.contextmanager
    def mapped(self, slot, protection, offset, length):
        fd = self.fd(slot)
        told = os.fstat(fd)
        end = min(offset + length, (told.st_size + PAGE - 1) // PAGE * PAGE)
        if not stat.S_ISREG(told.st_mode) or end <= offset:
            raise OSError(errno.ENODATA, "nothing there to be mapped")
        before = offset % PAGE
        address = LIBC.mmap(None, before + end - offset, protection, mmap.MAP_SHARED, fd, offset - before)
        if address == ctypes.c_void_p(-1).value:
            checked(-1)
        try:
            yield address + before, end - offset
        finally:
            checked(LIBC.munmap(address, before + end - offset))

    # ---- names

    def access(self, name, mode):
        return os.access(self.at(name), mode, effective_ids=True)

    def mkdir(self, name, mode):
        return os.mkdir(self.at(name), mode)

    def mknod(self, name, mode):
        return os.mknod(self.at(name), mode)

    def rmdir(self, name):
        return os.rmdir(self.at(name))

    def unlink(self, name):
        return os.unlink(self.at(name))

    def rename(self, name, other, flags):
        return checked(LIBC.renameat2(AT_FDCWD, os.fsencode(self.at(name)), AT_FDCWD, os.fsencode(self.at(other)), flags))

    def link(self, name, other):
        return os.link(self.at(name), self.at(other), follow_symlinks=False)

    def symlink(self, target, name):
        return os.symlink(target, self.at(name))

    def readlink(self, name):
        return os.readlink(self.at(name))

    def list(self, name):
        with os.scandir(self.at(name)) as entries:
            return sorted((entry.name, entry.is_dir(follow_symlinks=False), entry.is_symlink()) for entry in entries)

    def chmod(self, name, mode):
        return os.chmod(self.at(name), mode)

    def chown(self, name, uid, gid):
        return os.chown(self.at(name), uid, gid, follow_symlinks=False)

    def utime(self, name, atime, mtime):
        return os.utime(self.at(name), ns=(atime, mtime), follow_symlinks=False)

    def touch(self, name):
        return os.utime(self.at(name))

    def truncate(self, name, length):
        return os.truncate(self.at(name), length)

    def stat(self, name):
        return seen(os.stat(self.at(name)))

    def setxattr(self, name, attribute, length, flags):
        return os.setxattr(self.at(name), attribute, NOISE[:length], flags, follow_symlinks=False)

    def getxattr(self, name, attribute):
        return os.getxattr(self.at(name), attribute)

    def listxattr(self, name):
        # Of root alone, who by acting for others here keeps CAP_SYS_ADMIN and is shown them by ext4; a mount knows uids only.
        kinds = ("user.", "trusted.") if LIBC.setfsuid(-1) == 0 else "user."
        return sorted(one for one in os.listxattr(self.at(name)) if one.startswith(kinds))

    def removexattr(self, name, attribute):
        return os.removexattr(self.at(name), attribute, follow_symlinks=False)

    # ---- whole files: opened, and closed again

    def create(self, name, offset, length, noise, flags):
        fd = os.open(self.at(name), os.O_WRONLY | os.O_CREAT | os.O_NONBLOCK | flags, 0o664)
        try:
            return os.pwrite(fd, NOISE[noise:noise + length], offset)
        finally:
            os.close(fd)

    def contents(self, name):
        fd = os.open(self.at(name), os.O_RDONLY | os.O_NONBLOCK)
        try:
            return os.pread(fd, 1 << 20, 0)
        finally:
            os.close(fd)


def seen(told):
    """Of what stat says: all that must be the same on two file systems. How large a directory is says nothing."""
    if isinstance(told, str):
        return told
    size = 0 if stat.S_ISDIR(told.st_mode) else told.st_size
    return stat.filemode(told.st_mode), told.st_nlink, told.st_uid, told.st_gid, size, told.st_rdev


# ---- chance


def one_of(*choices):
    return lambda dice: dice.choice(choices)


def path(dice):
    """Few, so that operations meet."""
    name = "/".join(dice.choice("abcd") for _ in range(dice.choice((1, 1, 2, 2, 3))))
    odd = dice.randrange(200)
    return Name(name + "/" if odd == 0 else name + "/.." if odd == 1 else name + "/." if odd == 2 else
                "a/../" + name if odd == 3 else "ä" * 128 if odd == 4 else name)


def slot(dice):
    return Slot(dice.randrange(8))


def offset(dice):
    return dice.choice((0, dice.randrange(8) * PAGE, dice.randrange(400_000), dice.randrange(20_000)))


def length(dice):
    return dice.choice((0, 1, 40, 40, 511, PAGE, PAGE, 5000, 5000, 20_000, 20_000, 70_000))


def noise(dice):
    return dice.randrange(len(NOISE) - 100_000)


def mode(dice):
    """Set-group-id only with the group's execute bit: without, Linux lets FUSE file systems keep it where others drop it at a write."""
    chosen = dice.choice((0o644, 0o664, 0o600, 0o666, 0o755, 0o775, 0o777, 0o777, 0o000, 0o400, 0o711, 0o1777, 0o2775, 0o3777,
                          0o4755, 0o2755, 0o6777, dice.randrange(0o10000)))
    return chosen if chosen & stat.S_IXGRP else chosen & ~stat.S_ISGID


def when(dice):
    return dice.choice((0, -5_000_000_001, 1_234_567_890_123_456_789, 4_102_444_800_999_999_999, dice.randrange(1 << 60)))


def open_flags(dice):
    flags = dice.choice((os.O_RDONLY, os.O_WRONLY, os.O_RDWR, os.O_RDWR, os.O_RDWR))
    for flag, times in ((os.O_CREAT, 8), (os.O_EXCL, 2), (os.O_TRUNC, 3), (os.O_APPEND, 3), (os.O_NOFOLLOW, 1)):
        if dice.randrange(16) < times:
            flags |= flag
    if not flags & os.O_CREAT and dice.randrange(16) == 0:
        flags |= os.O_DIRECTORY
    return flags


uid = one_of(-1, -1, 0, 1001, 1001, 1002)
gid = one_of(-1, 0, 1001, 1001, 2001, 2002)
attribute = one_of("user.a", "user.b", "user.c", "trusted.t")
byte = one_of(0, 1, 10, 10, 20)
OPEN_FILES = (
    (14, "open", path, slot, open_flags, mode),
    (4, "close", slot),
    (14, "pwrite", slot, offset, length, noise),
    (12, "pread", slot, offset, length),
    (6, "write", slot, length, noise),
    (5, "read", slot, length),
    (2, "writev", slot, offset, length, noise),
    (3, "lseek", slot, lambda dice: dice.randrange(-10_000, 100_000), one_of(os.SEEK_SET, os.SEEK_CUR, os.SEEK_END)),
    (5, "ftruncate", slot, offset),
    (4, "fallocate", slot, one_of(0, FALLOC_KEEP_SIZE, FALLOC_PUNCH_HOLE | FALLOC_KEEP_SIZE,
                                  FALLOC_PUNCH_HOLE | FALLOC_KEEP_SIZE), offset, length),
    (1, "fsync", slot),
    (1, "fdatasync", slot),
    (2, "fchmod", slot, mode),
    (2, "fchown", slot, uid, gid),
    (1, "futime", slot, when, when),
    (2, "copy_file_range", slot, slot, offset, offset, length),
    (1, "sendfile", slot, slot, offset, length),
    (1, "link_open", slot, path),
    (3, "data_and_holes", slot),
    (3, "map_read", slot, offset, length),
    (3, "map_write", slot, offset, length, noise, one_of(True, False)),
    (2, "flock", slot, one_of(fcntl.LOCK_SH, fcntl.LOCK_EX, fcntl.LOCK_UN)),
    (3, "lock_range", slot, one_of(F_OFD_SETLK, F_OFD_SETLK, F_OFD_GETLK), one_of(fcntl.F_RDLCK, fcntl.F_WRLCK, fcntl.F_UNLCK),
     byte, byte),
)
NAMES = (
    (5, "create", path, offset, length, noise, one_of(0, 0, os.O_TRUNC, os.O_EXCL, os.O_APPEND)),
    (5, "contents", path),
    (2, "access", path, one_of(os.F_OK, os.R_OK, os.W_OK, os.X_OK, os.R_OK | os.W_OK)),
    (6, "mkdir", path, mode),
    (2, "mknod", path, one_of(stat.S_IFIFO | 0o600, stat.S_IFSOCK | 0o644, stat.S_IFREG | 0o2775)),
    (3, "rmdir", path),
    (6, "unlink", path),
    (8, "rename", path, path, one_of(0, 0, 0, 0, RENAME_NOREPLACE, RENAME_EXCHANGE, RENAME_EXCHANGE,
                                     RENAME_NOREPLACE | RENAME_EXCHANGE)),
    (4, "link", path, path),
    (3, "symlink", one_of("a", "b", "../c", "a/b", "nowhere", "d/../d", "."), path),
    (2, "readlink", path),
    (4, "list", path),
    (4, "chmod", path, mode),
    (3, "chown", path, uid, gid),
    (2, "utime", path, when, when),
    (1, "touch", path),
    (2, "truncate", path, offset),
    (4, "stat", path),
    (3, "setxattr", path, attribute, one_of(0, 5, 300), one_of(0, 0, os.XATTR_CREATE, os.XATTR_REPLACE)),
    (2, "getxattr", path, attribute),
    (1, "listxattr", path),
    (1, "removexattr", path, attribute),
)


def random_operations(dice, count, kinds=OPEN_FILES + NAMES, users=USERS):
    chosen = dice.choices(kinds, weights=[weight for weight, *_ in kinds], k=count)
    return [Operation(dice.choice(users), kind, tuple(make(dice) for make in makers)) for _, kind, *makers in chosen]


# ---- differences


def brief(value):
    if isinstance(value, bytes) and len(value) > 32:
        return f"{len(value)} bytes {value[:16]!r}…"
    return repr(value)


def difference(want, got):
    """In a few words; None where there is none."""
    if want == got:
        return None
    if isinstance(want, bytes) and isinstance(got, bytes) and len(want) == len(got):
        at = next(index for index, pair in enumerate(zip(want, got)) if pair[0] != pair[1])
        return f"of {len(want)} bytes from {at} on: {got[at:at + 8]!r} instead of {want[at:at + 8]!r}"
    if isinstance(want, dict) and isinstance(got, dict):
        return "; ".join(f"{name}: {brief(got.get(name))} instead of {brief(want.get(name))}"
                         for name in sorted(want.keys() | got.keys()) if want.get(name) != got.get(name))[:2000]
    if isinstance(want, tuple) and isinstance(got, tuple) and len(want) == len(got):
        return "; ".join(filter(None, (difference(*pair) for pair in zip(want, got))))
    return f"{brief(got)} instead of {brief(want)}"


def shortest(operations, fails, seconds):
    """Leaves out what is not needed. `fails` gives the number of the operation with which a sequence fails, or None."""
    deadline = time.monotonic() + seconds
    size = len(operations) // 2
    while size > 0:
        at = 0
        while at < len(operations) and time.monotonic() < deadline:
            fewer = operations[:at] + operations[at + size:]
            last = fails(fewer)
            if last is None:
                at += size
            else:
                operations = fewer[:last + 1]
        size //= 2
    return operations
