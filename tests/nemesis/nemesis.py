#!/usr/bin/env python3
"""Faults of one node at a time while recorders record, and what they noticed. README.md tells how to read the report.

    nemesis.py --faults 200 --json report.json
"""
import argparse
import json
import pathlib
import random
import sys
import tempfile
import time

from cluster import Cluster, becomes
from faults import KINDS, Schedule
from load import Load
from report import Fault, Statistics, to_json, to_text


def parse(arguments):
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32), help="of the schedule and of every byte")
    parser.add_argument("--faults", type=int, default=len(KINDS), help="how many")
    parser.add_argument("--minutes", type=float, default=0, help="stop after so long; 0: when all faults are through")
    parser.add_argument("--round", type=int, default=30, help="faults between two checks of everything")
    parser.add_argument("--calm", type=float, default=10, help="seconds without a fault at the start of each round")
    parser.add_argument("--longest", type=float, default=60, help="seconds that a fault may hold")
    parser.add_argument("--kind", action="append", choices=[kind.name for kind in KINDS], help="only these kinds; may be repeated")
    parser.add_argument("--whole-limit", type=float, default=60, help="seconds to wait for all copies after a fault")
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2, help="of each node")
    parser.add_argument("--devices", type=int, default=2, help="of each node")
    parser.add_argument("--device-size", default="2G")
    parser.add_argument("--block-size", default="8M")
    parser.add_argument("--copies", type=int, default=2)
    parser.add_argument("--streams", type=int, default=16, help="recorders at a camera's rate")
    parser.add_argument("--rate", type=int, default=500_000, help="of each, bytes per second")
    parser.add_argument("--full-rate", type=int, default=0, help="limit of the one at full speed, bytes per second; 0: none")
    parser.add_argument("--no-full", action="store_true", help="none at full speed")
    parser.add_argument("--sync-ms", type=int, default=1000, help="milliseconds between a recorder's fsyncs")
    parser.add_argument("--directory", help="where the devices' bytes lie; the temporary directory if left out")
    parser.add_argument("--json", type=pathlib.Path, help="write the report there too")
    parser.add_argument("--keep", type=pathlib.Path, help="keep logs and the recorders' calls there")
    return parser.parse_args(arguments)


class Nemesis:
    """A run. `say` is told what happens."""

    def __init__(self, options, say=lambda line: print(line, flush=True)):
        self.options, self.say = options, say
        self.faults, self.checks = [], []
        self.ended_by = ""  # what made going on impossible
        self.statistics = Statistics()
        self.begun = time.monotonic()
        kinds = [kind for kind in KINDS if not options.kind or kind.name in options.kind]
        self.schedule = Schedule(options.seed, options.nodes, kinds, options.longest)

    def run(self):
        """@return the report"""
        options = self.options
        self.say(f"seed {options.seed}")
        cluster = Cluster(options.nodes, options.workers, options.devices, options.device_size, options.copies, options.block_size,
                          options.directory)
        try:
            with tempfile.TemporaryDirectory(dir=options.directory) as logs:
                cluster.keep_everything()
                while not self.is_over() and not self.ended_by:
                    self.round(cluster, pathlib.Path(options.keep or logs))
        finally:
            cluster.close(options.keep and options.keep / "log")
        settings = {name: value for name, value in vars(options).items() if name not in ("json", "keep", "directory")}
        return to_json(settings, self.statistics, self.faults, self.checks, self.ended_by, time.monotonic() - self.begun)

    def is_over(self):
        over_time = self.options.minutes and time.monotonic() - self.begun > 60 * self.options.minutes
        return len(self.faults) >= self.options.faults or bool(over_time)

    def round(self, cluster, logs):
        """Recorders from their start until everything they had acknowledged is checked and removed."""
        options = self.options
        logs.mkdir(parents=True, exist_ok=True)
        load = Load(cluster.mount, logs, (options.seed << 10) + len(self.checks), options.streams, options.rate, options.full_rate,
                    not options.no_full, sync_ms=options.sync_ms)
        faults = []
        try:
            load.goes_on(60)
            since_ns = time.monotonic_ns()
            time.sleep(options.calm)  # what is measured is this time
            for _ in range(options.round):
                faults.append(self.fault(cluster, load))
                self.faults.append(faults[-1])
                if self.ended_by or self.is_over() or cluster.free_share() < 0.3:
                    break
            load.stop()
            self.statistics.add(load.streams, faults, since_ns)
            self.checks.append(self.check(cluster, load))
            load.remove()
        finally:
            load.kill()

    def fault(self, cluster, load):
        kind, place, seconds, rng = self.schedule.next()
        node = cluster.nodes[place]
        fault = Fault(kind.name, kind.family, node.name, "", time.monotonic_ns())
        fault.detail = kind.begin(cluster, node, rng)
        time.sleep(seconds)  # how long it holds
        kind.end(cluster, node)
        fault.ended_ns = time.monotonic_ns()
        if not becomes(cluster.serves, 120):
            self.ended_by = f"after {fault.describe()} not everything is in service again"
        fault.whole = becomes(lambda: not cluster.lacking(), self.options.whole_limit)
        fault.lacking = [] if fault.whole else [segment["segment"] for segment in cluster.lacking()]
        fault.whole_ns = time.monotonic_ns()
        try:
            load.goes_on(60)
        except AssertionError as error:
            self.ended_by = self.ended_by or f"after {fault.describe()}: {error}"
        self.say(f"{len(self.faults) + 1:4} {fault.describe()} for {seconds:.1f} s, " +
                 (f"whole after {(fault.whole_ns - fault.ended_ns) / 1e9:.1f} s" if fault.whole else f"not whole in time: {fault.lacking[:5]}"))
        return fault

    def check(self, cluster, load):
        """Every file is read as a player does, then with one node after the other out of reach, which makes readers take
        every other copy."""
        check = {"round": len(self.checks), "acknowledged_bytes": sum(file.acknowledged for file in load.files().values()),
                 "files": len(load.files()), "lost_bytes": 0, "excess_bytes": 0, "lacking_copies_bytes": 0, "findings": []}
        for without in [None, *cluster.nodes]:
            reader = cluster.reader(without)
            try:
                findings = load.check(reader.point)
            finally:
                reader.close()
            for finding in findings:
                check["lost_bytes" if without is None else "lacking_copies_bytes"] += finding.lost
                check["excess_bytes"] += finding.excess if without is None else 0
                if finding.lost or finding.excess:
                    check["findings"].append({"without": without.name if without else None, **vars(finding)})
        self.say(f"     checked {check['files']} files, {check['acknowledged_bytes']} bytes acknowledged: {check['lost_bytes']} lost, "
                 f"{check['lacking_copies_bytes']} lack a copy, {check['excess_bytes']} in excess")
        for finding in check["findings"][:10]:
            self.say(f"     {finding}")
        return check


def main():
    options = parse(sys.argv[1:])
    report = Nemesis(options).run()
    print("\n" + to_text(report))
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n")
    return 1 if any(report[what] for what in ("lost_bytes", "excess_bytes", "errors", "ended_by")) else 0


if __name__ == "__main__":
    sys.exit(main())
