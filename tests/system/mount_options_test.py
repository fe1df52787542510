"""Mounting as people do: mount -t reelfs, fstab, remount, systemd, what is refused and how, and the directory beneath."""
import ctypes
import errno
import json
import os
import pathlib
import shutil
import stat
import subprocess
import tempfile
import unittest

from harness import HERE, PATIENCE, REELCTL, REELFS, Box, is_gone, is_mounted, run, until

SOURCE = HERE.parent.parent
CLONE_NEWNS = 0x00020000
MOUNT_FAILED = 32


def setUpModule():
    """A namespace of our own, in which mount(8) finds its helper, as it would where reelfs is installed."""
    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNS) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    run("mount", "--make-rprivate", "/")
    programs = tempfile.TemporaryDirectory(prefix="reelfs-test-")
    unittest.addModuleCleanup(programs.cleanup)
    os.symlink(REELFS, pathlib.Path(programs.name) / "mount.reelfs")
    os.symlink(REELFS, pathlib.Path(programs.name) / "reelfs")
    run("mount", "-t", "overlay", "overlay", "-o", f"lowerdir={programs.name}:/usr/sbin", "/usr/sbin")
    unittest.addModuleCleanup(run, "umount", "/usr/sbin")


def serving(point):
    listed = json.loads(run(REELCTL, "mount", "list", "--json").stdout)["mounts"]
    return next((each for each in listed if each["mountpoint"] == str(point)), None)


