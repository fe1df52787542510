"""What the benchmarks share: incompressible bytes, appending them, a cluster to do it on."""
import contextlib
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

KIB, MIB = 1 << 10, 1 << 20
PROGRAMS = pathlib.Path(__file__).resolve().parent.parent / "build/release/bin"
NOISE = os.urandom(17 * MIB)  # video neither compresses nor repeats


def pieces(total, size):
    for offset in range(0, total, size):
        at = offset * 7 % (16 * MIB)
        yield memoryview(NOISE)[at:at + size]


def append(path, total, fsync_every):
    """Seconds of every fsync."""
    waits, since = [], 0
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o644)
    try:
        for piece in pieces(total, 64 * KIB):
            view = piece
            while view:
                view = view[os.write(fd, view):]
            since += len(piece)
            if since >= fsync_every:
                waits.append(timed(lambda: os.fsync(fd)))
                since = 0
        if since:
            waits.append(timed(lambda: os.fsync(fd)))
    finally:
        os.close(fd)
    return waits


def timed(action):
    start = time.monotonic()
    action()
    return time.monotonic() - start


@contextlib.contextmanager
def box(below, *options):
    """A cluster of real processes for the time of the benchmark, made with these options of `reelctl box up`; gives the directory
    that has it in box/ and its mount in mnt/."""
    base = pathlib.Path(tempfile.mkdtemp(prefix="reelfs-bench-", dir=below))
    reelctl = PROGRAMS / "reelctl"
    try:
        subprocess.run([reelctl, "box", "up", "--dir", base / "box", "--mount", base / "mnt", *options], check=True,
                       stdout=sys.stderr)
        yield base
    finally:
        subprocess.run([reelctl, "box", "down", "--dir", base / "box", "--purge"], check=False, stdout=sys.stderr)
        shutil.rmtree(base, ignore_errors=True)
