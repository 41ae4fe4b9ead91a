"""Conversions killed at any moment: visible files are complete, and the same command continues."""

import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import fasticcl
from fasticcl.convert.conversion import convert
from fasticcl.convert.source import ItemList, Source
from tests.support.command_line import cli_command
from tests.support.files import file_contents, write_tar
from tests.support.image_sources import write_image_folder
from tests.support.processes import started_process

VISIBLE = (".tar", ".idx", "index.npy", "manifest.json")


def assert_visible_files_are_complete(folder, whole):
    for name, content in file_contents(folder).items():
        if name.endswith(VISIBLE) and not name.startswith(".parts/"):
            assert content == whole[name], name


def shard_count(folder):
    return len(list(folder.glob("*/*.tar")))


def kill_until_finished(arguments, dest, whole, seed):
    """Run a command until it finishes, killing it after every few shards. Return the number of kills."""
    rng = np.random.default_rng(seed)
    kills = 0
    for _ in range(100):
        before = shard_count(dest)
        target = before + int(rng.integers(1, 5))
        with started_process(
            cli_command(*arguments), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        ) as process:
            while process.poll() is None and shard_count(dest) < target:
                time.sleep(0.001)
            time.sleep(rng.uniform(0, 0.004))
            process.kill()
            errors = process.stderr.read()
        assert_visible_files_are_complete(dest, whole)
        if process.returncode == 0:
            return kills
        assert (process.returncode, errors) == (-signal.SIGKILL, "")
        kills += not (dest / "manifest.json").exists()
    return None


def test_repeatedly_killed_conversion_gives_the_same_bytes(tmp_path):
    images = write_image_folder(tmp_path / "images", train=120, val=20, side=96)
    fasticcl.convert("folder", images, tmp_path / "uninterrupted", shard_size=6)
    whole = file_contents(tmp_path / "uninterrupted")
    arguments = ("convert", "folder", images, tmp_path / "killed", "--shard-size", 6, "--workers", 2)
    assert kill_until_finished(arguments, tmp_path / "killed", whole, seed=0) >= 5
    assert file_contents(tmp_path / "killed") == whole
    assert not fasticcl.verify(tmp_path / "killed").problems


# Runs without threads. Forks, kills the child at its n-th disk operation, and then lets a child finish.
KILL_AT_EVERY_OPERATION = """
import json, os, shutil, signal, sys
from pathlib import Path
from fasticcl.convert.conversion import convert
from tests.convert.test_kill import archived
from fasticcl.convert.layouts import folder

kind, source, root, stride = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4])
os.fsync = lambda _: None  # needed only for power failures
left = None

OPERATIONS = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "mmap.__new__")

def count(event, arguments):
    global left
    writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
    if left is None or not (writes or event in OPERATIONS):
        return
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(count)

def run(dest, acts):
    global left
    child = os.fork()
    if child == 0:
        left = acts
        convert(archived(source) if kind == "archive" else folder.read(source), dest, shard_size=4, workers=1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

acts, ends = 0, []
while not ends or ends[-1] != 0:
    dest = root / str(acts)
    ends.append(run(dest, acts))
    dest.mkdir(exist_ok=True)
    shutil.copytree(dest, f"{dest}.killed")
    assert run(dest, 10**9) == 0
    acts += stride
print(json.dumps(ends))
"""


def archived(path):
    names = [f"train/{'ab'[i % 2]}/{i:04d}.jpg" for i in range(10)]
    names += [f"val/{'ab'[i % 2]}/{i:04d}.jpg" for i in range(10, 13)]
    splits = {
        split: ItemList(listed, ["ab".index(name.split("/")[1]) for name in listed], lambda _, name: name)
        for split, listed in (("train", names[:10]), ("val", names[10:]))
    }
    return Source("folder", ["a", "b"], splits, archive=path)


@pytest.mark.parametrize("kind", ["folder", "archive"])
def test_kill_at_any_disk_operation_leaves_complete_files_and_can_continue(tmp_path, kind):
    images = write_image_folder(tmp_path / "images", train=10, val=3)
    source = images
    if kind == "archive":
        members = sorted(file_contents(images).items(), reverse=True)
        source = write_tar(tmp_path / "images.tar.gz", members)
        convert(archived(source), tmp_path / "uninterrupted", shard_size=4)
    else:
        fasticcl.convert("folder", images, tmp_path / "uninterrupted", shard_size=4)
    whole = file_contents(tmp_path / "uninterrupted")
    stride = 1 if kind == "folder" else 5
    (tmp_path / "runs").mkdir()
    process = subprocess.run(
        [sys.executable, "-c", KILL_AT_EVERY_OPERATION, kind, source, tmp_path / "runs", str(stride)],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": ":".join(sys.path), "PATH": "/usr/bin:/bin"},
    )
    assert process.returncode == 0, process.stderr
    ends = json.loads(process.stdout)
    assert ends[-1] == 0
    assert set(ends[:-1]) == {-signal.SIGKILL}
    assert len(ends) > 60 / stride
    for place in range(len(ends)):
        assert_visible_files_are_complete(tmp_path / "runs" / f"{place * stride}.killed", whole)
        assert file_contents(tmp_path / "runs" / str(place * stride)) == whole, place * stride
