"""Ordinary programs on the mount: what they check by themselves, and what they leave, is as on a local disk."""
import hashlib
import os
import pathlib
import random
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
import unittest

from harness import BoxTest, PATIENCE, run, until
from operations import difference

KIB, MIB = 1 << 10, 1 << 20

SQLITE_WRITER = """
import sqlite3, sys, time
database = sqlite3.connect(sys.argv[1], isolation_level=None)
database.execute("pragma busy_timeout=60000")
database.execute("pragma journal_mode=" + sys.argv[2])
while True:
    database.execute("begin immediate")
    began = time.monotonic()
    number = database.execute("select coalesce(max(id), 0) from frames").fetchone()[0]
    for number in range(number + 1, number + 6):
        database.execute("insert into frames values (?, randomblob(700))", (number,))
    database.execute("delete from frames where id <= ?", (number - 200,))
    database.execute("commit")
    print(number, flush=True)
    # SQLite's locks are not fair: who pauses for less than it held one, where all is slow, keeps all others out.
    time.sleep(max(0.01, time.monotonic() - began))
"""

BUILD_NINJA = """
rule cc
  command = cc -c $in -o $out
rule ar
  command = rm -f $out && ar rcs $out $in
rule ld
  command = cc $in -o $out
"""


def need(test, program):
    if shutil.which(program) is None:
        test.skipTest(f"{program} is not installed")


def describe(root):
    """All that rsync -aHX keeps: by relative path, and which names are one file."""
    tree, links = {}, {}
    for folder, directories, files in os.walk(root):
        for name in [".", *directories, *files] if folder == str(root) else directories + files:
            path = os.path.join(folder, name)
            place = os.path.relpath(path, root)
            told = os.lstat(path)
            body = None
            if stat.S_ISLNK(told.st_mode):
                body = os.readlink(path)
            elif stat.S_ISREG(told.st_mode):
                with open(path, "rb") as file:
                    body = hashlib.file_digest(file, "sha256").hexdigest()
            attributes = {one: os.getxattr(path, one, follow_symlinks=False)
                          for one in os.listxattr(path, follow_symlinks=False) if one.startswith(("user.", "trusted."))}
            tree[place] = (stat.filemode(told.st_mode), told.st_uid, told.st_gid, told.st_mtime_ns, told.st_rdev, body, attributes)
            if not stat.S_ISDIR(told.st_mode):
                links.setdefault(told.st_ino, set()).add(place)
    return tree, sorted(sorted(names) for names in links.values())