class MountOptions(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.box = Box()
        cls.addClassCleanup(cls.box.close)
        (cls.box.channel("gate") / "recording").write_bytes(b"x" * 1000)

    def setUp(self):
        self.point = pathlib.Path(tempfile.mkdtemp(dir=self.box.base))
        self.addCleanup(self.unmount)

    def unmount(self):
        while is_mounted(self.point):
            run("umount", self.point)

    def mount(self, options, *flags, **settings):
        return run("mount", *flags, "-t", "reelfs", self.box.cluster_file, self.point, "-o", options, **settings)

    def findmnt(self, *columns):
        return run("findmnt", "-n", "-o", ",".join(columns), self.point).stdout.split()

    def fstab(self, options, point=None):
        file = self.box.local / "fstab"
        file.write_text(f"{self.box.cluster_file} {point or self.point} reelfs {options} 0 0\n")
        return file

    def refused(self, *command, says):
        done = run(*command, check=False)
        self.assertEqual(done.returncode, MOUNT_FAILED, f"{command}: {done.stderr}")
        lines = done.stderr.strip().splitlines()
        self.assertEqual(len(lines), 1, done.stderr)
        self.assertIn(says, lines[0])
        return done

    def test_by_type_with_every_option(self):
        self.mount("ro,allow_other,default_permissions,timeout=5,channel=gate,noatime,_netdev,nofail,"
                   "x-systemd.automount,x-systemd.requires=network.target,X-mount.mkdir,comment=recordings")
        self.assertEqual(os.listdir(self.point), ["recording"])
        with self.assertRaises(OSError) as refused:
            (self.point / "new").touch()
        self.assertEqual(refused.exception.errno, errno.EROFS)
        source, kind, options = self.findmnt("SOURCE", "FSTYPE", "OPTIONS")
        self.assertEqual((source, kind), (str(self.box.cluster_file), "fuse.reelfs"))
        self.assertLessEqual({"ro", "noatime", "nosuid", "nodev", "default_permissions", "allow_other"}, set(options.split(",")))
        line = run("df", "-P", self.point).stdout.splitlines()[1].split()
        self.assertEqual((line[0], line[-1]), (str(self.box.cluster_file), str(self.point)))
        self.assertGreater(int(line[1]), 0)
        process = serving(self.point)["pid"]
        run("umount", self.point)
        until(lambda: is_gone(process), "umount by path ends reelfs")

    def test_fstab(self):
        fstab = self.fstab("rw,timeout=5,_netdev,nofail,noauto")
        run("mount", "-T", fstab, "-a")
        self.assertFalse(is_mounted(self.point), "noauto")
        run("mount", "-T", fstab, self.point)
        self.assertTrue(is_mounted(self.point))
        run("mount", "-T", self.fstab("rw,timeout=5,_netdev,nofail"), "-a")  # again: nothing happens
        mounted = pathlib.Path("/proc/self/mountinfo").read_text().splitlines()
        self.assertEqual(sum(line.split()[4] == str(self.point) for line in mounted), 1)
        run("umount", self.point)
        run("mount", "-T", fstab.parent / "fstab", "-a")
        self.assertEqual(os.listdir(self.point), os.listdir(self.box.mount))

    def test_fstab_as_a_fuse_type(self):
        file = self.box.local / "fstab"
        file.write_text(f"{self.box.cluster_file} {self.point} fuse.reelfs rw,timeout=5,_netdev,nofail,x-systemd.automount 0 0\n")
        run("mount", "-T", file, self.point)
        self.assertEqual(os.listdir(self.point), os.listdir(self.box.mount))

    def test_remount(self):
        self.mount("noatime,nosuid")
        channel = self.point / "gate"
        with open(channel / "being written", "wb") as file:
            file.write(b"x")
            done = run("mount", "-o", "remount,ro", self.point, check=False)
            self.assertEqual(done.returncode, MOUNT_FAILED, done.stderr)
            self.assertIn("open for writing", done.stderr)
        run("mount", "-o", "remount,ro", self.point)
        with self.assertRaises(OSError) as refused:
            (channel / "new").touch()
        self.assertEqual(refused.exception.errno, errno.EROFS)
        self.assertLessEqual({"ro", "noatime", "nosuid", "nodev"}, set(self.findmnt("OPTIONS")[0].split(",")), "the others stay")
        run("mount", "-o", "remount,rw,noexec", self.point)
        (channel / "new").touch()
        self.assertLessEqual({"rw", "noexec", "nosuid"}, set(self.findmnt("OPTIONS")[0].split(",")))
        run("mount", "-T", self.fstab("timeout=5,noatime"), "-o", "remount,ro", self.point)
        self.assertIn("ro", self.findmnt("OPTIONS")[0].split(","))

    def test_flags_of_helpers(self):
        self.mount("ro", "-f", "-v")
        self.assertFalse(is_mounted(self.point), "-f mounts nothing")
        self.mount("ro,never_heard_of", "-s", "-n", "-v")
        self.assertTrue(is_mounted(self.point))
        helper = run("/sbin/mount.reelfs", "-x", check=False)
        self.assertEqual(helper.returncode, 1)
        self.assertIn("usage: mount.reelfs", helper.stderr)

    def test_what_is_refused(self):
        cluster, point = self.box.cluster_file, self.point
        by_type = ("mount", "-t", "reelfs")
        self.refused(*by_type, cluster, point, "-o", "ro,colour=blue", says="colour")
        self.refused(*by_type, cluster, point, "-o", "fast", says="fast")
        self.refused(*by_type, cluster, point, "-o", "timeout=soon", says="timeout=soon")
        self.refused(*by_type, cluster, point, "-o", "channel=nobody", says="no channel nobody")
        self.refused(*by_type, "/nonexistent.toml", point, says="/nonexistent.toml")
        self.refused(*by_type, cluster, point / "nothing", says="does not exist")
        (self.box.local / "file").touch()
        self.refused(*by_type, cluster, self.box.local / "file", says="not a directory")
        self.assertFalse(is_mounted(self.point))
        self.mount("ro")
        self.refused(*by_type, cluster, point, says="already")

    def test_what_is_wrong_is_said_without_mount_too(self):
        done = run(REELFS, self.point / "nothing", "-o", f"cluster={self.box.cluster_file}", check=False)
        self.assertEqual((done.returncode, done.stderr.count("\n")), (1, 1))
        self.assertIn("does not exist", done.stderr)

    def test_a_directory_that_is_not_empty(self):
        (self.point / "recorded by mistake").write_bytes(b"x")
        self.addCleanup(lambda: (self.point / "recorded by mistake").unlink())
        self.addCleanup(self.unmount)
        done = self.mount("ro")
        self.assertIn("not empty", done.stderr)
        self.assertTrue(is_mounted(self.point))

    def test_systemd_takes_the_examples(self):
        generator = pathlib.Path("/usr/lib/systemd/system-generators/systemd-fstab-generator")
        if not generator.exists():
            self.skipTest("systemd is not installed")
        with tempfile.TemporaryDirectory(dir=self.box.local) as directory:
            run(generator, directory, directory, directory, env={**os.environ, "SYSTEMD_FSTAB": SOURCE / "packaging/fstab.example"})
            unit = (pathlib.Path(directory) / "mnt-reel.mount").read_text()
            self.assertIn("Type=reelfs", unit)
            self.assertTrue((pathlib.Path(directory) / "mnt-gate.automount").exists())
        verified = run("systemd-analyze", "verify", "--man=no", SOURCE / "packaging/systemd/mnt-reel.mount", check=False)
        self.assertEqual((verified.returncode, verified.stderr), (0, ""))


class Beneath(unittest.TestCase):
    """While nothing is mounted nobody can record onto the disk beneath."""

    @classmethod
    def setUpClass(cls):
        cls.box = Box()
        cls.addClassCleanup(cls.box.close)

    def disk(self, *how):
        directory = pathlib.Path(tempfile.mkdtemp(dir=self.box.base))
        run("mount", *how, directory)
        self.addCleanup(run, "umount", directory)
        return directory

    def ext4(self):
        image = self.box.base / "image"
        with open(image, "wb") as file:
            file.truncate(16 << 20)
        run("mkfs.ext4", "-q", image)
        return self.disk("-o", "loop", image)

    def point_on(self, disk):
        point = disk / "reel"
        point.mkdir()
        self.addCleanup(lambda: run("umount", point, check=False))
        return point

    def cannot_record_into(self, point):
        for attempt in (lambda: (point / "recording").write_bytes(b"x"), lambda: (point / "cam1").mkdir(), lambda: point.rmdir()):
            with self.assertRaises(PermissionError):
                attempt()

    def mount(self, point, options):
        return run("mount", "-t", "reelfs", self.box.cluster_file, point, "-o", options)

    def test_the_option_makes_it_immutable(self):
        point = self.point_on(self.ext4())
        self.mount(point, "protect")
        (point / "cam1").mkdir(exist_ok=True)
        self.assertEqual(serving(point)["beneath"], "immutable")
        run("umount", point)
        self.cannot_record_into(point)
        self.mount(point, "protect")  # which does not disturb mounting
        self.assertIn("cam1", os.listdir(point))
        run("umount", point)
        run(REELCTL, "mount", "unprotect", point)
        (point / "recording").write_bytes(b"x")

    def test_by_command_mounted_or_not(self):
        point = self.point_on(self.ext4())
        run(REELCTL, "mount", "protect", point)
        self.cannot_record_into(point)
        run(REELCTL, "mount", "unprotect", point)
        self.mount(point, "ro")
        self.assertEqual(serving(point)["beneath"], "none")
        self.assertIn("Nothing can be made", run(REELCTL, "mount", "protect", point).stdout)
        self.assertEqual(serving(point)["beneath"], "immutable")
        run("umount", point)
        self.cannot_record_into(point)
        run(REELCTL, "mount", "unprotect", point)
        point.rmdir()

    def test_where_nothing_can_be_immutable(self):
        point = self.point_on(self.disk("-t", "ramfs", "none"))
        done = self.mount(point, "protect")
        self.assertIn("root can write there", done.stderr)
        run("umount", point)
        self.assertEqual(stat.S_IMODE(point.stat().st_mode), 0)
        said = run(REELCTL, "mount", "protect", point).stdout
        self.assertIn("does not keep root out", said)
        run(REELCTL, "mount", "unprotect", point)
        self.assertEqual(stat.S_IMODE(point.stat().st_mode), 0o755)


if __name__ == "__main__":
    unittest.main()
