"""A cluster of real processes: each node, the index server, the mount and the one who checks in a network namespace of their own, on
a bridge; each node with disks that misbehave on command. Connections are TLS, as beyond loopback they must be."""
import concurrent.futures
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "system"))

from harness import PATIENCE, PROGRAMS, REELCTL, REELFS, is_gone, is_mounted, run, until  # noqa: E402

NETWORK = "10.77.0"
LOOK = 0.25  # seconds between two questions to the cluster, each a program that is started: more would be a load of its own
PREFIX = "reelnem"


def becomes(condition, seconds):
    """Whether it becomes true within the time."""
    deadline = time.monotonic() + seconds * PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(LOOK)
    return True


def size(text):
    """4M, 1G and so on in bytes."""
    return int(text[:-1]) << {"K": 10, "M": 20, "G": 30}[text[-1]] if text[-1] in "KMG" else int(text)


class Namespace:
    """A host as far as the network is concerned."""

    def __init__(self, network, name, number):
        self.name = f"{network.name}-{name}"
        self.address = f"{NETWORK}.{number}"
        link = f"n{number}"
        run("ip", "netns", "add", self.name)
        run("ip", "link", "add", link, "netns", network.switch, "type", "veth", "peer", "name", "net0", "netns", self.name)
        run("ip", "-n", network.switch, "link", "set", link, "master", "switch", "up")
        run("ip", "-n", self.name, "address", "add", f"{self.address}/24", "dev", "net0")
        run("ip", "-n", self.name, "link", "set", "net0", "up")
        run("ip", "-n", self.name, "link", "set", "lo", "up")

    def command(self, *command):
        # `ip netns exec` would have a mount namespace of its own, in which nobody else saw what is mounted.
        return ["nsenter", f"--net=/run/netns/{self.name}", *map(str, command)]

    def cut(self, address, directions):
        """What comes from there (`in`), goes there (`out`), or both is dropped; where the address is None, of everybody."""
        rules = ["add table ip cut", "add chain ip cut in { type filter hook input priority 0; }",
                 "add chain ip cut out { type filter hook output priority 0; }"]
        for direction, chain, end, interface in (("in", "in", "saddr", "iifname"), ("out", "out", "daddr", "oifname")):
            if direction in directions:
                rules.append(f"add rule ip cut {chain} " + (f"ip {end} {address} drop" if address else f"{interface} net0 drop"))
        run(*self.command("sh", "-c", "printf '%s\\n' \"$@\" | nft -f -", "sh", *rules))

    def heal(self):
        run(*self.command("nft", "flush", "ruleset"))

    def refuse(self, address):
        """Connections there fail at once."""
        run("ip", "-n", self.name, "route", "add", "unreachable", f"{address}/32")


class Network:
    def __init__(self, name):
        self.name = name
        self.switch = f"{name}-switch"
        run("ip", "netns", "add", self.switch)
        run("ip", "-n", self.switch, "link", "add", "switch", "type", "bridge", "stp_state", "0", "forward_delay", "0")
        run("ip", "-n", self.switch, "link", "set", "switch", "up")

    def host(self, name, number):
        return Namespace(self, name, number)


class Disk:
    """disk.cc's device, whose bytes lie in a preallocated file."""

    def __init__(self, directory, name, bytes_):
        self.backing = directory / f"{name}.bytes"
        self.point = directory / name
        self.point.mkdir()
        with open(self.backing, "wb") as file:
            os.posix_fallocate(file.fileno(), 0, bytes_)
        self.log = open(directory / "log" / f"{name}.log", "ab")
        self.process = subprocess.Popen([PROGRAMS / "nemesis_disk", self.backing, self.point], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, stderr=self.log, text=True, bufsize=1, start_new_session=True)
        until(lambda: is_mounted(self.point) or self.process.poll() is not None, f"{name} is there")
        self.path = self.point / "device"

    def set(self, condition):
        self.process.stdin.write(condition + "\n")
        answer = self.process.stdout.readline().strip()
        if answer != condition:
            raise AssertionError(f"{self.backing.name}: {condition}: {answer or 'the disk has ended'}")

    def close(self):
        self.process.kill()  # what hangs in it ends with ENOTCONN
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()
        if is_mounted(self.point):
            run("umount", "-l", self.point)
        self.log.close()


