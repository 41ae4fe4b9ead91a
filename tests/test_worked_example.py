"""Apply the diffs of the READMEs, which add a layout, an encoder, a loss and a preset, to a copy."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import fasticcl
from tests.support.images import photographs

ROOT = Path(fasticcl.__file__).parent
README = "\n".join((ROOT / room / "README.md").read_text() for room in ("convert", "method"))
PATCH = "".join(re.findall(r"```diff\n(.*?)```", README, flags=re.DOTALL))


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """A copy of the package with the changes."""
    folder = tmp_path_factory.mktemp("worked")
    shutil.copytree(ROOT, folder / "fasticcl", ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run(["git", "apply", "--unsafe-paths", "-"], input=PATCH, text=True, cwd=folder, check=True)
    return folder


def run(copy, *words):
    command = [sys.executable, "-c", "from fasticcl.cli.main import main; main()", *words]
    env = os.environ | {"PYTHONPATH": str(copy)}
    done = subprocess.run(command, cwd=copy, env=env, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_each_addition_is_one_new_file_and_one_line_and_a_method_one_preset():
    changes = re.findall(
        r"^--- (\S+)\n\+\+\+ b/(\S+)\n(.*?)(?=^--- |\Z)", PATCH, flags=re.MULTILINE | re.DOTALL
    )
    new = [path for before, path, _ in changes if before == "/dev/null"]
    old = {path: body for before, path, body in changes if before != "/dev/null"}
    presets = [path for path in new if path.endswith(".toml")]
    assert presets == ["fasticcl/presets/method/poly1.toml"]
    assert len(new) - len(presets) == len(old) == 3
    for body in old.values():
        assert [line[0] for line in body.splitlines()[1:]].count("+") == 1
        assert not any(line.startswith("-") for line in body.splitlines())


def test_what_was_added_converts_and_trains(copy):
    for number, content in enumerate(photographs(16, seed=4)):
        path = copy / "PREFIXED" / ("train" if number < 12 else "val") / f"{'ab'[number % 2]}_{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    assert "12 images" in run(copy, "convert", "prefix", "PREFIXED", "data/prefix")
    words = "train folder --data data/prefix --method poly1 --set method.encoder=plain"
    assert f"fasticcl {words}\n" in README
    small = "--fast-dev-run --batch-size 4 --set data.image_size=32 --no-report --device cpu"
    out = run(copy, *words.split(), *small.split())
    assert "plain," in out
    assert "poly1" in out


def test_the_added_loss_exceeds_cross_entropy_by_the_probability_of_an_error(copy):
    script = (
        "import torch; from fasticcl.config import Method; "
        "from fasticcl.method.class_losses import ClassificationLoss as C; "
        "z = torch.tensor([[3.0, 0.0]]); y = torch.tensor([0]); n = torch.ones(2); p = z.softmax(1)[0, 0]; "
        "one, other = (C(Method(class_loss=name), n)(z, y) for name in ('poly1', 'cross_entropy')); "
        "print((one - other - (1 - p)).abs().item() < 1e-6)"
    )
    env = os.environ | {"PYTHONPATH": str(copy)}
    done = subprocess.run([sys.executable, "-c", script], env=env, cwd=copy, capture_output=True, text=True)
    assert done.stdout.strip() == "True", done.stderr
