"""What `cmake --install` leaves on a machine, and whether the configuration that the guide shows is taken."""
import pathlib
import re
import tempfile
import unittest

from harness import HERE, PROGRAMS, run

SOURCE = HERE.parent.parent


class Installed(unittest.TestCase):
    def setUp(self):
        directory = tempfile.TemporaryDirectory(prefix="reelfs-test-")
        self.addCleanup(directory.cleanup)
        self.root = pathlib.Path(directory.name)
        run("env", f"DESTDIR={self.root}", "cmake", "--install", PROGRAMS.parent, "--prefix", "/usr")

    def test_every_program_works_and_has_a_manual(self):
        programs = {path.name for path in (self.root / "usr/bin").iterdir()}
        self.assertEqual(programs, {"indexd", "noded", "reelctl", "reelfs"})
        pages = {path.stem for path in (self.root / "usr/share/man").glob("man*/*")}
        self.assertEqual(pages, programs | {"mount.reelfs"})
        for program in programs:
            self.assertIn(program, run(self.root / "usr/bin" / program, "--version").stdout)

    def test_what_units_start_is_there(self):
        units = list((self.root / "usr/lib/systemd/system").iterdir())
        self.assertGreaterEqual(len(units), 2)
        for unit in units:
            for program in re.findall(r"^Exec\w+=(\S+)", unit.read_text(), re.MULTILINE):
                self.assertTrue((self.root / program.lstrip("/")).exists(), f"{unit.name}: {program}")

    def test_mount_finds_its_helper(self):
        helper = self.root / "usr/sbin/mount.reelfs"
        self.assertIn("usage: mount.reelfs", run(helper, check=False).stderr)

    def test_manuals_have_every_option(self):
        for page in (self.root / "usr/share/man").glob("man*/*"):
            if page.stem == "mount.reelfs":
                continue
            text = page.read_text().replace("\\-", "-")
            told = run(PROGRAMS / page.stem, "--help-all" if page.stem == "reelctl" else "--help").stdout
            for option in set(re.findall(r"--[a-z][a-z-]*|(?<=-o )[a-z_]+", told)):
                self.assertTrue(option in text, f"{page.name} does not have {option}")


class Guide(unittest.TestCase):
    """Each example is taken until its certificates are missed: every key is known and every value in range."""

    COMMANDS = {"indexd.toml": ["indexd", "--config"], "noded.toml": ["noded", "--worker", "1", "--config"],
                "cluster.toml": ["reelctl", "status", "--cluster"]}

    def test_its_configuration_is_taken(self):
        guide = (SOURCE / "docs/guide/operations.md").read_text()
        examples = re.findall(r"`/etc/reelfs/(\w+\.toml)`[^`]*(?:`[^`\n]+`[^`]*)*\n```toml\n(.*?)```", guide, re.DOTALL)
        self.assertEqual({name for name, _ in examples}, set(self.COMMANDS))
        with tempfile.TemporaryDirectory(prefix="reelfs-test-") as directory:
            for name, text in examples:
                file = pathlib.Path(directory) / name
                file.write_text(text.replace("/etc/reelfs", directory))
                program, *arguments = self.COMMANDS[name]
                done = run(PROGRAMS / program, *arguments, file, check=False)
                self.assertNotEqual(done.returncode, 0)
                self.assertIn(f"{directory}/authority.pem", done.stderr)


if __name__ == "__main__":
    unittest.main()
