"""rsync of a tree into a channel and back."""
import os
import pathlib
import random
import re
import stat
import unittest

from harness import BoxTest, run

FILES = 2000


def make_tree(root, files, seed):
    dice = random.Random(seed)
    directories = [root]
    for number in range(files // 40):
        directory = dice.choice(directories) / f"dir {number}"
        directory.mkdir()
        directories.append(directory)
    for number in range(files):
        path = dice.choice(directories) / f"file-{number:04}-ä.jpg"
        path.write_bytes(dice.randbytes(dice.choice((0, 1, 100, 4096, 5000, 20_000, 65_536, 70_001))))
        path.chmod(dice.choice((0o644, 0o600, 0o755, 0o444, 0o4755, 0o640)))
        if number % 20 == 0:
            path.with_suffix(".link").symlink_to(path.name)
        when = dice.randrange(10**18, 1_700_000_000 * 10**9)
        os.utime(path, ns=(when, when))
    for directory in reversed(directories):
        when = dice.randrange(10**18, 1_700_000_000 * 10**9)
        directory.chmod(dice.choice((0o755, 0o700, 0o2775)))
        os.utime(directory, ns=(when, when))


def describe(root):
    """Everything rsync -a keeps, by relative path."""
    tree = {}
    for path in [root, *root.rglob("*")]:
        told = path.lstat()
        one = [stat.filemode(told.st_mode), told.st_uid, told.st_gid]
        if path.is_symlink():
            one.append(os.readlink(path))
        elif path.is_file():
            one += [told.st_mtime_ns, told.st_size, path.read_bytes()]
        else:
            one.append(told.st_mtime_ns)
        tree[str(path.relative_to(root))] = one
    return tree


class Rsync(BoxTest):
    def compare(self, want, got):
        self.assertEqual(want.keys(), got.keys())
        different = {name: (want[name][:5], got[name][:5]) for name in want if want[name] != got[name]}
        self.assertFalse(different, f"{len(different)} differ")

    def test_a_tree_goes_in_and_comes_back_the_same(self):
        source = self.local()
        make_tree(source, FILES, seed=2)
        inside = self.channel / "tree"
        back = pathlib.Path(f"{source}-back")
        want = describe(source)
        run("rsync", "-a", f"{source}/", f"{inside}/", timeout=300)
        self.compare(want, describe(inside))
        run("rsync", "-a", f"{inside}/", f"{back}/", timeout=300)
        self.compare(want, describe(back))
        for one, other in ((source, inside), (inside, back)):
            again = run("rsync", "-ai", "--stats", f"{one}/", f"{other}/", timeout=300).stdout
            changes = [line for line in again.splitlines() if re.match(r"[<>ch.*][fdLDS]", line)]
            self.assertEqual(changes, [], "the second run sends nothing")
            self.assertIn("Number of regular files transferred: 0", again)
        # And with the contents compared, not only times and sizes.
        self.assertEqual(run("rsync", "-aic", f"{source}/", f"{inside}/", timeout=300).stdout, "")


if __name__ == "__main__":
    unittest.main()
