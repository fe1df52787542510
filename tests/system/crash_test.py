"""Every process of the box killed at once while it records: nothing that was promised is lost, and nothing is leaked."""
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time
import unittest

from harness import BoxTest, HERE, PATIENCE, limit, run, until

ROUNDS = 3
PIECE = 64 * 1024


def pattern(name, offset, length):
    """What the writer of a file puts there, so that any byte can be checked without having been kept."""
    number = offset // PIECE
    dice = random.Random(f"{name}/{number}")
    assert offset % PIECE == 0 and length <= PIECE
    return dice.randbytes(length)


def record(directory, log, number):
    """Records files until the mount fails; puts down in the log, after each fsync, how much of a file is safe, and each name
    that was made or changed."""
    with open(log, "a", encoding="utf-8", buffering=1) as journal:
        dice = random.Random(number)
        count = 0
        try:
            while True:
                name = f"writer{number}-{count:04}.ts"
                count += 1
                fd = os.open(directory / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
                journal.write(json.dumps({"made": name}) + "\n")
                size = 0
                for _ in range(dice.randrange(1, 200)):
                    size += os.write(fd, pattern(name, size, PIECE))
                    if dice.random() < 0.1:
                        os.fsync(fd)
                        journal.write(json.dumps({"safe": name, "size": size}) + "\n")
                os.close(fd)
                if count % 5 == 0:
                    os.rename(directory / name, directory / f"{name}.done")
                    journal.write(json.dumps({"renamed": name}) + "\n")
                if count % 7 == 0:
                    victim = f"writer{number}-{count - 2:04}.ts"
                    if (directory / victim).exists():
                        journal.write(json.dumps({"removing": victim}) + "\n")
                        os.unlink(directory / victim)
        except OSError:
            return


class PowerLoss(BoxTest):
    box_settings = {"device_size": "6G", "block_size": "4M"}

    def start_writers(self, directory, logs):
        return [subprocess.Popen([sys.executable, __file__, "--record", directory, logs / f"{number}", str(number)],
                                 cwd=HERE) for number in range(4)]

    def promised(self, logs):
        """name -> bytes that were fsynced, for every file that must be there."""
        safe, renamed, removing = {}, set(), set()
        for log in logs.iterdir():
            for line in log.read_text().splitlines():
                entry = json.loads(line)
                if "made" in entry:
                    safe.setdefault(entry["made"], 0)
                if "safe" in entry:
                    safe[entry["safe"]] = entry["size"]
                if "renamed" in entry:
                    renamed.add(entry["renamed"])
                if "removing" in entry:
                    removing.add(entry["removing"])
        return safe, renamed, removing

    def verify(self, directory, logs):
        safe, renamed, removing = self.promised(logs)
        there = {path.name for path in directory.iterdir()}
        fsynced = 0
        for name, size in safe.items():
            if name in removing:
                continue
            # The writer may have died between the rename and putting it down; a rename that was put down must hold.
            if name in renamed:
                self.assertIn(f"{name}.done", there)
            path = directory / (f"{name}.done" if f"{name}.done" in there else name)
            self.assertIn(path.name, there)
            self.check_contents(path, name, size)
            fsynced += size
        for name in there:
            (directory / name).read_bytes()
        return len(there), fsynced

    def check_contents(self, path, name, size):
        with open(path, "rb") as file:
            self.assertGreaterEqual(os.fstat(file.fileno()).st_size, size, f"{path}: fsynced bytes are gone")
            for offset in range(0, size, PIECE):
                if file.read(PIECE) != pattern(name, offset, PIECE):
                    self.fail(f"{path}: other bytes at {offset} than were fsynced")

    def test_nothing_fsynced_is_lost_when_all_processes_are_killed(self):
        dice = random.Random(time.time_ns())
        for number in range(ROUNDS):
            with self.subTest(round=number):
                self.one_round(f"round{number}", dice.uniform(2.0, 5.0))

    def one_round(self, name, seconds):
        directory = self.channel / name
        directory.mkdir()
        logs = self.box.local / name
        logs.mkdir()
        writers = self.start_writers(directory, logs)
        begun = time.monotonic()
        until(lambda: time.monotonic() - begun > seconds * PATIENCE and
              sum("safe" in log.read_text() for log in logs.iterdir()) == len(writers),
              "every writer has fsynced something", 60)
        self.box.kill()
        for writer in writers:
            writer.wait(60 * PATIENCE)
        self.box.start()
        with limit(self, 5 * PATIENCE, "the first write after the restart"):
            fd = os.open(directory / "after", os.O_WRONLY | os.O_CREAT, 0o644)
            os.write(fd, b"at once")
            os.fsync(fd)
            os.close(fd)
        files, fsynced = self.verify(directory, logs)
        self.assertGreater(fsynced, 0)
        self.assertEqual((directory / "after").read_bytes(), b"at once")
        until(self.box.blocks_add_up, "free blocks and segments' copies add up to all blocks", 60)
        run("rm", "-r", directory)
        print(f"{name}: killed after {seconds:.1f} s; {files} files, {fsynced >> 20} MiB had been fsynced",
              file=sys.stderr)

    def test_removing_everything_gives_every_block_back(self):
        for number in range(20):
            (self.channel / f"{number}").write_bytes(os.urandom(3 << 20))
        self.box.kill()
        self.box.start()
        run("rm", "-r", self.channel)
        for other in self.box.mount.iterdir():
            run("rm", "-r", other)
        # Unfilled segments without live bytes are freed in the background; those granted to this mount stay with it.
        run("umount", self.box.mount)
        until(lambda: not self.box.segments() and self.box.blocks_add_up(),
              "every block is free but those of the index's journal", 60)
        self.box.start()


class Restarts(BoxTest):
    """One process killed and started again under a mount that goes on."""

    def test_the_index_server(self):
        (self.channel / "before").write_bytes(b"1" * 100_000)
        self.box.kill_process("index1")
        self.box.start()
        self.assertEqual((self.channel / "before").read_bytes(), b"1" * 100_000)
        (self.channel / "after").write_bytes(b"2" * 100_000)
        self.assertEqual((self.channel / "after").read_bytes(), b"2" * 100_000)

    def test_the_index_server_while_a_file_is_written(self):
        # The file belongs to a process of its own: reelctl, started from here, would close its copy of the descriptor, and
        # that waits for the index server.
        code = """if True:
            import os, sys
            with open(sys.argv[1], "wb", buffering=0) as file:
                for line in sys.stdin:
                    file.write(line.strip().encode() * 300_000)
                    print("written", flush=True)
                os.fsync(file.fileno())
        """
        with subprocess.Popen([sys.executable, "-c", code, self.channel / "written"], stdin=subprocess.PIPE,
                              stdout=subprocess.PIPE, text=True) as writer:
            def write(letter):
                writer.stdin.write(letter + "\n")
                writer.stdin.flush()
                self.assertEqual(writer.stdout.readline(), "written\n")

            write("a")
            self.box.kill_process("index1")
            with limit(self, 2, "a write without an index server"):
                write("b")
            self.box.start()
            write("c")
            writer.stdin.close()
            self.assertEqual(writer.wait(60 * PATIENCE), 0)
        self.assertEqual((self.channel / "written").read_bytes(), b"a" * 300_000 + b"b" * 300_000 + b"c" * 300_000)

    def test_each_worker_in_turn(self):
        (self.channel / "before").write_bytes(b"1" * 300_000)
        for name, process in self.box.processes().items():
            if process["role"] != "node":
                continue
            os.kill(process["pid"], signal.SIGKILL)
            self.box.start(name)
            self.assertEqual((self.channel / "before").read_bytes(), b"1" * 300_000, name)
            (self.channel / f"after {name}").write_bytes(b"2" * 300_000)
            self.assertEqual((self.channel / f"after {name}").read_bytes(), b"2" * 300_000, name)
        until(self.box.blocks_add_up, "free blocks and segments' copies add up to all blocks", 60)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--record"]:
        record(pathlib.Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
    else:
        unittest.main()
