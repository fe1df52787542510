"""The recorders, and the check of what they had acknowledged, copy by copy."""
import concurrent.futures
import dataclasses
import pathlib
import signal
import struct
import subprocess

from cluster import PROGRAMS, until

RECORDER = PROGRAMS / "nemesis_recorder"
CALL = struct.Struct("<BxHIQQQQ")  # recorder.cc's Call
OPEN, WRITE, FSYNC, CLOSE, REMOVE = range(5)
NAMES = {OPEN: "open", WRITE: "write", FSYNC: "fsync", CLOSE: "close", REMOVE: "remove"}


@dataclasses.dataclass
class File:
    stream: int
    number: int
    acknowledged: int = 0  # by fsync
    written: int = 0  # as far as any write reached, acknowledged or not, failed or not


@dataclasses.dataclass
class Finding:
    """What a check found in one file."""
    stream: int
    file: int
    wrong: int
    missing: int
    unreadable: int
    excess: int
    first: int  # offset of the first byte that is not right; -1: all are
    error: int

    @property
    def lost(self):
        return self.wrong + self.missing + self.unreadable


class Stream:
    def __init__(self, load, number, rate, keep=0):
        self.load, self.number, self.rate, self.keep = load, number, rate, keep
        self.channel = load.root / f"cam{number}"
        self.log = load.logs / f"{load.seed}.{number}.calls"
        self.process = None
        self.read = self.synced = 0  # of the log's bytes, and fsyncs among them that succeeded

    def start(self):
        self.channel.mkdir(exist_ok=True)
        self.process = subprocess.Popen(
            [RECORDER, "append", self.channel, f"r{self.load.seed}", "--log", self.log, "--seed", str(self.load.seed), "--stream",
             str(self.number), "--rate", str(self.rate), "--piece", str(self.load.piece), "--sync-ms", str(self.load.sync_ms),
             "--file-bytes", str(self.load.file_bytes), "--keep-files", str(self.keep)], stdin=subprocess.DEVNULL, start_new_session=True)

    def calls(self):
        """(kind, errno, file, start in ns, duration in ns, offset, bytes) of each that has returned."""
        data = self.log.read_bytes() if self.log.exists() else b""
        return CALL.iter_unpack(data[:len(data) - len(data) % CALL.size])

    def count_synced(self):
        """How many fsyncs have succeeded, from what was logged since the last count."""
        if self.log.exists():
            with open(self.log, "rb") as log:
                log.seek(self.read)
                new = log.read()
            new = new[:len(new) - len(new) % CALL.size]
            self.read += len(new)
            self.synced += sum(kind == FSYNC and not error for kind, error, *_ in CALL.iter_unpack(new))
        return self.synced

    def path(self, file, root=None):
        channel = self.channel if root is None else root / self.channel.name
        return channel / f"r{self.load.seed}.{file:05}"


class Load:
    """Recorders at a camera's rate and one at full speed. Their files' contents follow from the seed."""

    KEPT = 32  # files of the one at full speed, which would fill any disk; it removes older ones

    def __init__(self, root, logs, seed, streams=16, rate=500_000, full_rate=0, full=True, piece=64 << 10, sync_ms=1000,
                 file_bytes=32 << 20):
        self.root, self.logs, self.seed = pathlib.Path(root), pathlib.Path(logs), seed
        self.piece, self.sync_ms, self.file_bytes = piece, sync_ms, file_bytes
        self.streams = [Stream(self, number, rate) for number in range(streams)]
        if full:
            self.streams.append(Stream(self, streams, full_rate, self.KEPT))
        for stream in self.streams:
            stream.start()

    def synced(self):
        return [stream.count_synced() for stream in self.streams]

    def goes_on(self, seconds):
        """Waits until each stream has had another fsync."""
        before = self.synced()
        until(lambda: all(now > then for now, then in zip(self.synced(), before)), "every recorder has an fsync", seconds)

    def stop(self, seconds=120):
        """Ends all recorders, each after a last fsync."""
        for stream in self.streams:
            stream.process.send_signal(signal.SIGTERM)
        for stream in self.streams:
            stream.process.wait(seconds)

    def kill(self):
        for stream in self.streams:
            stream.process.kill()

    def files(self):
        """What was acknowledged, by (stream, file), but for files that their recorder has removed."""
        files = {}
        for stream in self.streams:
            for kind, error, number, _, _, offset, bytes_ in stream.calls():
                if kind == REMOVE and not error:
                    del files[stream.number, number]
                    continue
                file = files.setdefault((stream.number, number), File(stream.number, number))
                if kind == WRITE:
                    file.written = max(file.written, offset + bytes_)
                elif kind == FSYNC and not error:
                    file.acknowledged = max(file.acknowledged, offset)
        return files

    def check(self, root):
        """Reads every file below this root. @return a Finding for each"""
        by_stream = {}
        for file in self.files().values():
            by_stream.setdefault(file.stream, []).append((self.streams[file.stream].path(file.number, root), self.seed, file))
        # Some at once, since a read that no copy answers takes until the timeout; more are too much for a small machine.
        with concurrent.futures.ThreadPoolExecutor(3) as pool:
            return [finding for findings in pool.map(check_files, by_stream.values()) for finding in findings]

    def remove(self):
        for file in self.files().values():
            self.streams[file.stream].path(file.number).unlink(missing_ok=True)


def check_files(files):
    """@param files  (path, seed, File) of each"""
    lines = "".join(f"{file.stream} {seed} {file.number} {file.acknowledged} {file.written} {path}\n" for path, seed, file in files)
    done = subprocess.run([RECORDER, "check"], input=lines, stdout=subprocess.PIPE, text=True, check=True)
    findings = [Finding(*map(int, line.split())) for line in done.stdout.splitlines()]
    if len(findings) != lines.count("\n"):
        raise AssertionError(f"{lines.count(chr(10))} files, {len(findings)} were checked")
    return findings