def make_everything(root):
    """A tree with every kind of thing in it."""
    noise = random.Random(4)
    for number in range(10):
        (root / f"f{number}").write_bytes(noise.randbytes(number ** 4 * 10))
    for odd in ("-rf", " ", "new\nline", "ünï", "\udcff", "x" * 255, "*", "$(true)", "a\\b", "...", "~"):
        (root / odd).write_text("odd")
    os.link(root / "f1", root / "hard")
    (root / "deep" / "er").mkdir(parents=True)
    os.link(root / "f1", root / "deep/er/harder")
    (root / "empty").mkdir()
    os.symlink("f2", root / "soft")
    os.symlink("/nowhere/at/all", root / "dangling")
    os.link(root / "soft", root / "softer", follow_symlinks=False)
    os.mkfifo(root / "pipe")
    os.mknod(root / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(root / "socket", stat.S_IFSOCK | 0o700)
    with open(root / "sparse", "wb") as sparse:
        sparse.truncate(100 * MIB)
        sparse.seek(30 * MIB + 7)
        sparse.write(b"in the middle")
    for name, mode in (("f3", 0o4755), ("f4", 0o2711), ("f5", 0o000), ("deep", 0o3775), ("empty", 0o1777)):
        os.chmod(root / name, mode)
    os.chown(root / "f6", 1234, 5678)
    os.chown(root / "soft", 77, 88, follow_symlinks=False)
    for name, attribute, value in (("f7", "user.one", b"1"), ("f7", "user.binary", bytes(range(256))), ("deep", "user.dir", b""),
                                   ("f8", "trusted.t", b"t")):
        os.setxattr(root / name, attribute, value)
    for name, when in (("f1", 0), ("soft", 10 ** 18 + 1), ("sparse", -10 ** 9), ("deep/er", 4 * 10 ** 18 + 999)):
        os.utime(root / name, ns=(when, when), follow_symlinks=False)
    os.utime(root, ns=(7, 7))


class Applications(BoxTest):
    box_settings = {"device_size": "1G"}

    def compare(self, got, want):
        self.assertIsNone(difference(want[0], got[0]))
        self.assertEqual(got[1], want[1])

    def test_rsync_of_everything_that_a_tree_can_hold(self):
        source, inside = self.local(), self.channel / "tree"
        back = pathlib.Path(f"{source}-back")
        make_everything(source)
        want = describe(source)
        for one, other in ((source, inside), (inside, back)):
            run("rsync", "-aHXS", "--numeric-ids", "--modify-window=-1", f"{one}/", f"{other}/")
            self.compare(describe(other), want)
            again = run("rsync", "-aHXSic", "--numeric-ids", "--modify-window=-1", "--delete", f"{one}/", f"{other}/").stdout
            self.assertEqual(again, "", "with contents compared nothing is left to do")
        self.assertLess((inside / "sparse").stat().st_blocks * 512, MIB)

    def test_tar_and_cp_keep_what_they_say_they_keep(self):
        source = self.local()
        make_everything(source)
        os.unlink(source / "socket")  # tar leaves sockets out
        want = describe(source)
        (self.channel / "untarred").mkdir()
        archive = self.channel / "all.tar"
        run("tar", "--xattrs", "--xattrs-include=*", "--format=posix", "--numeric-owner", "-S", "-C", source, "-cf", archive, ".")
        run("tar", "--xattrs", "--xattrs-include=*", "--numeric-owner", "-C", self.channel / "untarred", "-xpf", archive)
        self.compare(describe(self.channel / "untarred"), want)
        run("cp", "-a", self.channel / "untarred", self.channel / "copied")
        self.compare(describe(self.channel / "copied"), want)
        run("rm", "-r", self.channel / "untarred", self.channel / "copied")

    def test_git(self):
        need(self, "git")
        work = self.channel / "work"
        environment = {**os.environ, "HOME": str(self.channel), "GIT_CONFIG_NOSYSTEM": "1", "GIT_AUTHOR_NAME": "a", "GIT_COMMITTER_NAME": "a",
                       "GIT_AUTHOR_EMAIL": "a@b", "GIT_COMMITTER_EMAIL": "a@b", "GIT_AUTHOR_DATE": "2001-02-03 04:05:06 +0000"}

        def git(*arguments, where=work):
            return run("git", "-C", where, *arguments, env=environment).stdout

        work.mkdir()
        git("init", "-q", "-b", "main")
        dice = random.Random(1)
        for round_number in range(4):
            for number in range(30):
                path = work / f"d{number % 4}" / f"file{number}"
                path.parent.mkdir(exist_ok=True)
                path.write_text("".join(f"{dice.randrange(1000)}\n" for _ in range(50)))
            git("add", "-A")
            git("commit", "-qm", f"round {round_number}")
            self.assertEqual(git("status", "--porcelain"), "")
        git("mv", "d0", "moved")
        git("commit", "-qam", "moved")
        git("checkout", "-q", "-b", "side", "HEAD~2")
        (work / "side").write_text("side\n")
        git("add", "side")
        git("commit", "-qm", "side")
        git("merge", "-q", "-m", "merged", "main")
        git("gc", "-q", "--prune=now")
        git("fsck", "--full", "--strict")
        for name, options in (("linked", ()), ("copied", ("--no-hardlinks",)), ("shared", ("--shared",))):
            git("clone", "-q", *options, work, self.channel / name)
            git("fsck", "--full", where=self.channel / name)
            self.assertEqual(git("rev-parse", "HEAD^{tree}", where=self.channel / name), git("rev-parse", "HEAD^{tree}"))
            self.assertEqual(git("status", "--porcelain", where=self.channel / name), "")

    def test_a_database_whose_writers_are_killed_loses_nothing_committed(self):
        for mode in ("wal", "delete", "truncate"):
            with self.subTest(mode):
                path = self.channel / f"{mode}.db"
                with sqlite3.connect(path) as database:
                    # Two who make it a database in WAL mode at once: SQLite refuses one of them, without waiting, on any file system.
                    database.execute(f"pragma journal_mode={mode}")
                    database.execute("create table frames(id integer primary key, body blob)")
                database.close()
                for _ in range(3):
                    self.kill_writers(path, mode)

    def kill_writers(self, path, mode):
        writers = [subprocess.Popen([sys.executable, "-c", SQLITE_WRITER, path, mode], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
                   for _ in range(2)]
        said = [0, 0]
        try:
            for _ in range(10):
                line = writers[0].stdout.readline()
                if not line:
                    break
                said[0] = int(line)
        finally:
            for writer in writers:
                writer.kill()
            left = [writer.communicate() for writer in writers]
        for index, (lines, trouble) in enumerate(left):
            self.assertEqual(writers[index].returncode, -signal.SIGKILL, f"a writer ended by itself:\n{trouble}")
            for line in lines.splitlines(keepends=True):
                said[index] = int(line) if line.endswith("\n") else said[index]
        database = sqlite3.connect(path, timeout=20)
        try:
            self.assertEqual(database.execute("pragma integrity_check").fetchall(), [("ok",)])
            self.assertGreaterEqual(database.execute("select max(id) from frames").fetchone()[0], max(said))
        finally:
            database.close()

    def test_fio_finds_what_several_jobs_wrote(self):
        need(self, "fio")
        for engine, options in (("psync", ()), ("mmap", ()), ("psync", ("--sync=1", "--size=2m")),
                                ("libaio", ("--direct=1", "--iodepth=8"))):
            with self.subTest(engine=engine, options=options):
                run("fio", "--name=job", f"--directory={self.channel}", "--numjobs=3", "--size=8m", "--rw=randwrite",
                    "--bsrange=4k-64k", "--blockalign=4k", "--verify=crc32c", "--verify_fatal=1", "--do_verify=1", "--fallocate=none",
                    f"--ioengine={engine}", *options, cwd=self.channel)

    def test_a_source_tree_is_unpacked_and_built(self):
        need(self, "cc")
        need(self, "ninja")
        source, work = self.local(), self.channel / "work"
        names = [f"f{number}" for number in range(12)]
        for name in names:
            (source / f"{name}.c").write_text(f"int {name}(void) {{ return {name[1:]}; }}\n")
        calls = " + ".join(f"{name}()" for name in names)
        (source / "main.c").write_text("".join(f"int {name}(void);\n" for name in names) + f"int main(void) {{ return {calls} != 66; }}\n")
        (source / "build.ninja").write_text(
            BUILD_NINJA + "".join(f"build {name}.o: cc {name}.c\n" for name in [*names, "main"]) +
            f"build all.a: ar {' '.join(name + '.o' for name in names)}\nbuild program: ld main.o all.a\n")
        run("tar", "-C", source, "-czf", self.channel / "source.tgz", ".")
        work.mkdir()
        run("tar", "-C", work, "-xzf", self.channel / "source.tgz")
        run("tar", "-C", work, "-dzf", self.channel / "source.tgz")
        self.assertIn("program", run("ninja", "-C", work).stdout)
        run(work / "program")
        self.assertIn("no work to do", run("ninja", "-C", work).stdout)
        (work / "f3.c").write_text("int f3(void) { return 3; }\n")
        self.assertNotIn("no work to do", run("ninja", "-C", work).stdout)
        self.assertIn("no work to do", run("ninja", "-C", work).stdout)
        run(work / "program")

    def test_programs_replace_the_file_they_run_from(self):
        program = self.channel / "program"
        shutil.copy("/bin/sleep", program)
        with subprocess.Popen([program, "60"]) as running:
            try:
                until(lambda: os.readlink(f"/proc/{running.pid}/exe") == str(program), "it runs")
                with self.assertRaises(OSError) as failed:
                    os.close(os.open(program, os.O_WRONLY))
                self.assertEqual(failed.exception.strerror, "Text file busy")
                shutil.copy("/bin/true", self.channel / "new")
                os.rename(self.channel / "new", program)
                run(program)
                self.assertIsNone(running.poll())
            finally:
                running.send_signal(signal.SIGTERM)


class Recorders(BoxTest):
    """The patterns of recorders that need no recorder. `video_test.py` has ffmpeg's."""

    def test_a_picture_replaced_all_the_time_is_never_seen_in_part(self):
        picture, pictures = self.channel / "latest.jpg", int(250 / PATIENCE)
        done = threading.Event()

        def replace():
            for number in range(pictures):
                path = self.channel / f".latest.{number % 3}.tmp"
                path.write_bytes(bytes([number % 251]) * (20_000 + number * 13 % 5000))
                os.rename(path, picture)
            done.set()

        picture.write_bytes(b"\0" * 20_000)
        writer = threading.Thread(target=replace)
        writer.start()
        seen = set()
        while not done.is_set():
            data = picture.read_bytes()
            self.assertGreaterEqual(len(data), 20_000)
            self.assertEqual(data, data[:1] * len(data), "two pictures in one")
            seen.add(data[0])
        writer.join()
        self.assertGreater(len(seen), 5)
        self.assertEqual(os.listdir(self.channel), ["latest.jpg"])

    def test_a_head_rewritten_while_the_file_grows(self):
        """gstreamer's robust mp4: the index near the head is written again and again, beside a tail that is appended to."""
        noise = random.Random(2)
        expected = bytearray(64 * KIB)
        with open(self.channel / "robust.mp4", "wb", buffering=0) as file, open(self.channel / "robust.mp4", "rb") as reader:
            file.write(expected)
            for number in range(60):
                body = noise.randbytes(50_000 + number)
                file.seek(0, os.SEEK_END)
                file.write(body)
                expected += body
                head = noise.randbytes(3000 + number * 10)
                at = 4096 * (number % 2)
                os.pwrite(file.fileno(), head, at)
                expected[at:at + len(head)] = head
                if number % 10 == 9:
                    os.fsync(file.fileno())
                    self.assertEqual(os.pread(reader.fileno(), len(expected) + 1, 0), expected)
        self.assertEqual((self.channel / "robust.mp4").read_bytes(), expected)
        self.assertLess(os.stat(self.channel / "robust.mp4").st_blocks * 512, len(expected) + MIB)

    def test_a_ring_of_files_written_over_and_over(self):
        """More than the devices hold goes through it: the space of what is cut off or removed is given back."""
        device_bytes = self.box.devices()[0]["blocks"] * self.box.devices()[0]["block_bytes"]
        body = random.Random(3).randbytes(8 * MIB)
        for number in range(device_bytes // len(body) * 3 // 2):
            path = self.channel / f"ring{number % 6}"
            if number % 12 >= 6:
                path.unlink()
            with open(path, "wb") as file:
                file.write(number.to_bytes(8, "little"))
                file.write(body)
        for number in range(6):
            data = (self.channel / f"ring{number}").read_bytes()
            self.assertEqual(int.from_bytes(data[:8], "little") % 6, number)
            self.assertEqual(data[8:], body)

    def test_events_in_folders_by_date(self):
        """ZoneMinder and motion: a folder an event, renamed when it ends, a link to the last, the oldest removed with all that is in them."""
        for event in range(20):
            folder = self.channel / "1" / "2024-05-01" / f".{event}"
            folder.mkdir(parents=True)
            with open(folder / "incomplete.mp4", "ab") as video:
                for number in range(5):
                    video.write(b"%d" % number * 20_000)
                    (folder / f"{number:05}-capture.jpg").write_bytes(b"jpeg" * 500)
                    last = self.channel / "lastsnap.new"
                    last.symlink_to((folder / f"{number:05}-capture.jpg").relative_to(self.channel))
                    os.replace(last, self.channel / "lastsnap.jpg")
                    self.assertEqual((self.channel / "lastsnap.jpg").read_bytes(), b"jpeg" * 500)
                os.rename(folder / "incomplete.mp4", folder / f"{event}-video.mp4")
            os.rename(folder, folder.with_name(str(event)))
            self.assertEqual((folder.with_name(str(event)) / f"{event}-video.mp4").stat().st_size, 100_000)
            if event >= 5:
                shutil.rmtree(folder.with_name(str(event - 5)))
        self.assertEqual(sorted(os.listdir(self.channel / "1/2024-05-01"), key=int), [str(number) for number in range(15, 20)])
        self.assertEqual(run("find", self.channel, "-type", "f").stdout.count("\n"), 30)


if __name__ == "__main__":
    unittest.main()
