"""Folders of images to convert, and folders of shards as they are compared."""

import subprocess
import sys
from pathlib import Path

from tests.support.replicas import jpegs


def tree(folder: Path) -> dict[str, bytes]:
    """Every file by its path."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def lay_out(root: Path, train: int = 20, val: int = 4, seed: int = 0, side: int = 24) -> Path:
    """Images of two classes in the layout of `folder`."""
    contents = jpegs(train + val, seed, side)
    for i, content in enumerate(contents):
        path = root / ("train" if i < train else "val") / "ab"[i % 2] / f"{i:04d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return root


def command(*arguments: object, before: str = "") -> list[str]:
    """The command line in a process of its own; ``before`` is Python that runs in it first."""
    script = f"import sys; {before or 'pass'}\nfrom fasticcl.cli.main import main\nmain()"
    return [sys.executable, "-c", script, *map(str, arguments)]


def run(*arguments: object, before: str = "") -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own and return how it ended."""
    return subprocess.run(command(*arguments, before=before), capture_output=True, text=True)


UNPRIVILEGED = """
import ctypes, os
for capability in (1, 2):  # reading and writing what permissions forbid, which root may
    ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)
if not os.environ.get("DROPPED"):
    os.environ["DROPPED"] = "1"
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
"""
"""Python for ``before``: what permissions forbid is forbidden to root too."""
