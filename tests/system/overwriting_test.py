"""Sixteen channels that record around and around within their quotas, while somebody watches, and while processes are killed."""
import errno
import json
import multiprocessing
import os
import random
import threading
import time
import unittest

from harness import REELCTL, Box, run, until

MIB = 1 << 20
CHANNELS = 16
QUOTA = 8 * MIB
SIZE = MIB // 2
EVERY = 0.15  # seconds; what is younger than MIN_AGE fits into the quota twice
MIN_AGE = 1
WRAPS = 5


def content(channel, number):
    return random.Random(f"{channel.name}/{number}").randbytes(SIZE)


def record(channel, log, stop):
    """Recordings one after the other, and in the log a line for each: its number, and when it was begun."""
    with open(log, "w", encoding="utf-8", buffering=1) as lines:
        number = 0
        while not stop.is_set():
            begun = time.monotonic()
            data = content(channel, number)
            try:
                with open(channel / str(number), "xb", buffering=0) as file:
                    file.write(data)
                    os.fsync(file.fileno())
            except OSError as error:
                lines.write(json.dumps({"refused": number, "errno": error.errno}) + "\n")
                stop.wait(1)
                number += 1
                continue
            lines.write(json.dumps({"recorded": number, "begun": begun, "took": time.monotonic() - begun}) + "\n")
            number += 1
            stop.wait(max(0, begun + EVERY - time.monotonic()))


