"""Waits until its standard input ends, which is when the run ends or dies, then leaves nothing of it: processes, mounts, network
namespaces, files. Signals only processes that have the run's own directory on their command line.

    guardian.py DIRECTORY NAMESPACE-PREFIX
"""
import os
import pathlib
import shutil
import signal
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "system"))

from guardian import mounted_below  # noqa: E402  (that of tests/system: this one is the program)

PROGRAMS = ("indexd", "noded", "reelfs", "nemesis_disk", "nemesis_recorder")


def processes_of(base):
    for entry in pathlib.Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            arguments = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        program = os.path.basename(arguments[0].decode(errors="replace"))
        if program in PROGRAMS and any(f"{base}/".encode() in one for one in arguments):
            yield int(entry.name)


def main():
    base, prefix = pathlib.Path(sys.argv[1]), sys.argv[2]
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    sys.stdin.read()
    # Also the disks: what hangs in one ends with it. Twice, as a supervisor may have started a worker meanwhile.
    for _ in range(2):
        for pid in processes_of(base):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
    for point in reversed(mounted_below(base)):
        subprocess.run(["umount", "-l", point], check=False)
    for name in subprocess.run(["ip", "netns", "list"], stdout=subprocess.PIPE, text=True, check=False).stdout.split():
        if name.startswith(prefix):
            subprocess.run(["ip", "netns", "delete", name], check=False)
    if not mounted_below(base):
        shutil.rmtree(base, ignore_errors=True)


if __name__ == "__main__":
    main()
