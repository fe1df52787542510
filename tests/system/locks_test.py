"""flock(2), fcntl(2) and open-file-description locks, on one mount and across mounts."""
import errno
import fcntl
import json
import os
import signal
import sqlite3
import statistics
import subprocess
import sys
import textwrap
import time
import unittest

from harness import REELFS, BoxTest, TwoMountsTest, limit, until

LEASE = 10.0  # seconds, of a session

# A program that does what it is told, a line at a time, and says how that went and when.
PROGRAM = textwrap.dedent("""
    import errno, fcntl, json, os, signal, struct, sys, time
    from fcntl import (F_GETLK, F_OFD_GETLK, F_OFD_SETLK, F_OFD_SETLKW, F_RDLCK, F_SETLK, F_SETLKW, F_UNLCK, F_WRLCK,
                       LOCK_EX, LOCK_NB, LOCK_SH, LOCK_UN, flock)
    FLOCK = "hhqqi4x"

    def lock(fd, kind, start=0, length=0, whence=os.SEEK_SET, command=F_SETLK):
        fcntl.fcntl(fd, command, struct.pack(FLOCK, kind, whence, start, length, 0))

    def test(fd, kind, start=0, length=0, command=F_GETLK):
        told = fcntl.fcntl(fd, command, struct.pack(FLOCK, kind, os.SEEK_SET, start, length, 0))
        kind, whence, start, length, pid = struct.unpack(FLOCK, told)
        return None if kind == F_UNLCK else [kind, start, length, pid]

    handled = []
    def handle(number, restart):
        signal.signal(number, lambda *_: handled.append(number))
        signal.siginterrupt(number, not restart)

    def c_lock(fd, kind, how):
        # The system call itself: Python would call it again after a signal.
        import ctypes
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.fcntl(fd, how, ctypes.c_char_p(struct.pack(FLOCK, kind, 0, 0, 0, 0))) != 0:
            raise OSError(ctypes.get_errno(), "fcntl")

    def fork():
        pid = os.fork()
        if pid == 0:
            signal.pause()
        return pid

    for line in sys.stdin:
        try:
            told = {"value": eval(line), "errno": 0}
        except OSError as error:
            told = {"value": str(error), "errno": error.errno}
        print(json.dumps({**told, "at": time.monotonic()}), flush=True)
""")


