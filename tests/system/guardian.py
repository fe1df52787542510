"""Waits until its standard input ends, which is when the test closes it or dies, then leaves nothing of the test's box:
processes, mounts, shared memory, files. Signals only processes that run out of the test's own directory.

    guardian.py DIRECTORY
"""
import os
import pathlib
import shutil
import signal
import subprocess
import sys

PROGRAMS = pathlib.Path(os.environ.get("REELFS_BIN",
                                       pathlib.Path(__file__).resolve().parents[2] / "build/release/bin"))


def mounted_below(base, kind=""):
    with open("/proc/self/mountinfo", encoding="utf-8") as mounts:
        mounted = [(line.split()[4], line.partition(" - ")[2].split()[0]) for line in mounts]
    return [point for point, type in mounted if point.startswith(f"{base}/") and type.startswith(kind)]


def processes_of(base):
    """Those with the directory on their command line: the box's daemons and mounts."""
    for entry in pathlib.Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) in (os.getpid(), os.getppid()):
            continue
        try:
            arguments = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        program = os.path.basename(arguments[0].decode(errors="replace"))
        if program in ("indexd", "noded", "reelfs") and any(str(base).encode() + b"/" in one for one in arguments):
            yield int(entry.name)


def main():
    base = pathlib.Path(sys.argv[1])
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    sys.stdin.read()
    for pid in processes_of(base):
        os.kill(pid, signal.SIGCONT)
    for point in mounted_below(base, "ext4"):
        # One that a test froze would be unmounted only in name, and whoever writes to it hang for ever.
        subprocess.run(["fsfreeze", "-u", point], check=False, stderr=subprocess.DEVNULL)
    for point in reversed(mounted_below(base)):
        subprocess.run(["umount", "-l", point], check=False)
    subprocess.run([PROGRAMS / "reelctl", "box", "down", "--purge", "--dir", base / "box"], check=False,
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=180)
    for pid in processes_of(base):
        os.kill(pid, signal.SIGKILL)
    if not mounted_below(base):
        shutil.rmtree(base, ignore_errors=True)


if __name__ == "__main__":
    main()
