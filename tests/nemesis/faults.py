"""What goes wrong with one node, and how it is put right again. A fault is begun, holds for some time, and is ended."""
import dataclasses
import os
import random
import signal

from cluster import is_gone, until

KILLED, HUNG, DISK = "killed", "hung or cut", "disk"


@dataclasses.dataclass(frozen=True)
class Kind:
    name: str
    family: str  # which promise it comes under
    seconds: tuple  # how long it holds: from, to
    begin: object
    end: object


def kill_worker(cluster, node, rng):
    number, pid = rng.choice(sorted(node.workers().items()))
    os.kill(pid, signal.SIGKILL)
    until(lambda: is_gone(pid), "the worker is gone")
    return f"worker {number}"


def kill_node(cluster, node, rng):
    node.kill()
    return ""


def pause_node(cluster, node, rng):
    node.signal(signal.SIGSTOP)
    return ""


def pause_worker(cluster, node, rng):
    number, pid = rng.choice(sorted(node.workers().items()))
    os.kill(pid, signal.SIGSTOP)
    return f"worker {number}"


def continue_all(cluster, node):
    node.signal(signal.SIGCONT)


def cut(whom, directions):
    def begin(cluster, node, rng):
        address = {"mount": cluster.mount_host.address, "index": cluster.index_host.address, "all": None}[whom]
        node.host.cut(address, directions)
        return ""
    return begin


def heal(cluster, node):
    node.host.heal()


def disk(condition):
    def begin(cluster, node, rng):
        broken = rng.sample(node.disks, rng.randint(1, len(node.disks)))
        told = condition(rng)
        for one in broken:
            one.set(told)
        return f"{told}, {len(broken)} of {len(node.disks)} disks"
    return begin


def disks_answer(cluster, node):
    """What hung or was slow comes back by itself."""
    for one in node.disks:
        one.set("ok")


def disks_replaced(cluster, node):
    """As an operator does it: what failed is added again after its disk was put right."""
    disks_answer(cluster, node)
    for path in cluster.failed_devices(node):
        cluster.add_device(node, path)


def nothing(cluster, node):
    pass  # the supervisor has started it again


def start_node(cluster, node):
    node.start()


KINDS = [
    Kind("worker killed", KILLED, (1, 2), kill_worker, nothing),
    Kind("node killed", KILLED, (1, 6), kill_node, start_node),
    Kind("worker paused", HUNG, (5, 60), pause_worker, continue_all),
    Kind("node paused", HUNG, (5, 60), pause_node, continue_all),
    Kind("mount to node cut", HUNG, (2, 10), cut("mount", ("in",)), heal),
    Kind("node to mount cut", HUNG, (2, 10), cut("mount", ("out",)), heal),
    Kind("mount and node cut", HUNG, (2, 10), cut("mount", ("in", "out")), heal),
    Kind("index to node cut", HUNG, (2, 10), cut("index", ("in",)), heal),
    Kind("node to index cut", HUNG, (2, 10), cut("index", ("out",)), heal),
    Kind("index and node cut", HUNG, (2, 10), cut("index", ("in", "out")), heal),
    Kind("node isolated", HUNG, (2, 10), cut("all", ("in", "out")), heal),
    Kind("disk slow", DISK, (2, 10), disk(lambda rng: f"slow {rng.choice((20, 100, 500, 2000))}"), disks_answer),
    Kind("disk hangs", DISK, (2, 10), disk(lambda rng: "hang"), disks_answer),
    Kind("disk full", DISK, (2, 10), disk(lambda rng: "full"), disks_replaced),
    Kind("disk fails", DISK, (2, 10), disk(lambda rng: "broken"), disks_replaced),
]


class Schedule:
    """The faults that follow from a seed: each kind once, in random order, and again; each of a random node, for a random time.

    @param longest  no fault holds for longer, in seconds; None: as long as its kind says
    """

    def __init__(self, seed, nodes, kinds=KINDS, longest=None):
        self.rng = random.Random(seed)
        self.nodes, self.kinds, self.longest = nodes, kinds, longest
        self.bag = []

    def next(self):
        """(kind, node's place, seconds, the random numbers for its details)"""
        if not self.bag:
            self.bag = self.rng.sample(self.kinds, len(self.kinds))
        kind = self.bag.pop()
        low, high = kind.seconds
        if self.longest is not None:
            high = min(high, self.longest)
            low = min(low, high)
        return kind, self.rng.randrange(self.nodes), self.rng.uniform(low, high), random.Random(self.rng.random())