class Program:
    def __init__(self, test):
        self.process = subprocess.Popen([sys.executable, "-c", PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        text=True)
        self.at = 0.0  # when the last command was done
        test.addCleanup(self.end)

    @property
    def pid(self):
        return self.process.pid

    def begin(self, command):
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()

    def finish(self):
        told = json.loads(self.process.stdout.readline())
        self.at = told["at"]
        if told["errno"]:
            raise OSError(told["errno"], told["value"])
        return told["value"]

    def __call__(self, command):
        self.begin(command)
        return self.finish()

    def open(self, path, flags="os.O_RDWR | os.O_CREAT"):
        return self(f"os.open({str(path)!r}, {flags})")

    def end(self):
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


def kill(pid):
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


class Locks(TwoMountsTest):
    def setUp(self):
        super().setUp()
        self.here = self.channel / "file"
        self.there = self.other / "file"
        self.here.write_bytes(b"0123456789")

    def program(self, path=None, flags="os.O_RDWR | os.O_CREAT"):
        """A program with the file open as its descriptor fd."""
        program = Program(self)
        program.fd = program.open(path or self.here, flags)
        return program

    def refuses(self, program, command, number=errno.EAGAIN):
        with self.assertRaises(OSError) as refused:
            program(command.format(fd=program.fd))
        self.assertEqual(refused.exception.errno, number, refused.exception)

    def takes(self, program, command):
        return program(command.format(fd=program.fd))

    def locks(self, **wanted):
        """What reelctl lists of this test's file."""
        listed = [lock for lock in self.box.reelctl("lock", "list")["locks"]
                  if lock["path"].startswith(self.channel.name + "/")]
        return [lock for lock in listed if all(lock[key] == value for key, value in wanted.items())]

    def until_waiting(self, count=1):
        until(lambda: len(self.locks(state="waiting")) == count, f"{count} wait")

    def pairs(self):
        """Two programs on one mount, and on two."""
        for path in (self.here, self.there):
            first, second = self.program(), self.program(path)
            second.is_elsewhere = path == self.there
            yield first, second
            first.end()
            second.end()
            until(lambda: not self.locks(), "the locks went with the programs", 2)

    def fork(self, program):
        """Its child, which only waits to be killed."""
        child = program("fork()")
        self.addCleanup(kill, child)
        return child

    # ---- what is refused and what is not

    def test_flock(self):
        for one, two in self.pairs():
            self.takes(one, "flock({fd}, LOCK_SH)")
            self.takes(two, "flock({fd}, LOCK_SH | LOCK_NB)")
            self.refuses(one, "flock({fd}, LOCK_EX | LOCK_NB)")  # and gives its own up, as flock(2) says
            self.takes(two, "flock({fd}, LOCK_EX | LOCK_NB)")
            self.refuses(one, "flock({fd}, LOCK_SH | LOCK_NB)")
            self.takes(two, "flock({fd}, LOCK_UN)")
            self.takes(one, "flock({fd}, LOCK_EX | LOCK_NB)")
            # Of no concern to fcntl.
            self.takes(two, "lock({fd}, F_WRLCK)")
            self.assertIsNone(self.takes(two, "test({fd}, F_WRLCK)"))

    def test_fcntl_ranges(self):
        for one, two in self.pairs():
            self.takes(one, "lock({fd}, F_WRLCK, 10, 10)")
            self.takes(two, "lock({fd}, F_WRLCK, 0, 10)")
            self.takes(two, "lock({fd}, F_WRLCK, 20)")  # to the end
            self.refuses(two, "lock({fd}, F_RDLCK, 19, 1)")
            self.refuses(one, "lock({fd}, F_RDLCK, 5, 1)")
            self.refuses(one, "lock({fd}, F_RDLCK, 1 << 40, 1)")
            self.takes(one, "lock({fd}, F_UNLCK, 12, 3)")  # the middle
            self.takes(two, "lock({fd}, F_WRLCK, 12, 3)")
            self.refuses(two, "lock({fd}, F_WRLCK, 11, 1)")
            self.refuses(two, "lock({fd}, F_WRLCK, 15, 1)")
            self.takes(one, "lock({fd}, F_RDLCK, 15, 5)")  # a downgrade of a part
            self.takes(two, "lock({fd}, F_RDLCK, 15, 5)")
            self.refuses(one, "lock({fd}, F_WRLCK, 15, 5)")  # an upgrade that is refused keeps what there was
            self.refuses(two, "lock({fd}, F_WRLCK, 15, 5)")

    def test_relative_and_negative_ranges(self):
        for one, two in self.pairs():
            self.takes(one, "lock({fd}, F_WRLCK, -4, 2, os.SEEK_END)")  # bytes 6 and 7 of 10
            self.refuses(two, "lock({fd}, F_WRLCK, 7, 1)")
            self.takes(two, "lock({fd}, F_WRLCK, 8, 2)")
            self.takes(two, "lock({fd}, F_WRLCK, 6, -3)")  # bytes 3 to 5
            self.refuses(one, "lock({fd}, F_WRLCK, 3, 1)")
            self.takes(one, "os.lseek({fd}, 1, os.SEEK_SET)")
            self.takes(one, "lock({fd}, F_WRLCK, 1, 1, os.SEEK_CUR)")
            self.refuses(two, "lock({fd}, F_WRLCK, 2, 1)")
            self.refuses(one, "lock({fd}, F_WRLCK, -1, 1)", errno.EINVAL)

    def test_getlk_tells_who_is_in_the_way(self):
        for one, two in self.pairs():
            self.takes(one, "lock({fd}, F_WRLCK, 10, 10)")
            kind, start, length, pid = self.takes(two, "test({fd}, F_RDLCK, 0, 15)")
            self.assertEqual((kind, start, length), (fcntl.F_WRLCK, 10, 10))
            self.assertEqual(pid, 0 if two.is_elsewhere else one.pid)
            self.assertIsNone(self.takes(two, "test({fd}, F_RDLCK, 0, 10)"))
            self.assertIsNone(self.takes(one, "test({fd}, F_WRLCK)"))  # one's own is not in the way
            self.assertEqual(self.takes(two, "test({fd}, F_RDLCK, 0, 15, F_OFD_GETLK)")[3], -1)

    def test_a_lock_needs_the_descriptor_to_allow_it(self):
        reader = self.program(flags="os.O_RDONLY")
        self.takes(reader, "lock({fd}, F_RDLCK)")
        self.refuses(reader, "lock({fd}, F_WRLCK)", errno.EBADF)
        self.takes(reader, "flock({fd}, LOCK_EX)")  # flock does not mind

    # ---- what drops locks

    def test_closing_any_descriptor_drops_the_locks_of_fcntl(self):
        for flags in ("os.O_RDWR", "os.O_RDONLY"):
            for one, two in self.pairs():
                self.takes(one, "lock({fd}, F_WRLCK)")
                another = one.open(self.here, flags)
                self.refuses(two, "lock({fd}, F_RDLCK)")
                one(f"os.close({another})")
                self.takes(two, "lock({fd}, F_WRLCK)")

    def test_closing_a_duplicate_drops_fcntl_and_keeps_flock(self):
        for one, two in self.pairs():
            self.takes(one, "lock({fd}, F_WRLCK)")
            self.takes(one, "flock({fd}, LOCK_EX)")
            duplicate = self.takes(one, "os.dup({fd})")
            one(f"os.close({duplicate})")
            self.takes(two, "lock({fd}, F_WRLCK)")
            self.refuses(two, "flock({fd}, LOCK_SH | LOCK_NB)")

    def test_a_forked_child_has_the_flock_and_not_the_lock_of_fcntl(self):
        for one, two in self.pairs():
            self.takes(one, "flock({fd}, LOCK_EX)")
            self.takes(one, "lock({fd}, F_WRLCK)")
            child = self.fork(one)
            one.process.kill()
            one.process.wait()
            self.takes(two, "lock({fd}, F_WRLCK)")
            self.refuses(two, "flock({fd}, LOCK_SH | LOCK_NB)")
            kill(child)
            self.takes(two, "flock({fd}, LOCK_EX)")  # once it is gone

    def test_a_killed_program_has_no_locks(self):
        for one, two in self.pairs():
            for command in ("lock({fd}, F_WRLCK)", "flock({fd}, LOCK_EX)"):
                self.takes(one, command)
            one.process.kill()
            one.process.wait()
            with limit(self, 2, "to get the locks of the dead"):
                self.takes(two, "lock({fd}, F_WRLCK, command=F_SETLKW)")
                self.takes(two, "flock({fd}, LOCK_EX)")

    # ---- locks of open file descriptions

    def test_open_file_locks(self):
        for one, two in self.pairs():
            self.takes(one, "lock({fd}, F_WRLCK, 0, 5, command=F_OFD_SETLK)")
            self.refuses(two, "lock({fd}, F_RDLCK, 4, 1)")
            self.refuses(two, "lock({fd}, F_RDLCK, 4, 1, command=F_OFD_SETLK)")
            self.refuses(one, "lock({fd}, F_WRLCK, 4, 1)")  # not even the process itself
            another = one.open(self.here)
            with self.assertRaises(BlockingIOError):
                one(f"lock({another}, F_WRLCK, 4, 1, command=F_OFD_SETLK)")
            one(f"os.close({another})")  # drops nothing of it
            duplicate = self.takes(one, "os.dup({fd})")
            one(f"lock({duplicate}, F_WRLCK, 5, 5, command=F_OFD_SETLK)")  # the same owner
            self.takes(one, "os.close({fd})")
            self.refuses(two, "lock({fd}, F_RDLCK, 0, 1)")
            one(f"os.close({duplicate})")  # the last
            until(lambda: not self.locks(), "the locks went with the last descriptor")
            self.takes(two, "lock({fd}, F_WRLCK)")

    def test_an_open_file_lock_is_the_childs_as_well(self):
        one, two = self.program(), self.program(self.there)
        self.takes(one, "lock({fd}, F_WRLCK, command=F_OFD_SETLK)")
        child = self.fork(one)
        one.process.kill()
        one.process.wait()
        self.refuses(two, "lock({fd}, F_WRLCK, command=F_OFD_SETLK)")
        kill(child)
        self.takes(two, "lock({fd}, F_WRLCK, command=F_OFD_SETLKW)")

    # ---- waiting

    def test_who_waits_gets_it_at_once(self):
        for take, drop in (("lock({fd}, F_WRLCK, command=F_SETLKW)", "lock({fd}, F_UNLCK)"),
                           ("flock({fd}, LOCK_EX)", "flock({fd}, LOCK_UN)"),
                           ("lock({fd}, F_WRLCK, command=F_OFD_SETLKW)", "lock({fd}, F_UNLCK, command=F_OFD_SETLK)")):
            for one, two in self.pairs():
                took = []
                for _ in range(7):
                    self.takes(one, take)
                    two.begin(take.format(fd=two.fd))
                    self.until_waiting()
                    self.takes(one, drop)
                    two.finish()
                    took.append(two.at - one.at)
                    self.takes(two, drop)
                self.assertLess(statistics.median(took), 0.1, took)

    def test_a_long_wait_ends_with_the_lock(self):
        """Longer than one call to the index takes, and than several."""
        one, two = self.program(), self.program(self.there)
        self.takes(one, "lock({fd}, F_WRLCK)")
        two.begin(f"lock({two.fd}, F_WRLCK, command=F_SETLKW)")
        self.until_waiting()
        one("time.sleep(4)")  # what the holder does meanwhile
        self.assertEqual(len(self.locks(state="waiting")), 1)
        self.takes(one, "lock({fd}, F_UNLCK)")
        two.finish()
        self.assertLess(two.at - one.at, 0.5)
        self.assertEqual([lock["state"] for lock in self.locks()], ["held"])

    def test_a_signal_ends_the_wait(self):
        for holder in (self.here, self.there):
            one, two = self.program(holder), self.program()
            self.takes(one, "lock({fd}, F_WRLCK)")
            two("handle(signal.SIGUSR1, restart=False)")
            two.begin(f"c_lock({two.fd}, F_WRLCK, F_SETLKW)")
            self.until_waiting()
            at = time.monotonic()
            two.process.send_signal(signal.SIGUSR1)
            with self.assertRaises(InterruptedError):
                two.finish()
            self.assertLess(two.at - at, 0.15)
            self.assertEqual(two("handled"), [signal.SIGUSR1])
            self.assertEqual(self.locks(state="waiting"), [])
            self.takes(one, "lock({fd}, F_UNLCK)")
            self.assertEqual(self.locks(), [])  # nothing came late
            one.end()
            two.end()

    def test_a_wait_goes_on_after_a_signal_with_sa_restart(self):
        one, two = self.program(self.there), self.program()
        self.takes(one, "lock({fd}, F_WRLCK)")
        two("handle(signal.SIGUSR1, restart=True)")
        two.begin(f"c_lock({two.fd}, F_WRLCK, F_SETLKW)")
        self.until_waiting()
        for _ in range(3):
            two.process.send_signal(signal.SIGUSR1)
            time.sleep(0.1)  # whatever it does to the wait
        self.until_waiting()
        self.takes(one, "lock({fd}, F_UNLCK)")
        two.finish()
        self.assertEqual([lock["state"] for lock in self.locks()], ["held"])

    def test_who_waits_can_be_killed(self):
        one, two = self.program(self.there), self.program()
        self.takes(one, "flock({fd}, LOCK_EX)")
        two.begin(f"flock({two.fd}, LOCK_EX)")
        self.until_waiting()
        with limit(self, 1, "to die"):
            two.process.kill()
            two.process.wait()
        until(lambda: not self.locks(state="waiting"), "nobody waits", 2)
        self.takes(one, "flock({fd}, LOCK_UN)")
        self.assertEqual(self.locks(), [])

    def test_an_upgrade_waits_for_the_other_reader(self):
        one, two = self.program(), self.program(self.there)
        self.takes(one, "lock({fd}, F_RDLCK)")
        self.takes(two, "lock({fd}, F_RDLCK)")
        one.begin(f"lock({one.fd}, F_WRLCK, command=F_SETLKW)")
        self.until_waiting()
        with self.assertRaises(OSError) as refused:  # both would wait for ever
            two(f"lock({two.fd}, F_WRLCK, command=F_SETLKW)")
        self.assertEqual(refused.exception.errno, errno.EDEADLK)
        self.takes(two, "lock({fd}, F_UNLCK)")
        one.finish()

    def test_deadlock(self):
        one, two, three = self.program(), self.program(self.there), self.program()
        for number, program in enumerate((one, two, three)):
            self.takes(program, f"lock({{fd}}, F_WRLCK, {number}, 1)")
        one.begin(f"lock({one.fd}, F_WRLCK, 1, 1, command=F_SETLKW)")
        two.begin(f"lock({two.fd}, F_WRLCK, 2, 1, command=F_SETLKW)")
        self.until_waiting(2)
        with limit(self, 1, "to notice the deadlock"):
            self.refuses(three, "lock({fd}, F_WRLCK, 0, 1, command=F_SETLKW)", errno.EDEADLK)
        self.takes(three, "lock({fd}, F_UNLCK)")
        two.finish()
        self.takes(two, "lock({fd}, F_UNLCK)")
        one.finish()

    # ---- what is written under a lock

    def test_who_locks_next_reads_what_was_written(self):
        one, two = self.program(), self.program(self.there)
        for turn in range(20):
            for writer, reader in ((one, two), (two, one)):
                text = f"{turn:4} {writer.pid}".encode()
                self.takes(writer, "lock({fd}, F_WRLCK, command=F_SETLKW)")
                self.takes(writer, f"os.pwrite({{fd}}, {text!r}, 0)")
                self.takes(writer, "lock({fd}, F_UNLCK)")
                self.takes(reader, "lock({fd}, F_RDLCK, command=F_SETLKW)")
                self.assertEqual(self.takes(reader, f"os.pread({{fd}}, {len(text)}, 0).decode()"), text.decode())
                self.takes(reader, "lock({fd}, F_UNLCK)")

    # ---- the list

    def test_the_list_tells_all(self):
        one, two = self.program(), self.program(self.there)
        self.takes(one, "lock({fd}, F_WRLCK, 100, 50)")
        self.takes(one, "flock({fd}, LOCK_SH)")
        two.begin(f"lock({two.fd}, F_RDLCK, 0, 0, command=F_SETLKW)")
        self.until_waiting()
        listed = sorted(self.locks(), key=lambda lock: (lock["state"], lock["kind"]))
        self.assertEqual([(lock["kind"], lock["type"], lock["state"], lock["first"], lock["last"], lock["pid"])
                          for lock in listed],
                         [("fcntl", "write", "held", 100, 149, one.pid), ("flock", "read", "held", 0, None, one.pid),
                          ("fcntl", "read", "waiting", 0, None, two.pid)])
        self.assertEqual({lock["purpose"] for lock in listed},
                         {f"mount {self.box.mount}", f"mount {self.second.point}"})
        self.assertEqual({lock["inode"] for lock in listed}, {self.here.stat().st_ino})


class Failures(BoxTest):
    """With what is killed."""

    program = Locks.program
    refuses = Locks.refuses
    takes = Locks.takes
    locks = Locks.locks
    until_waiting = Locks.until_waiting

    def setUp(self):
        super().setUp()
        self.here = self.channel / "file"
        self.second = self.box.another_mount()
        self.there = self.second.point / self.channel.name / "file"
        self.here.write_bytes(b"0123456789")

    def test_a_dead_mounts_locks_go_within_its_lease(self):
        one = self.program(self.there)
        self.takes(one, "lock({fd}, F_WRLCK)")
        self.takes(one, "flock({fd}, LOCK_EX)")
        two, three = self.program(), self.program()
        two.begin(f"lock({two.fd}, F_WRLCK, command=F_SETLKW)")
        three.begin(f"flock({three.fd}, LOCK_EX)")
        self.until_waiting(2)
        died = time.monotonic()
        self.second.process.kill()
        self.refuses(self.program(), "lock({fd}, F_RDLCK)")
        two.finish()
        three.finish()
        for took in (two.at - died, three.at - died):
            self.assertGreater(took, LEASE / 2)
            self.assertLess(took, LEASE + 1)

    def test_an_unmount_drops_at_once_what_is_left(self):
        one = self.program(self.there)
        self.takes(one, "lock({fd}, F_WRLCK)")
        two = self.program()
        self.second.process.terminate()  # while the file is open: serving ends all the same
        self.second.process.wait(60)
        with limit(self, 2, "to get the lock"):
            self.takes(two, "lock({fd}, F_WRLCK, command=F_SETLKW)")

    def test_locks_outlive_the_index(self):
        one, two, three = self.program(), self.program(self.there), self.program(self.there)
        self.takes(one, "lock({fd}, F_WRLCK, 0, 10)")
        self.takes(one, "lock({fd}, F_RDLCK, 20, 10)")
        self.takes(one, "flock({fd}, LOCK_EX)")
        two.begin(f"lock({two.fd}, F_WRLCK, 5, 1, command=F_SETLKW)")
        three.begin(f"flock({three.fd}, LOCK_SH)")
        self.until_waiting(2)
        before = [lock for lock in self.locks() if lock["state"] == "held"]
        self.box.kill_process("index1")
        self.box.start()
        self.until_waiting(2)  # they ask again
        self.assertEqual([lock for lock in self.locks() if lock["state"] == "held"], before)
        four = self.program(self.there)
        self.refuses(four, "lock({fd}, F_RDLCK, 9, 1)")
        self.takes(four, "lock({fd}, F_RDLCK, 20, 10)")
        self.takes(one, "lock({fd}, F_UNLCK)")
        two.finish()
        self.assertLess(two.at - one.at, 1.0)
        self.takes(one, "os.close({fd})")
        three.finish()
        self.assertLess(three.at - one.at, 1.0)

    def test_a_successor_of_the_mount_has_its_locks(self):
        one, two, three = self.program(self.there), self.program(self.there), self.program()
        self.takes(one, "lock({fd}, F_WRLCK, 0, 10)")
        self.takes(one, "lock({fd}, F_WRLCK, 50, 1, command=F_OFD_SETLK)")
        self.takes(one, "flock({fd}, LOCK_EX)")
        two.begin(f"lock({two.fd}, F_WRLCK, 0, 1, command=F_SETLKW)")
        self.until_waiting()
        with open(self.second.log, "a", encoding="utf-8") as log:
            successor = subprocess.Popen([REELFS, "--takeover", self.second.point, "-f"], stdin=subprocess.DEVNULL,
                                         stdout=log, stderr=log, start_new_session=True)
        self.second.process.wait(20)
        self.second.process = successor
        self.until_waiting()
        for command in ("lock({fd}, F_RDLCK, 9, 1)", "lock({fd}, F_RDLCK, 50, 1)", "flock({fd}, LOCK_SH | LOCK_NB)"):
            self.refuses(three, command)
        self.takes(one, "lock({fd}, F_UNLCK, 0, 10)")
        two.finish()
        self.takes(one, "os.close({fd})")
        self.takes(three, "flock({fd}, LOCK_EX)")
        self.takes(three, "lock({fd}, F_WRLCK, 50, 1, command=F_SETLKW)")
        self.refuses(three, "lock({fd}, F_WRLCK, 0, 1)")  # which the other has by now

    def test_an_unlock_while_the_index_is_down_is_done_when_it_is_back(self):
        one, two = self.program(), self.program(self.there)
        self.takes(one, "lock({fd}, F_WRLCK)")
        self.box.kill_process("index1")
        one.begin(f"lock({one.fd}, F_UNLCK)")
        self.box.start()
        one.finish()
        self.takes(two, "lock({fd}, F_WRLCK)")

    def test_a_wait_is_interrupted_while_the_index_is_down(self):
        one, two = self.program(self.there), self.program()
        self.takes(one, "lock({fd}, F_WRLCK)")
        two("handle(signal.SIGUSR1, restart=False)")
        two.begin(f"c_lock({two.fd}, F_WRLCK, F_SETLKW)")
        self.until_waiting()
        self.box.kill_process("index1")
        at = time.monotonic()
        two.process.send_signal(signal.SIGUSR1)
        with self.assertRaises(InterruptedError):
            two.finish()
        self.assertLess(two.at - at, 0.5)
        self.box.start()
        self.takes(one, "lock({fd}, F_UNLCK)")
        until(lambda: not self.locks(), "nobody holds or waits", 5)

    def test_locks_of_a_mount_that_slept_too_long_are_lost_and_it_is_told(self):
        one, two = self.program(self.there), self.program()
        self.takes(one, "lock({fd}, F_WRLCK)")
        two.begin(f"lock({two.fd}, F_WRLCK, command=F_SETLKW)")
        self.until_waiting()
        self.second.process.send_signal(signal.SIGSTOP)
        two.finish()  # after the lease
        self.second.process.send_signal(signal.SIGCONT)
        until(lambda: "locks lost with the session" in self.second.log.read_text(), "the mount has noticed", 20)
        self.refuses(one, "lock({fd}, F_WRLCK, 100, 1)", errno.EIO)
        self.takes(one, "lock({fd}, F_UNLCK)")
        self.refuses(one, "lock({fd}, F_WRLCK, 0, 1)")


# Adds rows in transactions until it is killed, and says after each how many there are.
WRITER = textwrap.dedent("""
    import sqlite3, sys
    base = sqlite3.connect(sys.argv[1], timeout=60, isolation_level=None)
    base.execute("PRAGMA journal_mode=DELETE")
    while True:
        base.execute("BEGIN IMMEDIATE")
        count, total = base.execute("SELECT count(*), coalesce(sum(value), 0) FROM numbers").fetchone()
        for value in range(20):
            base.execute("INSERT INTO numbers VALUES (?, ?, ?)", (count + value, value, "x" * 500))
        base.execute("UPDATE sums SET total = ?", (total + 190,))
        base.execute("COMMIT")
        print(count + 20, flush=True)
""")


class Sqlite(BoxTest):
    def test_writers_on_two_mounts_are_killed_and_the_base_is_whole(self):
        second = self.box.another_mount()
        here = self.channel / "base.db"
        there = second.point / self.channel.name / "base.db"
        base = sqlite3.connect(here)
        base.execute("CREATE TABLE numbers (number INTEGER PRIMARY KEY, value INTEGER, text TEXT)")
        base.execute("CREATE TABLE sums (total INTEGER)")
        base.execute("INSERT INTO sums VALUES (0)")
        base.commit()
        base.close()
        promised = 0
        for turn in range(6):
            writers = [subprocess.Popen([sys.executable, "-c", WRITER, path], stdout=subprocess.PIPE, text=True)
                       for path in (here, there)]
            victim = writers[turn % 2]
            for _ in range(3):
                promised = max(promised, *(int(writer.stdout.readline()) for writer in writers))
            victim.kill()
            survivor = writers[1 - turn % 2]
            for _ in range(3):
                promised = max(promised, int(survivor.stdout.readline()))
            survivor.kill()
            for writer in writers:
                promised = max([promised, *(int(line) for line in writer.stdout if line.endswith("\n"))])
                writer.stdout.close()
                writer.wait()
            for path in (here, there):
                base = sqlite3.connect(path, timeout=60)
                self.assertEqual(base.execute("PRAGMA integrity_check").fetchall(), [("ok",)])
                count, total = base.execute("SELECT count(*), sum(value) FROM numbers").fetchone()
                self.assertGreaterEqual(count, promised)
                self.assertEqual(count % 20, 0)
                self.assertEqual(base.execute("SELECT total FROM sums").fetchone()[0], total)
                base.close()


if __name__ == "__main__":
    unittest.main()
