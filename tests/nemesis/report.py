"""From calls and faults to figures."""
import bisect
import collections
import dataclasses

from load import CLOSE, FSYNC, NAMES, OPEN, WRITE

CALM = "no fault"
SECOND = 1_000_000_000


@dataclasses.dataclass
class Fault:
    kind: str
    family: str
    node: str
    detail: str
    begun_ns: int
    ended_ns: int = 0  # put right
    whole_ns: int = 0  # every segment had all its copies again
    whole: bool = False  # false where that did not come within the limit
    lacking: list = dataclasses.field(default_factory=list)  # then: the segments

    def describe(self):
        return f"{self.kind} ({self.node}{', ' if self.detail else ''}{self.detail})"


class Times:
    """Durations of calls, of which percentiles are wanted."""

    def __init__(self):
        self.ns = []

    def add(self, ns):
        self.ns.append(ns)

    def figures(self):
        if not self.ns:
            return {"calls": 0}
        ordered = sorted(self.ns)
        return {"calls": len(ordered), "p50_ms": ordered[len(ordered) // 2] / 1e6,
                "p99.9_ms": ordered[min(len(ordered) - 1, len(ordered) * 999 // 1000)] / 1e6, "longest_ms": ordered[-1] / 1e6}


class Statistics:
    """Calls by the fault during which they were made: from its beginning until the cluster is whole again. One that
    overlaps no fault counts as calm, which is how much the machine itself stalls."""

    def __init__(self):
        self.times = collections.defaultdict(lambda: collections.defaultdict(Times))  # kind -> call -> Times
        self.errors = collections.defaultdict(collections.Counter)  # kind -> errno -> calls
        self.longest = {}  # kind -> (ns, call, stream, fault)

    def add(self, streams, faults, since_ns=0):
        """@param since_ns  calls begun before do not count: recorders that all begin at once are a load of their own"""
        begins = [fault.begun_ns for fault in faults]
        for stream in streams:
            for call, error, _, start, duration, _, _ in stream.calls():
                if start < since_ns:
                    continue
                # The last fault that began before the call ended: only one is at a time.
                place = bisect.bisect_right(begins, start + duration) - 1
                fault = faults[place] if place >= 0 and start <= faults[place].whole_ns else None
                kind = fault.kind if fault else CALM
                if error:
                    self.errors[kind][error] += 1
                self.times[kind][call].add(duration)
                if call in (WRITE, FSYNC) and duration > self.longest.get(kind, (0,))[0]:
                    self.longest[kind] = (duration, NAMES[call], stream.number, fault)

    def figures(self, kind):
        times = self.times[kind]
        return {"write": times[WRITE].figures(), "fsync": times[FSYNC].figures(), "open": times[OPEN].figures(),
                "close": times[CLOSE].figures(), "errors": dict(self.errors[kind])}

    def longest_stall(self, kind):
        """In seconds, of a write or fsync."""
        return self.longest.get(kind, (0,))[0] / SECOND


def to_json(settings, statistics, faults, checks, ended_by, seconds):
    by_kind = {}
    for kind in [CALM] + sorted({fault.kind for fault in faults}):
        one = statistics.figures(kind)
        of_kind = [fault for fault in faults if fault.kind == kind]
        healing = sorted((fault.whole_ns - fault.ended_ns) / SECOND for fault in of_kind if fault.whole)
        one.update(faults=len(of_kind), longest_stall_s=statistics.longest_stall(kind), family=of_kind[0].family if of_kind else CALM,
                   not_whole_in_time=sum(not fault.whole for fault in of_kind),
                   whole_again_s={"median": healing[len(healing) // 2], "longest": healing[-1]} if healing else {})
        if kind in statistics.longest and statistics.longest[kind][3] is not None:
            _, call, stream, fault = statistics.longest[kind]
            one["longest_stall_of"] = {"call": call, "stream": stream, "fault": fault.describe()}
        by_kind[kind] = one
    return {"settings": settings, "seconds": seconds, "faults": len(faults), "ended_by": ended_by, "kinds": by_kind, "checks": checks,
            "errors": sum(sum(one["errors"].values()) for one in by_kind.values()),
            "acknowledged_bytes": sum(check["acknowledged_bytes"] for check in checks),
            "lost_bytes": sum(check["lost_bytes"] for check in checks),
            "lacking_copies_bytes": sum(check["lacking_copies_bytes"] for check in checks),
            "excess_bytes": sum(check["excess_bytes"] for check in checks),
            "schedule": [dataclasses.asdict(fault) for fault in faults]}


def to_text(report):
    lines = [f"seed {report['settings']['seed']}: {report['faults']} faults in {report['seconds']:.0f} s", "",
             f"{'':20}{'faults':>7}{'writes':>9}{'p50':>8}{'p99.9':>9}{'fsyncs':>8}{'p50':>8}{'p99.9':>9}{'longest':>9}{'errors':>7}"
             f"{'whole again':>15}", f"{'':20}{'':7}{'':9}{'ms':>8}{'ms':>9}{'':8}{'ms':>8}{'ms':>9}{'ms':>9}{'':7}{'s, median/max':>15}"]
    for kind, one in report["kinds"].items():
        cells = f"{kind:20}{one['faults']:7}"
        for call in ("write", "fsync"):
            of = one[call]
            cells += f"{of['calls']:{9 if call == 'write' else 8}}{of.get('p50_ms', 0):8.1f}{of.get('p99.9_ms', 0):9.1f}"
        whole = one["whole_again_s"]
        cells += f"{one['longest_stall_s'] * 1000:9.0f}{sum(one['errors'].values()):7}"
        if whole:
            cells += f"{whole['median']:9.1f}/{whole['longest']:.1f}"
        if one["not_whole_in_time"]:
            cells += f"  {one['not_whole_in_time']} not whole in time"
        lines.append(cells)
    lines += ["", f"acknowledged by fsync      {report['acknowledged_bytes']} bytes, checked on every copy {len(report['checks'])} times",
              f"lost, on all copies        {report['lost_bytes']} bytes", f"lacking, on one copy       {report['lacking_copies_bytes']} bytes",
              f"in excess, never written   {report['excess_bytes']} bytes", f"calls that failed          {report['errors']}"]
    if report["ended_by"]:
        lines += ["", f"ended early: {report['ended_by']}"]
    return "\n".join(lines)