def record_all(channels, logs, stop):
    threads = [threading.Thread(target=record, args=one) for one in zip(channels, logs, [stop] * len(channels))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


class Recorder:
    """A process of its own: one that is forked while it has recordings open would hold them open, too."""

    def __init__(self, channels, directory):
        self.channels = channels
        self.logs = [directory / f"{channel.name}.log" for channel in channels]
        context = multiprocessing.get_context("spawn")
        self.stop = context.Event()
        self.process = context.Process(target=record_all, args=(channels, self.logs, self.stop))
        self.process.start()

    def end(self):
        self.stop.set()
        self.process.join()

    def lines(self, channel):
        log = self.logs[self.channels.index(channel)]
        if not log.exists():
            return []
        return [json.loads(line) for line in log.read_text().split("\n")[:-1]]

    def recorded(self, channel):
        return {line["recorded"]: line for line in self.lines(channel) if "recorded" in line}

    def refused(self, channel):
        return [line["errno"] for line in self.lines(channel) if "refused" in line]

    def least_recorded(self):
        return min(len(self.recorded(channel)) for channel in self.channels)


def numbers(channel):
    return sorted(int(name) for name in os.listdir(channel))


def used(channel):
    space = os.statvfs(channel)
    return (space.f_blocks - space.f_bfree) * space.f_frsize


def files_bytes(channel):
    """None while something goes."""
    try:
        return sum(os.stat(channel / name).st_size for name in os.listdir(channel))
    except FileNotFoundError:
        return None


class SixteenChannels(unittest.TestCase):
    def setUp(self):
        self.box = Box(device_size="1G")
        self.addCleanup(self.box.close)
        self.channels = [self.box.channel(f"cam{number}") for number in range(CHANNELS)]
        for channel in self.channels:
            run(REELCTL, "channel", "set", channel.name, "--quota", QUOTA, "--min-age", f"{MIN_AGE}s", "--dir", self.box.directory)
        self.recorder = Recorder(self.channels, self.box.local)
        self.addCleanup(self.recorder.end)

    def nothing_young_is_gone(self, channel):
        now = time.monotonic()
        recorded = self.recorder.recorded(channel)
        there = set(numbers(channel))
        lost = [number for number, line in recorded.items() if number not in there and now - line["begun"] < MIN_AGE]
        self.assertEqual(lost, [], channel.name)

    def df_is_what_files_add_up_to(self, channel):
        """At some moment: while one looks, recordings come and go."""
        def agree():
            before, files, after = used(channel), files_bytes(channel), used(channel)
            self.assertLessEqual(before, QUOTA)
            return before == files == after
        until(agree, f"df and the files of {channel.name} agree", 2)

    def end(self):
        self.recorder.end()
        os.setxattr(self.box.mount, "user.reel.overwrite", b"off")  # what is there now stays

    def has_only_lost_the_oldest(self, channel):
        recorded = sorted(self.recorder.recorded(channel))
        there = numbers(channel)
        self.assertEqual(there, [number for number in recorded if number >= there[0]], channel.name)
        for number in there:
            self.assertEqual((channel / str(number)).read_bytes(), content(channel, number))

    def watch(self, is_over):
        samples = 0
        while not is_over():
            self.assertTrue(self.recorder.process.is_alive())
            for channel in self.channels:
                self.nothing_young_is_gone(channel)
            self.df_is_what_files_add_up_to(random.choice(self.channels))
            space = os.statvfs(self.box.mount)
            self.assertGreater(space.f_bfree, 0)
            samples += 1
        return samples

    def hold(self, channel):
        """All there is now. @return the names of what was recorded whole before"""
        recorded = {str(number) for number in self.recorder.recorded(channel)}
        run(REELCTL, "hold", "add", "--channel", channel.name, "--reason", "case 4711", "--dir", self.box.directory)
        self.assertIn(b"case 4711", os.getxattr(channel, "user.reel.hold"))
        held = recorded & set(os.listdir(channel))
        self.assertGreater(len(held), QUOTA // SIZE // 2)
        return held

    def test_wrapped_around_five_times_and_then_with_one_held(self):
        wrapped = WRAPS * QUOTA // SIZE
        samples = self.watch(lambda: self.recorder.least_recorded() >= wrapped)
        held = self.channels[0]
        kept = self.hold(held)
        samples += self.watch(lambda: self.recorder.refused(held))
        self.assertEqual(set(self.recorder.refused(held)), {errno.EDQUOT})
        more = self.recorder.least_recorded() + 20
        samples += self.watch(lambda: min(len(self.recorder.recorded(channel)) for channel in self.channels[1:]) >= more)
        self.assertTrue(kept <= set(os.listdir(held)))
        for name in kept:
            self.assertEqual((held / name).read_bytes(), content(held, int(name)))
        run(REELCTL, "hold", "release", "--channel", held.name, "--dir", self.box.directory)
        before = max(self.recorder.recorded(held))
        samples += self.watch(lambda: max(self.recorder.recorded(held)) > before + 5)
        self.end()
        for channel in self.channels[1:]:
            self.assertEqual(self.recorder.refused(channel), [])
            self.has_only_lost_the_oldest(channel)
        took = sorted(line["took"] for channel in self.channels for line in self.recorder.recorded(channel).values())
        print(f"\n{len(took)} recordings, {samples} samples; a recording took {took[len(took) // 2] * 1000:.0f} ms, "
              f"at most {took[-1] * 1000:.0f} ms", end="")
        until(self.box.blocks_add_up, "blocks add up", 20)

    def test_any_process_is_killed_while_the_oldest_go(self):
        until(lambda: self.recorder.least_recorded() * SIZE > QUOTA, "all go around", 120)
        held = self.channels[0]
        kept = self.hold(held)
        dice = random.Random(4711)
        victims = ["index1", *(f"node{node}.worker{worker}" for node in (1, 2) for worker in (1, 2))]
        for name in [*victims, *(dice.choice(victims) for _ in range(5))]:
            with self.subTest(name):
                more = [len(self.recorder.recorded(channel)) for channel in self.channels[1:]]
                self.box.kill_process(name)
                self.box.start(name)
                until(lambda: all(len(self.recorder.recorded(channel)) > count + 3 for channel, count in
                                  zip(self.channels[1:], more)), "all record", 30)
                for channel in self.channels:
                    self.nothing_young_is_gone(channel)
        self.end()
        for channel in self.channels[1:]:
            self.assertEqual(self.recorder.refused(channel), [])
            self.has_only_lost_the_oldest(channel)
        self.assertTrue(kept <= set(os.listdir(held)))
        for name in kept:
            self.assertEqual((held / name).read_bytes(), content(held, int(name)))
        until(lambda: all(used(channel) <= QUOTA for channel in self.channels), "all are within their quotas", 10)
        until(self.box.blocks_add_up, "blocks add up", 30)


if __name__ == "__main__":
    unittest.main()
