"""What POSIX and Linux promise of files, on the real mount."""
import ctypes
import errno
import fcntl
import mmap
import os
import pathlib
import random
import socket
import stat
import struct
import time
import unittest

from harness import BoxTest, limit, run, until

MIB = 1 << 20


class DirectoryEntry(ctypes.Structure):
    """struct dirent of glibc on 64-bit machines."""
    _fields_ = [("inode", ctypes.c_uint64), ("offset", ctypes.c_int64), ("length", ctypes.c_uint16), ("type", ctypes.c_uint8),
                ("name", ctypes.c_char * 256)]


LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.opendir.restype = ctypes.c_void_p
LIBC.readdir.restype = ctypes.POINTER(DirectoryEntry)
LIBC.telldir.restype = ctypes.c_long
for call, arguments in (("opendir", [ctypes.c_char_p]), ("readdir", [ctypes.c_void_p]), ("telldir", [ctypes.c_void_p]),
                        ("seekdir", [ctypes.c_void_p, ctypes.c_long]), ("rewinddir", [ctypes.c_void_p]), ("closedir", [ctypes.c_void_p])):
    getattr(LIBC, call).argtypes = arguments
FICLONE = 0x40049409
FALLOC_KEEP_SIZE, FALLOC_PUNCH_HOLE, FALLOC_COLLAPSE_RANGE, FALLOC_ZERO_RANGE, FALLOC_INSERT_RANGE = 1, 2, 8, 16, 32
RENAME_NOREPLACE, RENAME_EXCHANGE = 1, 2
AT_FDCWD = -100


def checked(result):
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def fallocate(fd, mode, offset, length):
    checked(LIBC.fallocate(fd, mode, ctypes.c_long(offset), ctypes.c_long(length)))


def renameat2(old, new, flags):
    checked(LIBC.renameat2(AT_FDCWD, os.fsencode(old), AT_FDCWD, os.fsencode(new), flags))


def read_entry(stream):
    entry = LIBC.readdir(stream)
    return os.fsdecode(entry.contents.name) if entry else None


def handle_of(path):
    handle = ctypes.create_string_buffer(struct.pack("Ii", 128, 0), 136)
    checked(LIBC.name_to_handle_at(AT_FDCWD, os.fsencode(path), handle, ctypes.byref(ctypes.c_int()), 0))
    return handle


def open_handle(mount, handle, flags=os.O_RDONLY):
    at = os.open(mount, os.O_RDONLY)
    try:
        fd = LIBC.open_by_handle_at(at, handle, flags)
        if fd < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        return fd
    finally:
        os.close(at)


def is_stale(mount, handle):
    try:
        os.close(open_handle(mount, handle))
    except OSError as error:
        return error.errno == errno.ESTALE
    return False