class Node:
    """noded's supervisor and its workers."""

    def __init__(self, cluster, number, workers, devices, device_bytes):
        self.cluster = cluster
        self.name = f"node{number}"
        self.host = cluster.network.host(self.name, 10 + number)
        self.disks = [Disk(cluster.directory, f"{self.name}.disk{disk}", device_bytes) for disk in range(1, devices + 1)]
        self.config = cluster.directory / f"{self.name}.toml"
        self.process = None
        (cluster.directory / self.name).mkdir()
        self.config.write_text(
            f'cluster = "{cluster.id}"\nname = "{self.name}"\nindexes = ["{cluster.index_host.address}:7400"]\n'
            f'host = "{self.host.address}"\ninternal_port = 7501\nworkers = {workers}\n'
            f'state_dir = "{cluster.directory / self.name}"\n'
            f'devices = {json.dumps([str(disk.path) for disk in self.disks])}\n' + cluster.identity(self.name, self.host.address))

    def start(self):
        self.process = self.cluster.daemon(self.host, self.name, PROGRAMS / "noded", "--config", self.config)

    def workers(self):
        """Pids by worker number, of those that run."""
        found = {}
        for entry in pathlib.Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                arguments = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if str(self.config).encode() in arguments and b"--worker" in arguments and not is_gone(entry.name):
                found[int(arguments[arguments.index(b"--worker") + 1])] = int(entry.name)
        return found

    def signal(self, number):
        """To its supervisor first, so that it starts no worker again."""
        for pid in [self.process.pid, *self.workers().values()]:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                pass

    def kill(self):
        self.signal(signal.SIGKILL)
        self.process.wait()

    def stop(self):
        self.signal(signal.SIGCONT)
        self.process.terminate()


