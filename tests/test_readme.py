"""Every command of README, on small stand-ins for the datasets, or the test that runs it on more."""

import glob
import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest

import fasticcl
from fasticcl.cli.main import main
from fasticcl.convert.conversion import convert
from fasticcl.convert.source import Item, Source
from tests.support.replicas import inat2018, jpegs

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```bash\n(.*?)```", README, flags=re.DOTALL)
COMMANDS = [line.split("  #")[0].strip() for block in BLOCKS for line in block.splitlines()]
SPANS = re.findall(r"`(fasticcl [a-z][^`]*)`", README)
ELSEWHERE = {
    "./tools/demo": ".ci/run",
    "./tools/test": ".ci/run",
    "torchrun --nnodes 2": "tests/engine/test_torchrun.py",
    "sbatch --time": "tests/engine/test_torchrun.py",
    "fasticcl train inat2018 --nproc 8": "tests/engine/test_torchrun.py",
    "fasticcl convert cifar100-lt": "tests/data/test_cifar_lt.py",
    "fasticcl convert imagenet-lt": "tests/data/test_imagenet_lt.py",
    "fasticcl convert prefix": "tests/test_worked_example.py",
    "fasticcl train folder --data data/prefix": "tests/test_worked_example.py",
}
TINY = "--device cpu --no-report --set method.encoder=resnet8"
SMALL = f"{TINY} --fast-dev-run --batch-size 4 --set data.image_size=32"
DEMO = f"{TINY} --epochs 2 --set rebalance.epochs=2"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with what the commands of README expect to find."""
    folder = tmp_path_factory.mktemp("readme")
    inat2018({3: 6, 7: 4, 12: 2}).write(folder / "DOWNLOADS")
    pictures = jpegs(240, 1, 40)
    for number, content in enumerate(pictures):
        path = folder / "IMAGES" / "ab"[number % 2] / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    rows = [f"IMAGES/{'ab'[i % 2]}/{i}.jpg,{'ab'[i % 2]},{'val' if i > 19 else 'train'}" for i in range(240)]
    (folder / "IMAGES.csv").write_text("\n".join(["path,label,split", *rows]) + "\n")
    for name, ratio in (("imagenet-lt", 0), ("cifar100-lt", 50), ("cifar10-lt", 10)):
        items = [Item(content, number % 2, f"{number}.jpg") for number, content in enumerate(pictures)]
        settings = {"imbalance": ratio} if ratio else {}
        source = Source(name, ["a", "b"], {"train": items[:16], "test": items[16:]}, settings=settings)
        convert(source, folder / "data" / name)
    return folder


@pytest.fixture
def call(place, monkeypatch, capsys):
    """Call the command line in that folder."""
    monkeypatch.chdir(place)

    def run(words):
        monkeypatch.setattr(sys, "argv", words)
        with pytest.raises(SystemExit) as left:
            main()
        printed = capsys.readouterr()
        assert left.value.code == 0, printed.err
        return printed.out

    return run


def fitted(line):
    """The words of a command, with options that make it small and file patterns resolved as a shell does."""
    words = shlex.split(line)
    if words[1] == "convert":
        shutil.rmtree(words[4], ignore_errors=True)
    if words[1] == "train" and "--resume" not in words:
        words += shlex.split(DEMO if words[2] == "demo" else SMALL)
        folder = Path("runs", words[2], words[words.index("--name") + 1] if "--name" in words else "none")
        shutil.rmtree(folder, ignore_errors=True)
    return [each for word in words for each in (sorted(glob.glob(word)) if "*" in word else [word])]


def test_every_command_runs_or_names_its_test(call):
    ran = []
    for name in ("iccl-1", "iccl-2", "ce-1"):
        options = ["--method", name[:-2], "--name", name, "--data", "data/demo"]
        call(["fasticcl", "train", "demo", *options, *shlex.split(DEMO)])
    call(["fasticcl", "convert", "inat2018", "DOWNLOADS", "data/inat2018"])
    call(["fasticcl", "train", "inat2018", "--name", "long", *shlex.split(SMALL)])
    for line in filter(None, COMMANDS):
        known = [test for begin, test in ELSEWHERE.items() if line.startswith(begin)]
        if known:
            assert (ROOT / known[0]).exists()
        else:
            call(fitted(line))
            ran.append(line)
    assert len(ran) >= 20


def test_what_is_tested_elsewhere_is_still_in_readme():
    assert [begin for begin in ELSEWHERE if not any(line.startswith(begin) for line in COMMANDS)] == []


def test_commands_in_the_text_name_verbs_and_options_that_exist():
    frozen = (ROOT / "tests/verbs.txt").read_text()
    known = {
        name: set(re.split(r"[ /]", options))
        for name, _, options in (line.partition(":") for line in frozen.splitlines())
    }
    for span in SPANS:
        words = span.split()
        verb = " ".join(words[:3]) if words[1] == "bench" and len(words) > 2 else " ".join(words[:2])
        assert verb in known, span
        options = re.findall(r"--[a-z-]+", span)
        assert set(options) <= known[verb], span
    assert len(SPANS) >= 10


def test_the_python_of_readme_runs(place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    shutil.rmtree("runs", ignore_errors=True)
    (program,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    exec(compile(program, "README.md", "exec"), {})
    lines = capsys.readouterr().out.splitlines()
    assert 0 <= float(lines[0]) <= 100
    assert len(lines) == 241
    assert all(re.fullmatch(r"IMAGES/[ab]/\d+\.jpg \d", line) for line in lines[1:])


def test_readme_names_no_verb_of_python_that_is_not_there():
    for name in re.findall(r"fasticcl\.([a-z]+)\(", README):
        assert name in fasticcl.__all__