class Posix(BoxTest):
    def setUp(self):
        super().setUp()
        self.path = self.channel / "file"

    def open(self, flags=os.O_RDWR | os.O_CREAT, mode=0o644, path=None):
        fd = os.open(path or self.path, flags, mode)
        self.addCleanup(close_if_open, fd)
        return fd

    def fails_with(self, number, call, *arguments, **named):
        with self.assertRaises(OSError) as failed:
            call(*arguments, **named)
        self.assertEqual(failed.exception.errno, number, failed.exception)

    # ---- the root

    def test_a_file_at_the_root_is_refused(self):
        root = self.box.mount
        self.fails_with(errno.EPERM, os.open, root / "file", os.O_CREAT | os.O_WRONLY)
        self.fails_with(errno.EPERM, os.symlink, "cam1", root / "link")
        self.fails_with(errno.EPERM, os.mkfifo, root / "fifo")
        self.path.touch()
        with self.assertRaises(OSError) as failed:
            os.rename(self.path, root / "file")
        self.assertIn(failed.exception.errno, (errno.EPERM, errno.EXDEV))
        log = (self.box.directory / "log/mount.log").read_text()
        self.assertIn("root", log, "the reason is logged")

    def test_a_directory_at_the_root_is_a_channel(self):
        os.mkdir(self.box.mount / "newcam")
        names = [channel["name"] for channel in self.box.reelctl("channel", "list")["channels"]]
        self.assertIn("newcam", names)
        os.rename(self.box.mount / "newcam", self.box.mount / "oldcam")
        names = [channel["name"] for channel in self.box.reelctl("channel", "list")["channels"]]
        self.assertIn("oldcam", names)
        os.rmdir(self.box.mount / "oldcam")

    def test_renames_and_links_between_channels_are_for_copying(self):
        other = self.box.channel("other")
        self.path.write_bytes(b"x")
        self.fails_with(errno.EXDEV, os.rename, self.path, other / "file")
        self.fails_with(errno.EXDEV, os.link, self.path, other / "file")
        run("mv", self.path, other / "file")
        self.assertEqual((other / "file").read_bytes(), b"x")

    # ---- reading and writing

    def test_writes_at_any_offset(self):
        fd = self.open()
        model = bytearray()
        for offset, data in ((5, b"five"), (100_000, b"far" * 1000), (0, b"head"), (99_990, b"across the edge"),
                             (3 * MIB + 1, b"z" * 70_000), (50, b""), (4096, b"page" * 1024)):
            self.assertEqual(os.pwrite(fd, data, offset), len(data))
            if data:
                model.extend(b"\0" * (offset + len(data) - len(model)))
                model[offset:offset + len(data)] = data
            self.assertEqual(os.pread(fd, len(model) + 10, 0), bytes(model), "its own writes, not yet flushed")
        os.close(fd)
        self.assertEqual(self.path.read_bytes(), bytes(model))
        self.assertEqual(self.path.stat().st_size, len(model))

    def test_append_goes_to_the_end_whatever_the_position(self):
        first = self.open(os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        second = self.open(os.O_WRONLY | os.O_APPEND)
        for number in range(50):
            os.write(first if number % 2 else second, b"%04d" % number)
            os.lseek(first, 0, os.SEEK_SET)
        self.assertEqual(self.path.read_bytes(), b"".join(b"%04d" % number for number in range(50)))

    def test_open_flags(self):
        self.path.write_bytes(b"contents")
        self.fails_with(errno.EEXIST, os.open, self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        fd = self.open(os.O_WRONLY | os.O_TRUNC)
        self.assertEqual(os.fstat(fd).st_size, 0)
        self.fails_with(errno.EBADF, os.read, fd, 1)
        self.fails_with(errno.ENOENT, os.open, self.channel / "missing", os.O_RDONLY)
        self.fails_with(errno.ENOTDIR, os.open, self.path / "below", os.O_RDONLY)
        self.fails_with(errno.EISDIR, os.open, self.channel, os.O_WRONLY)
        self.fails_with(errno.ENOTDIR, os.open, self.path, os.O_RDONLY | os.O_DIRECTORY)
        os.symlink("file", self.channel / "link")
        self.fails_with(errno.ELOOP, os.open, self.channel / "link", os.O_RDONLY | os.O_NOFOLLOW)
        fd = self.open(os.O_WRONLY | os.O_SYNC)
        self.assertEqual(os.write(fd, b"synced"), 6)

    def test_truncate(self):
        fd = self.open()
        os.pwrite(fd, b"x" * 200_000, 0)
        os.ftruncate(fd, 100_001)
        self.assertEqual(os.fstat(fd).st_size, 100_001)
        os.ftruncate(fd, 300_000)
        self.assertEqual(os.pread(fd, 300_000, 0), b"x" * 100_001 + b"\0" * 199_999, "what was cut off does not return")
        os.truncate(self.path, 10)
        self.assertEqual(self.path.read_bytes(), b"x" * 10)
        os.truncate(self.path, 0)
        self.assertEqual(os.pread(fd, 10, 0), b"")

    def test_large_offsets(self):
        fd = self.open()
        far = 5 << 40
        os.pwrite(fd, b"end", far)
        self.assertEqual(os.fstat(fd).st_size, far + 3)
        self.assertEqual(os.pread(fd, 10, far - 2), b"\0\0end")
        self.assertLess(os.fstat(fd).st_blocks * 512, MIB)

    def test_fallocate(self):
        fd = self.open()
        os.pwrite(fd, b"x" * MIB, 0)
        fallocate(fd, 0, 0, 2 * MIB)
        self.assertEqual(os.fstat(fd).st_size, 2 * MIB)
        fallocate(fd, FALLOC_KEEP_SIZE, 0, 8 * MIB)
        self.assertEqual(os.fstat(fd).st_size, 2 * MIB)
        fallocate(fd, FALLOC_PUNCH_HOLE | FALLOC_KEEP_SIZE, 4096, 8192 + 5)
        self.assertEqual(os.pread(fd, MIB, 0), b"x" * 4096 + b"\0" * 8197 + b"x" * (MIB - 12_293))
        self.assertEqual(os.fstat(fd).st_size, 2 * MIB)
        fallocate(fd, FALLOC_ZERO_RANGE, MIB - 100, 2 * MIB)
        self.assertEqual(os.pread(fd, 4 * MIB, MIB - 200), b"x" * 100 + b"\0" * (2 * MIB))
        fallocate(fd, FALLOC_ZERO_RANGE | FALLOC_KEEP_SIZE, 0, 8 * MIB)
        self.assertEqual(os.pread(fd, 8 * MIB, 0), b"\0" * (3 * MIB - 100))
        self.fails_with(errno.EOPNOTSUPP, fallocate, fd, FALLOC_COLLAPSE_RANGE, 0, 4096)
        self.fails_with(errno.EOPNOTSUPP, fallocate, fd, FALLOC_INSERT_RANGE, 0, 4096)
        self.fails_with(errno.EINVAL, fallocate, fd, 0, 0, 0)

    def test_seeking_data_and_holes(self):
        fd = self.open()
        os.pwrite(fd, b"a" * MIB, MIB)
        os.pwrite(fd, b"b" * MIB, 4 * MIB)
        os.ftruncate(fd, 8 * MIB)
        for sync in (False, True):
            if sync:
                os.fsync(fd)
            with self.subTest(synced=sync):
                self.assertEqual(os.lseek(fd, 0, os.SEEK_DATA), MIB)
                self.assertEqual(os.lseek(fd, MIB, os.SEEK_DATA), MIB)
                self.assertEqual(os.lseek(fd, 0, os.SEEK_HOLE), 0)
                self.assertEqual(os.lseek(fd, MIB, os.SEEK_HOLE), 2 * MIB)
                self.assertEqual(os.lseek(fd, 2 * MIB, os.SEEK_DATA), 4 * MIB)
                self.assertEqual(os.lseek(fd, 4 * MIB, os.SEEK_HOLE), 5 * MIB)
                self.fails_with(errno.ENXIO, os.lseek, fd, 5 * MIB, os.SEEK_DATA)
                self.fails_with(errno.ENXIO, os.lseek, fd, 8 * MIB, os.SEEK_HOLE)

    def test_seeking_over_a_hole_of_any_size(self):
        size = 1 << 62
        fd = self.open()
        os.ftruncate(fd, size)
        with limit(self, 2, "looking for data where there is none"):
            self.fails_with(errno.ENXIO, os.lseek, fd, 0, os.SEEK_DATA)
        self.assertEqual(os.lseek(fd, 0, os.SEEK_HOLE), 0)
        os.pwrite(fd, b"x" * 4096, size - 4096)
        os.pwrite(fd, b"x" * 4096, 1 << 40)
        with limit(self, 2, "looking for data far away"):
            self.assertEqual(os.lseek(fd, 0, os.SEEK_DATA), 1 << 40)
            self.assertEqual(os.lseek(fd, (1 << 40) + 4096, os.SEEK_DATA), size - 4096)
        self.assertEqual(os.lseek(fd, 1 << 40, os.SEEK_HOLE), (1 << 40) + 4096)
        self.assertEqual(os.lseek(fd, size - 4096, os.SEEK_HOLE), size)

    def test_a_sparse_copy_stays_sparse(self):
        fd = self.open()
        os.pwrite(fd, b"data", 64 * MIB)
        os.close(fd)
        run("cp", "--sparse=always", self.path, self.channel / "copy")
        self.assertEqual((self.channel / "copy").stat().st_size, 64 * MIB + 4)
        self.assertLess((self.channel / "copy").stat().st_blocks * 512, MIB)

    def test_shared_memory_mapping(self):
        fd = self.open()
        os.ftruncate(fd, 3 * MIB)
        with mmap.mmap(fd, 3 * MIB, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE) as memory:
            memory[10:14] = b"head"
            memory[2 * MIB:2 * MIB + 4] = b"deep"
            memory.flush()
            self.assertEqual(os.pread(fd, 4, 10), b"head")
            os.pwrite(fd, b"file", 100)
            self.assertEqual(memory[100:104], b"file")
        os.close(fd)
        data = self.path.read_bytes()
        self.assertEqual((data[10:14], data[100:104], data[2 * MIB:2 * MIB + 4], len(data)),
                         (b"head", b"file", b"deep", 3 * MIB))

    def test_a_deleted_file_lives_while_it_is_open(self):
        fd = self.open()
        os.write(fd, b"before")
        os.unlink(self.path)
        self.assertFalse(self.path.exists())
        self.assertEqual(os.fstat(fd).st_nlink, 0)
        os.write(fd, b" and after")
        os.fsync(fd)
        self.assertEqual(os.pread(fd, 100, 0), b"before and after")
        replacement = self.open(os.O_RDWR | os.O_CREAT | os.O_EXCL)
        self.assertEqual(os.read(replacement, 10), b"")
        self.assertEqual(os.pread(fd, 100, 0), b"before and after")

    def test_a_file_renamed_over_lives_while_it_is_open(self):
        fd = self.open()
        os.write(fd, b"old")
        (self.channel / "new").write_bytes(b"new")
        os.rename(self.channel / "new", self.path)
        self.assertEqual(os.pread(fd, 10, 0), b"old")
        self.assertEqual(self.path.read_bytes(), b"new")

    def test_what_was_removed_lives_where_it_is_held(self):
        """Also what the kernel alone has open: a directory that somebody is in, a fifo, a file by O_PATH."""
        held = {}
        for name, flags in (("dir", os.O_RDONLY | os.O_DIRECTORY), ("replaced", os.O_RDONLY | os.O_DIRECTORY),
                            ("fifo", os.O_RDWR | os.O_NONBLOCK), ("path", os.O_PATH), ("overwritten", os.O_PATH)):
            path = self.channel / name
            {"fifo": os.mkfifo, "path": pathlib.Path.touch, "overwritten": pathlib.Path.touch}.get(name, os.mkdir)(path)
            held[name] = self.open(flags, path=path)
        modes = {name: os.fstat(fd).st_mode for name, fd in held.items()}
        os.rmdir(self.channel / "dir")
        os.mkdir(self.channel / "new")
        os.rename(self.channel / "new", self.channel / "replaced")
        os.unlink(self.channel / "fifo")
        os.unlink(self.channel / "path")
        self.path.touch()
        os.rename(self.path, self.channel / "overwritten")
        for name, fd in held.items():
            with self.subTest(name):
                self.assertEqual((os.fstat(fd).st_mode, os.fstat(fd).st_nlink), (modes[name], 0))
        self.assertEqual(os.listdir(held["dir"]), [])
        self.fails_with(errno.ENOENT, os.mkdir, "x", dir_fd=held["dir"])
        os.fchmod(held["fifo"], 0o640)
        os.utime(held["dir"], ns=(5, 6))
        self.assertEqual(stat.S_IMODE(os.fstat(held["fifo"]).st_mode), 0o640)
        self.assertEqual(os.fstat(held["dir"]).st_mtime_ns, 6)

    def test_a_removed_file_that_was_only_looked_up_can_still_be_opened(self):
        """What happens to a process that has found a name and is about to open it when another takes it away or replaces it."""
        for remove in (os.unlink, lambda path: os.rename(self.channel / "new", path)):
            (self.channel / "new").write_bytes(b"new")
            self.path.write_bytes(b"old")
            os.setxattr(self.path, "user.which", b"old")
            found = os.open(self.path, os.O_PATH)
            again = f"/proc/self/fd/{found}"
            try:
                remove(self.path)
                with open(again, "r+b", buffering=0) as file:
                    self.assertEqual(file.read(), b"old")
                    file.write(b"er")
                self.assertEqual(os.getxattr(again, "user.which"), b"old")
                self.assertEqual(pathlib.Path(again).read_bytes(), b"older")
            finally:
                os.close(found)
            until(lambda: self.open_inodes() == 0, "the mount has let it go")

    def open_inodes(self):
        return sum(session["open_inodes"] for session in self.box.reelctl("status")["sessions"])

    def test_recording_goes_on_after_all_that_was_recorded_is_removed(self):
        for number in range(4):
            data = os.urandom(6 * MIB)
            self.path.write_bytes(data)
            self.assertEqual(self.path.read_bytes(), data)
            if number % 2:
                os.truncate(self.path, 0)
            os.unlink(self.path)

    def test_syncing(self):
        fd = self.open()
        os.write(fd, b"x")
        os.fsync(fd)
        os.fdatasync(fd)
        directory = self.open(os.O_RDONLY | os.O_DIRECTORY, path=self.channel)
        os.fsync(directory)
        checked(LIBC.syncfs(fd))

    # ---- names

    def test_rename_flags(self):
        other = self.channel / "other"
        self.path.write_bytes(b"one")
        other.write_bytes(b"two")
        self.fails_with(errno.EEXIST, renameat2, self.path, other, RENAME_NOREPLACE)
        renameat2(self.path, other, RENAME_EXCHANGE)
        self.assertEqual((self.path.read_bytes(), other.read_bytes()), (b"two", b"one"))
        self.fails_with(errno.ENOENT, renameat2, self.path, self.channel / "missing", RENAME_EXCHANGE)
        renameat2(self.path, self.channel / "free", RENAME_NOREPLACE)
        self.assertFalse(self.path.exists())
        os.mkdir(self.channel / "dir")
        renameat2(self.channel / "dir", other, RENAME_EXCHANGE)
        self.assertTrue(other.is_dir())
        self.assertEqual((self.channel / "dir").read_bytes(), b"one")

    def test_rename_of_directories(self):
        for name in ("a/b/c", "empty", "full/x"):
            (self.channel / name).mkdir(parents=True)
        self.path.touch()
        self.fails_with(errno.EINVAL, os.rename, self.channel / "a", self.channel / "a/b/inside")
        self.fails_with(errno.ENOTEMPTY, os.rename, self.channel / "a", self.channel / "full")
        self.fails_with(errno.ENOTDIR, os.rename, self.channel / "a", self.path)
        self.fails_with(errno.EISDIR, os.rename, self.path, self.channel / "a")
        os.rename(self.channel / "a", self.channel / "empty")
        self.assertTrue((self.channel / "empty/b/c").is_dir())
        before = self.channel.stat().st_nlink
        os.rename(self.channel / "empty/b", self.channel / "b")
        self.assertEqual(self.channel.stat().st_nlink, before + 1)

    def test_hard_links(self):
        self.path.write_bytes(b"shared")
        os.link(self.path, self.channel / "second")
        self.assertEqual(self.path.stat().st_nlink, 2)
        self.assertEqual(self.path.stat().st_ino, (self.channel / "second").stat().st_ino)
        with open(self.channel / "second", "ab") as file:
            file.write(b" by both")
        self.assertEqual(self.path.read_bytes(), b"shared by both")
        os.unlink(self.path)
        self.assertEqual((self.channel / "second").stat().st_nlink, 1)
        self.fails_with(errno.EPERM, os.link, self.channel, self.channel / "directory")

    def test_symbolic_links(self):
        for target in ("file", "/absolute/and/missing", "x" * 4095):
            os.symlink(target, self.channel / "link")
            self.assertEqual(os.readlink(self.channel / "link"), target)
            self.assertEqual((self.channel / "link").lstat().st_size, len(target))
            os.unlink(self.channel / "link")
        self.path.write_bytes(b"through")
        os.symlink("file", self.channel / "link")
        self.assertEqual((self.channel / "link").read_bytes(), b"through")

    def test_special_files(self):
        os.mkfifo(self.channel / "fifo", 0o600)
        self.assertTrue(stat.S_ISFIFO((self.channel / "fifo").stat().st_mode))
        reader = self.open(os.O_RDONLY | os.O_NONBLOCK, path=self.channel / "fifo")
        writer = self.open(os.O_WRONLY | os.O_NONBLOCK, path=self.channel / "fifo")
        os.write(writer, b"through the pipe")
        self.assertEqual(os.read(reader, 100), b"through the pipe")
        os.mknod(self.channel / "socket", stat.S_IFSOCK | 0o600)
        self.assertTrue(stat.S_ISSOCK((self.channel / "socket").stat().st_mode))
        os.mknod(self.channel / "null", stat.S_IFCHR | 0o600, os.makedev(1, 3))
        self.assertEqual((self.channel / "null").stat().st_rdev, os.makedev(1, 3))
        with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
            here = os.open(self.channel, os.O_RDONLY)
            self.addCleanup(os.close, here)
            server.bind(f"/proc/self/fd/{here}/bound")
            server.listen()
            client.connect(f"/proc/self/fd/{here}/bound")

    def test_names_of_every_kind(self):
        names = ["ä-漢字-🎥", "with space", "x" * 255, "-dash", ".hidden", "new\nline", "\udcff\udcfe"]
        for name in names:
            (self.channel / name).write_bytes(os.fsencode(name))
        self.assertEqual(sorted(os.listdir(self.channel)), sorted(names))
        for name in names:
            self.assertEqual((self.channel / name).read_bytes(), os.fsencode(name))
        self.fails_with(errno.ENAMETOOLONG, os.open, self.channel / ("x" * 256), os.O_CREAT | os.O_WRONLY)

    def test_a_large_directory(self):
        names = [f"{number:05}" for number in range(3000)]
        for name in names:
            os.close(os.open(self.channel / name, os.O_CREAT | os.O_WRONLY))
        self.assertEqual(sorted(os.listdir(self.channel)), names)
        seen = set()
        with os.scandir(self.channel) as entries:
            for entry in entries:
                seen.add(entry.name)
                self.assertEqual(entry.inode(), entry.stat(follow_symlinks=False).st_ino)
                os.unlink(entry.path)
        self.assertEqual(seen, set(names), "each is listed although those before are being removed")
        self.assertEqual(os.listdir(self.channel), [])

    def test_a_listing_shows_once_what_stays_whatever_else_changes(self):
        """In one descriptor, going back at times to where it has been, while names come, go and change."""
        dice = random.Random(7)
        stay = {f"stay{number:04}" for number in range(400)}
        passing = [f"passing{number:04}" for number in range(400)]
        for name in dice.sample([*sorted(stay), *passing], 800):
            (self.channel / name).touch()
        directory = LIBC.opendir(os.fsencode(self.channel))
        self.addCleanup(LIBC.closedir, directory)
        listed, places = [], []
        for _ in range(100_000):
            places.append((LIBC.telldir(directory), len(listed)))
            entry = LIBC.readdir(directory)
            if not entry:
                break
            listed.append(os.fsdecode(entry.contents.name))
            if dice.randrange(50) == 0:  # back: what follows comes again
                del places[len(places) - dice.randrange(min(30, len(places))):]
                place, length = places.pop()
                LIBC.seekdir(directory, place)
                del listed[length:]
            self.change_a_name(dice, passing)
        self.assertEqual(sorted(name for name in listed if name.startswith("stay")), sorted(stay))
        self.assertEqual(len(listed), len(set(listed)))
        LIBC.rewinddir(directory)
        self.assertTrue(LIBC.readdir(directory))

    def change_a_name(self, dice, names):
        at = dice.randrange(len(names))
        what = dice.randrange(3)
        if what == 0:
            os.unlink(self.channel / names.pop(at))
        elif what == 1:
            names.append(f"passing-new{dice.randrange(1 << 60)}")
            (self.channel / names[-1]).touch()
        else:
            other = f"passing-renamed{dice.randrange(1 << 60)}"
            os.rename(self.channel / names[at], self.channel / other)
            names[at] = other

    def test_cookies_of_a_directory_of_many_entries(self):
        count = 20_000
        for number in range(count):
            os.mknod(self.channel / f"{number:06}", stat.S_IFREG | 0o600)
        stream = LIBC.opendir(os.fsencode(self.channel))
        self.addCleanup(LIBC.closedir, stream)
        # Each name, and the place behind it.
        seen = [(LIBC.telldir(stream), name) for name in iter(lambda: read_entry(stream), None)]
        self.assertEqual(len(seen), count + 2)
        self.assertEqual(len({place for place, _ in seen}), count + 2)
        for number in range(0, count, 2):
            os.unlink(self.channel / f"{number:06}")
        left = {name for _, name in seen if not name.isdigit() or int(name) % 2}
        for at in (count - 7, 17, count // 2, 3, 0):
            LIBC.seekdir(stream, seen[at][0])
            following = next(name for _, name in seen[at + 1:] if name in left)
            self.assertEqual(read_entry(stream), following)
        LIBC.rewinddir(stream)
        self.assertEqual(set(iter(lambda: read_entry(stream), None)), left)

    def test_handles_outlive_caches_and_mounts(self):
        deep = self.channel / "a/b"
        deep.mkdir(parents=True)
        (deep / "file").write_bytes(b"deep")
        handles = [handle_of(path) for path in (deep / "file", deep, self.channel)]
        mounts = [self.box.mount, self.box.another_mount().point]
        for point in mounts:
            pathlib.Path("/proc/sys/vm/drop_caches").write_text("2")
            for number, handle in enumerate(handles):
                fd = open_handle(point, handle)
                self.assertEqual(stat.S_ISDIR(os.fstat(fd).st_mode), number > 0)
                if number == 0:
                    self.assertEqual(os.pread(fd, 10, 0), b"deep")
                os.close(fd)
        os.unlink(deep / "file")
        (deep / "file").write_bytes(b"another")
        for point in mounts:
            pathlib.Path("/proc/sys/vm/drop_caches").write_text("2")
            until(lambda point=point: is_stale(point, handles[0]), "the handle of what is removed is stale", 5)
        self.box.mounts[-1].unmount()

    def test_names_and_paths_that_are_too_long(self):
        self.path.touch()
        long = self.channel / ("n" * 256)
        for call in (os.stat, os.mkdir, os.unlink, os.rmdir, lambda path: os.symlink("x", path),
                     lambda path: os.link(self.path, path), lambda path: os.rename(self.path, path)):
            self.fails_with(errno.ENAMETOOLONG, call, long)
        self.fails_with(errno.ENAMETOOLONG, os.symlink, "x" * 4096, self.channel / "link")
        self.fails_with(errno.ENAMETOOLONG, os.stat, f"{self.channel}/" + "./" * 2048 + "file")
        os.symlink("b", self.channel / "a")
        os.symlink("a", self.channel / "b")
        self.fails_with(errno.ELOOP, os.stat, self.channel / "a")

    def test_a_file_of_sixteen_tebibytes(self):
        fd = self.open()
        size = 16 << 40
        os.pwrite(fd, b"end", size - 3)
        self.assertEqual(os.fstat(fd).st_size, size)
        self.assertEqual(os.pread(fd, 10, size - 5), b"\0\0end")

    def test_what_is_not_there_is_refused_as_it_should_be(self):
        self.fails_with(errno.EOPNOTSUPP, os.open, self.channel, os.O_TMPFILE | os.O_RDWR)
        source = self.open()
        target = self.open(path=self.channel / "target")
        self.fails_with(errno.EOPNOTSUPP, fcntl.ioctl, target, FICLONE, source)

    def test_removing(self):
        directory = self.channel / "dir"
        directory.mkdir()
        (directory / "a").touch()
        self.fails_with(errno.ENOTEMPTY, os.rmdir, directory)
        self.fails_with(errno.EISDIR, os.unlink, directory)
        self.fails_with(errno.ENOTDIR, os.rmdir, directory / "a")
        os.unlink(directory / "a")
        self.fails_with(errno.ENOENT, os.unlink, directory / "a")
        os.rmdir(directory)
        self.fails_with(errno.ENOENT, os.rmdir, directory)

    def test_a_directorys_links_are_its_subdirectories(self):
        self.assertEqual(self.channel.stat().st_nlink, 2)
        (self.channel / "dir").mkdir()
        self.path.touch()
        self.assertEqual(self.channel.stat().st_nlink, 3)
        self.assertEqual((self.channel / "dir/..").stat().st_ino, self.channel.stat().st_ino)
        (self.channel / "dir").rmdir()
        self.assertEqual(self.channel.stat().st_nlink, 2)

    # ---- attributes

    def test_modes_and_owners(self):
        self.path.touch()
        for mode in (0o000, 0o644, 0o4755, 0o2755, 0o1777, 0o7777):
            os.chmod(self.path, mode)
            self.assertEqual(stat.S_IMODE(self.path.stat().st_mode), mode)
        os.chmod(self.path, 0o4755)
        os.chown(self.path, 1234, 5678)
        self.assertEqual((self.path.stat().st_uid, self.path.stat().st_gid), (1234, 5678))
        os.chown(self.path, -1, 99)
        self.assertEqual((self.path.stat().st_uid, self.path.stat().st_gid), (1234, 99))
        old = os.umask(0o027)
        try:
            os.close(self.open(path=self.channel / "masked", mode=0o666))
        finally:
            os.umask(old)
        self.assertEqual(stat.S_IMODE((self.channel / "masked").stat().st_mode), 0o640)

    def test_the_kernel_checks_permissions(self):
        self.path.write_bytes(b"secret")
        os.chmod(self.path, 0o600)
        command = ("setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups")
        os.chmod(self.box.base, 0o755)
        run(*command, "ls", self.channel)
        self.assertIn("Permission denied", run(*command, "cat", self.path, check=False).stderr)
        self.assertIn("Permission denied", run(*command, "touch", self.channel / "new", check=False).stderr)
        os.chmod(self.path, 0o644)
        self.assertEqual(run(*command, "cat", self.path).stdout, "secret")

    def test_writing_by_another_drops_set_user_id(self):
        self.path.touch()
        os.chmod(self.path, 0o6777)
        os.chmod(self.box.base, 0o755)
        os.chmod(self.channel, 0o777)
        run("setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "sh", "-c", f"echo x >> {self.path}")
        self.assertEqual(stat.S_IMODE(self.path.stat().st_mode), 0o777)

    def test_times_to_the_nanosecond(self):
        self.path.touch()
        for when in (0, 1, 1_234_567_890_123_456_789, -1_000_000_001, 4_102_444_800_999_999_999):
            os.utime(self.path, ns=(when, when + 1))
            told = self.path.stat()
            self.assertEqual((told.st_atime_ns, told.st_mtime_ns), (when, when + 1))
        os.symlink("file", self.channel / "link")
        os.utime(self.channel / "link", ns=(5, 6), follow_symlinks=False)
        self.assertEqual((self.channel / "link").lstat().st_mtime_ns, 6)
        self.assertNotEqual(self.path.stat().st_mtime_ns, 6)

    def test_times_of_every_age(self):
        self.path.touch()
        for seconds in (-5_000_000_000, -1, 2**31, 2**32 + 1, 9_000_000_000):  # 1811 to 2255
            os.utime(self.path, ns=(seconds * 10**9 + 7, seconds * 10**9 + 8))
            told = self.path.stat()
            self.assertEqual((told.st_atime_ns, told.st_mtime_ns), (seconds * 10**9 + 7, seconds * 10**9 + 8))
        os.utime(self.path, (253_402_300_799, -62_135_596_800))  # 9999 and 1: the last and the first that can be kept
        told = self.path.stat()
        self.assertEqual((told.st_atime_ns, told.st_mtime_ns), (2**63 - 1, -2**63))

    def test_reading_sets_the_atime_as_relatime_says(self):
        self.path.write_bytes(b"x" * 1000)
        old = int(time.time() - 3600) * 10**9
        os.utime(self.path, ns=(old, old))
        before = self.path.stat()
        self.assertEqual(self.path.read_bytes(), b"x" * 1000)
        read = self.path.stat()
        self.assertGreater(read.st_atime_ns, before.st_ctime_ns)
        self.assertEqual((read.st_mtime_ns, read.st_ctime_ns), (before.st_mtime_ns, before.st_ctime_ns))
        os.posix_fadvise(self.open(os.O_RDONLY), 0, 0, os.POSIX_FADV_DONTNEED)
        self.path.read_bytes()
        self.assertEqual(self.path.stat().st_atime_ns, read.st_atime_ns, "once is enough until it changes")
        other = self.box.another_mount()
        until(lambda: (other / self.channel.name / "file").stat().st_atime_ns == read.st_atime_ns,
              "another mount sees it, at the latest when its lease ends", 15)
        os.utime(self.path, ns=(old, old))
        self.assertEqual(self.path.stat().st_atime_ns, old, "what is set stays")
        fd = self.open(os.O_RDONLY | os.O_NOATIME)
        os.read(fd, 100)
        self.assertEqual(self.path.stat().st_atime_ns, old)
        os.utime(self.channel, ns=(old, old))
        os.listdir(self.channel)
        self.assertGreater(self.channel.stat().st_atime_ns, old)
        other.unmount()
        quiet = self.box.another_mount(",noatime")
        os.utime(self.path, ns=(old, old))
        (quiet / self.channel.name / "file").read_bytes()
        self.assertEqual((quiet / self.channel.name / "file").stat().st_atime_ns, old)
        quiet.unmount()

    def test_the_time_of_birth(self):
        self.path.touch()
        born = run("stat", "-c", "%W", self.path).stdout.strip()
        if born == "0" and os.uname().release.split(".")[:2] < ["6", "6"]:
            self.skipTest("this kernel does not ask for it")
        self.assertLess(abs(int(born) - time.time()), 60)
        os.utime(self.path, ns=(0, 0))
        self.path.write_bytes(b"x")
        self.assertEqual(run("stat", "-c", "%W %s", self.path).stdout.split(), [born, "1"])

    def test_times_set_on_an_open_file_survive_its_close(self):
        fd = self.open(os.O_WRONLY | os.O_CREAT)
        os.write(fd, b"x" * 100_000)
        os.utime(fd, ns=(5_000_000_000, 6_000_000_007))
        os.close(fd)
        self.assertEqual(self.path.stat().st_mtime_ns, 6_000_000_007)

    def test_times_move_as_they_should(self):
        self.path.write_bytes(b"x")
        os.utime(self.path, ns=(0, 0))
        os.utime(self.channel, ns=(0, 0))
        before = time.time_ns() - 10_000_000
        with open(self.path, "ab") as file:
            file.write(b"y")
        self.assertGreater(self.path.stat().st_mtime_ns, before)
        self.assertGreater(self.path.stat().st_ctime_ns, before)
        self.assertEqual(self.channel.stat().st_mtime_ns, 0)
        (self.channel / "new").touch()
        self.assertGreater(self.channel.stat().st_mtime_ns, before)
        os.utime(self.path, ns=(0, 0))
        os.chmod(self.path, 0o600)
        self.assertEqual(self.path.stat().st_mtime_ns, 0)

    def test_extended_attributes(self):
        self.path.touch()
        os.setxattr(self.path, "user.camera", b"front door")
        os.setxattr(self.path, "user.empty", b"")
        os.setxattr(self.path, "user.binary", bytes(range(256)))
        self.assertEqual(sorted(os.listxattr(self.path)), ["user.binary", "user.camera", "user.empty"])
        self.assertEqual(os.getxattr(self.path, "user.camera"), b"front door")
        self.assertEqual(os.getxattr(self.path, "user.binary"), bytes(range(256)))
        self.fails_with(errno.EEXIST, os.setxattr, self.path, "user.camera", b"", os.XATTR_CREATE)
        self.fails_with(errno.ENODATA, os.setxattr, self.path, "user.none", b"", os.XATTR_REPLACE)
        os.setxattr(self.path, "user.camera", b"back door", os.XATTR_REPLACE)
        self.assertEqual(os.getxattr(self.path, "user.camera"), b"back door")
        os.removexattr(self.path, "user.camera")
        self.fails_with(errno.ENODATA, os.getxattr, self.path, "user.camera")
        self.fails_with(errno.ENODATA, os.removexattr, self.path, "user.camera")
        os.setxattr(self.channel, "user.place", b"gate")
        self.assertEqual(os.getxattr(self.channel, "user.place"), b"gate")
        os.setxattr(self.path, "user.large", b"v" * 65536)
        self.assertEqual(os.getxattr(self.path, "user.large"), b"v" * 65536)

    def test_statfs(self):
        told = os.statvfs(self.channel)
        self.assertGreater(told.f_bavail, 0)
        self.assertLessEqual(told.f_bavail, told.f_blocks)
        self.assertEqual(told.f_namemax, 255)
        total = told.f_blocks * told.f_frsize
        raw = sum(device["blocks"] * device["block_bytes"] for device in self.box.devices())
        self.assertLessEqual(total, raw // 2)
        self.assertGreater(total, raw // 2 * 9 // 10)

    def test_blocks_tell_what_is_stored(self):
        self.path.write_bytes(b"x" * MIB)
        self.assertEqual(self.path.stat().st_blocks, MIB // 512)
        self.assertEqual(run("du", "-k", self.path).stdout.split()[0], "1024")

    def test_errors_of_earlier_writes_are_reported(self):
        # More than the cluster can hold: refused at once and honestly, and the store goes on.
        # Once it is closed it would be the oldest recording of a full cluster, and may go as soon as somebody needs a block.
        os.setxattr(self.channel, "user.reel.overwrite", b"off")
        size = os.statvfs(self.channel).f_bavail * os.statvfs(self.channel).f_frsize
        with self.assertRaises(OSError) as failed:
            with open(self.path, "wb", buffering=0) as file:
                for _ in range(size // MIB + 16):
                    file.write(b"x" * MIB)
                os.fsync(file.fileno())
        self.assertEqual(failed.exception.errno, errno.ENOSPC)
        os.unlink(self.path)
        for _ in range(600):
            try:
                (self.channel / "small").write_bytes(b"x" * MIB)
                break
            except OSError:
                time.sleep(0.1)  # between two tries while space is being given back
        self.assertEqual((self.channel / "small").read_bytes(), b"x" * MIB)

    # ---- ordinary tools

    def test_locks_between_processes_of_one_machine(self):
        self.path.touch()
        one, two = self.open(), self.open()
        fcntl.flock(one, fcntl.LOCK_EX)
        self.fails_with(errno.EAGAIN, fcntl.flock, two, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.flock(one, fcntl.LOCK_UN)
        fcntl.flock(two, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def test_ordinary_tools_work(self):
        work = self.channel
        run("sh", "-ec", """
            mkdir -p a/b/c; echo hello > a/b/c/file; cp -a a copy; diff -r a copy
            tar cf all.tar a; mkdir out; tar xf all.tar -C out; diff -r a out/a
            sed -i s/hello/goodbye/ copy/b/c/file; grep -rq goodbye copy
            find . -name file | wc -l | grep -qx 3
            dd if=/dev/urandom of=big bs=1M count=8 conv=fsync status=none; cp big big2; cmp big big2
            truncate -s 1M big; stat -c %s big | grep -qx 1048576
            python3 -c 'import sqlite3; d = sqlite3.connect("db"); d.execute("create table t(x)"); d.commit(); d.close()'
            rm -r a copy out; mv all.tar moved.tar; touch -d 2001-02-03 moved.tar; ls -l --time-style=full-iso moved.tar
            """, cwd=work)
        self.assertEqual(pathlib.Path(work / "moved.tar").stat().st_mtime, 981_158_400)


def close_if_open(fd):
    try:
        os.close(fd)
    except OSError:
        pass


if __name__ == "__main__":
    unittest.main()