class Cluster:
    def __init__(self, nodes=3, workers=2, devices=2, device_size="1G", copies=2, block_size="8M", directory=None):
        self.base = pathlib.Path(tempfile.mkdtemp(prefix="reelfs-nemesis-", dir=directory))
        self.id = uuid.uuid4()
        name = f"{PREFIX}{os.getpid()}"
        self.guardian = subprocess.Popen([sys.executable, "-B", HERE / "guardian.py", self.base, name + "-"], stdin=subprocess.PIPE,
                                         start_new_session=True)
        self.copies = copies
        self.directory = self.base / "cluster"
        self.mount = self.base / "mnt"
        self.daemons = []
        for part in ("log", "tls", "index1"):
            (self.directory / part).mkdir(parents=True)
        self.mount.mkdir()
        self.network = Network(name)
        self.index_host = self.network.host("index", 1)
        self.mount_host = self.network.host("mount", 2)
        self.readers = 0
        run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj",
            "/CN=nemesis", "-keyout", self.tls("authority.key"), "-out", self.tls("authority.pem"))
        self.cluster_file = self.directory / "cluster.toml"
        self.cluster_file.write_text(f'cluster = "{self.id}"\nindexes = ["{self.index_host.address}:7400"]\n' +
                                     self.identity("client", self.mount_host.address))
        config = self.directory / "index1.toml"
        config.write_text(f'cluster = "{self.id}"\nname = "index1"\nlisten = "{self.index_host.address}:7400"\n'
                          f'data_dir = "{self.directory / "index1"}"\ncopies = {copies}\nblock_size = "{block_size}"\n'
                          'adopt_blank_devices = true\n' + self.identity("index1", self.index_host.address))
        self.index = self.daemon(self.index_host, "index1", PROGRAMS / "indexd", "--config", config)
        with concurrent.futures.ThreadPoolExecutor() as pool:
            self.nodes = list(pool.map(lambda number: Node(self, number, workers, devices, size(device_size)), range(1, nodes + 1)))
        for node in self.nodes:
            node.start()
        until(self.serves, "every node and device is online", 60)
        self.mounted = self.mount_at(self.mount_host, self.mount, "mount")

    def tls(self, name):
        return self.directory / "tls" / name

    def identity(self, name, address):
        """A certificate of its own, and the configuration that names it."""
        key, request, certificate, names = (self.tls(f"{name}.{kind}") for kind in ("key", "csr", "pem", "names"))
        names.write_text(f"subjectAltName=IP:{address},DNS:{name}\n")
        run("openssl", "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", f"/CN={name}", "-keyout",
            key, "-out", request)
        run("openssl", "x509", "-req", "-in", request, "-CA", self.tls("authority.pem"), "-CAkey", self.tls("authority.key"),
            "-set_serial", uuid.uuid4().int >> 1, "-days", "2", "-out", certificate, "-extfile", names)
        return f'\n[tls]\nca = "{self.tls("authority.pem")}"\ncert = "{certificate}"\nkey = "{key}"\n'

    def daemon(self, host, name, *command):
        with open(self.directory / "log" / f"{name}.log", "ab") as log:
            process = subprocess.Popen(host.command(*command), stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        self.daemons.append(process)
        return process

    def mount_at(self, host, point, name, options=""):
        # allow_other is not needed: only root is here.
        process = self.daemon(host, name, REELFS, point, "-f", "-o", f"cluster={self.cluster_file}{options}")
        until(lambda: is_mounted(point) or process.poll() is not None, f"{point} is mounted", 60)
        if process.poll() is not None:
            raise AssertionError(f"reelfs ended with {process.returncode}: {self.directory / 'log'}/{name}.log")
        return process

    def reelctl(self, *arguments):
        return json.loads(run(*self.index_host.command(REELCTL, *arguments, "--cluster", self.cluster_file, "--json")).stdout)

    def keep_everything(self):
        """Channels overwrite nothing: a cluster that is full would say so."""
        os.setxattr(self.mount, "user.reel.overwrite", b"off")

    def serves(self):
        """Whether every node, worker and device is in service."""
        try:
            nodes = self.reelctl("node", "list")["nodes"]
        except AssertionError:
            return False
        return len(nodes) == len(self.nodes) and all(
            node["state"] == "online" and node["workers"] and all(worker["state"] == "online" for worker in node["workers"]) and
            len(node["devices"]) == len(self.nodes[0].disks) and all(device["state"] == "online" for device in node["devices"])
            for node in nodes)

    def failed_devices(self, node):
        """Paths of those that are out of service."""
        return [device["path"] for device in self.reelctl("device", "list")["devices"]
                if device["node_name"] == node.name and device["state"] == "failed"]

    def add_device(self, node, path):
        """Again, which is refused until no call of before is under way."""
        added = ("device", "add", node.name, path, "--cluster", self.cluster_file)
        if not becomes(lambda: run(*self.index_host.command(REELCTL, *added), check=False).returncode == 0, 60):
            raise AssertionError(f"{path} of {node.name} cannot be added again")

    def lacking(self):
        """Segments that have fewer whole copies than they are to have."""
        return [segment for segment in self.reelctl("segment", "list")["segments"]
                if segment["state"] in ("open", "unfilled", "sealed") and self.whole_copies(segment) < self.copies]

    @staticmethod
    def whole_copies(segment):
        return sum(copy["available"] and copy.get("state", "") not in ("behind", "corrupt", "missing") for copy in segment["copies"])

    def free_share(self):
        status = self.reelctl("status")
        return status["free_bytes"] / max(1, status["total_bytes"])

    def reader(self, without):
        """A mount of its own that cannot reach one node: of every segment with a copy there it reads another one."""
        return Reader(self, without)

    def close(self, keep=None):
        """Takes everything down. The logs are kept in `keep`."""
        for node in self.nodes:
            for disk in node.disks:
                disk.set("ok")
            node.signal(signal.SIGCONT)
            node.host.heal()
        if is_mounted(self.mount):
            run("umount", "-l", self.mount)
        for process in reversed(self.daemons):
            process.terminate()
        ended = time.monotonic() + 30
        for process in self.daemons:
            try:
                process.wait(max(0.1, ended - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
        if keep:
            shutil.copytree(self.directory / "log", keep, dirs_exist_ok=True)
        self.leave()

    def leave(self):
        self.guardian.stdin.close()
        self.guardian.wait()


class Reader:
    def __init__(self, cluster, without):
        cluster.readers += 1
        self.name = f"reader{cluster.readers}"
        self.host = cluster.network.host(self.name, 100 + cluster.readers)
        if without is not None:
            self.host.refuse(without.host.address)
        self.point = cluster.base / self.name
        self.point.mkdir()
        # Where there is no other copy a read ends only at the timeout.
        self.process = cluster.mount_at(self.host, self.point, self.name, ",ro,timeout=" + ("30" if without is None else "2"))

    def close(self):
        run("umount", "-l", self.point)
        self.process.terminate()
        self.process.wait(60)
        run("ip", "netns", "delete", self.host.name)
