"""Every command of the README files runs on small stand-ins for the datasets, or names its test."""

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
from tests.support.images import jpegs
from tests.support.replicas import inat2018

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    *(ROOT / "fasticcl" / room / "README.md" for room in ("convert", "engine", "method")),
    ROOT / "benchmarks/README.md",
]
TEXTS = {page: page.read_text() for page in PAGES if page.exists()}
README = TEXTS[PAGES[0]]
LINES = [
    line
    for text in TEXTS.values()
    for block in re.findall(r"```bash\n(.*?)```", text, flags=re.DOTALL)
    for line in block.splitlines()
]
PROGRAMS = (
    "fasticcl ",
    "torchrun ",
    "sbatch ",
    "./tools/",
)  # tests/benchmarks/test_readme.py checks benchmarks
COMMANDS = [line.split("  #")[0].strip() for line in LINES if line.startswith(PROGRAMS)]
SPANS = [span for text in TEXTS.values() for span in re.findall(r"`(fasticcl [a-z][^`]*)`", text)]
ELSEWHERE = {
    "./tools/demo": ".ci/run",
    "./tools/test": ".ci/run",
    "torchrun --nnodes 2": "tests/system/test_launch.py",
    "sbatch --time": "tests/system/test_launch.py",
    "fasticcl train inat2018 --nproc 8": "tests/system/test_launch.py",
    "fasticcl bench": "tests/cli/test_bench.py",
    "fasticcl convert cifar100-lt": "tests/convert/layouts/test_cifar_lt.py",
    "fasticcl convert imagenet-lt": "tests/convert/layouts/test_imagenet_lt.py",
    "fasticcl reproduce": "tests/reproduce/test_reproduction.py",
    "sbatch --array": "tests/tools/test_slurm_array.py",
    "fasticcl convert prefix": "tests/test_worked_example.py",
    "fasticcl train folder --data data/prefix": "tests/test_worked_example.py",
}
TINY = "--device cpu --no-report --set method.encoder=resnet8"
SMALL = f"{TINY} --fast-dev-run --batch-size 4 --set data.image_size=32"
DEMO = f"{TINY} --epochs 2 --set rebalance.epochs=2"


@pytest.fixture(scope="module")
def workspace(tiny_shards, tmp_path_factory):
    """A folder with the inputs that the commands of the README files expect."""
    folder = tmp_path_factory.mktemp("readme")
    shutil.copytree(tiny_shards, folder / "data/demo")
    inat2018({3: 6, 7: 4, 12: 2}).write(folder / "DOWNLOADS")
    images = jpegs(240, 1, 40)
    for number, content in enumerate(images):
        path = folder / "IMAGES" / "ab"[number % 2] / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    rows = [f"IMAGES/{'ab'[i % 2]}/{i}.jpg,{'ab'[i % 2]},{'val' if i > 19 else 'train'}" for i in range(240)]
    (folder / "IMAGES.csv").write_text("\n".join(["path,label,split", *rows]) + "\n")
    for name, ratio in (("imagenet-lt", 0), ("cifar100-lt", 50), ("cifar10-lt", 10)):
        items = [Item(content, number % 2, f"{number}.jpg") for number, content in enumerate(images)]
        settings = {"imbalance": ratio} if ratio else {}
        source = Source(name, ["a", "b"], {"train": items[:16], "test": items[16:]}, settings=settings)
        convert(source, folder / "data" / name)
    return folder


@pytest.fixture
def call(workspace, monkeypatch, capsys):
    """Call the command line in that folder and return its output."""
    monkeypatch.chdir(workspace)

    def run(words):
        monkeypatch.setattr(sys, "argv", words)
        with pytest.raises(SystemExit) as left:
            main()
        printed = capsys.readouterr()
        assert left.value.code == 0, printed.err
        return printed.out

    return run


def shrunk(line):
    """Return the words of a command with options that make it small, and its file patterns expanded."""
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
    for line in COMMANDS:
        tests = [test for begin, test in ELSEWHERE.items() if line.startswith(begin)]
        if tests:
            assert (ROOT / tests[0]).exists()
        else:
            call(shrunk(line))
            ran.append(line)
    assert len(ran) >= 20


def test_every_command_that_is_tested_elsewhere_is_in_a_readme():
    assert [begin for begin in ELSEWHERE if not any(line.startswith(begin) for line in COMMANDS)] == []


def test_commands_in_the_text_use_existing_verbs_and_options():
    frozen = (ROOT / "tests/verbs.txt").read_text()
    known = {
        name: set(re.split(r"[ /]", options))
        for name, _, options in (line.partition(":") for line in frozen.splitlines())
    }
    for span in SPANS:
        words = span.split()
        verb = " ".join(words[:3]) if words[1] == "bench" and len(words) > 2 else " ".join(words[:2])
        assert verb in known, span
        assert set(re.findall(r"--[a-z-]+", span)) <= known[verb], span
    assert len(SPANS) >= 10


def test_commands_of_tools_use_existing_scripts_and_options():
    commands = re.findall(
        r"\./?(?:venv/bin/python )?tools/(\w+)((?: --?\w[^`\n#]*)?)", "\n".join(TEXTS.values())
    )
    for script, arguments in commands:
        text = (ROOT / "tools" / script).read_text()
        assert all(f'"{option}"' in text for option in re.findall(r"--[a-z-]+", arguments)), (
            script,
            arguments,
        )
    assert {"demo", "test", "soak"} <= {script for script, _ in commands}


def test_links_lead_to_existing_files():
    for page, text in TEXTS.items():
        for link in re.findall(r"\]\((?!https?:)([^)#]+)\)", text):
            assert (page.parent / link).exists(), f"{page}: {link}"


def test_python_examples_run(call, capsys, monkeypatch):
    for folder in ("runs", "data/folder", "data/demo"):
        shutil.rmtree(folder, ignore_errors=True)
    train = fasticcl.train

    def train_small(*arguments, set, **options):
        small = {"method.encoder": "resnet8", "rebalance.epochs": 1}
        return train(*arguments, set=set | small, device="cpu", report=False, **options)

    monkeypatch.setattr(fasticcl, "train", train_small)
    call(["fasticcl", "convert", "folder", "IMAGES", "data/folder", "--val-fraction", "0.1"])
    verbs, loading = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    exec(compile(verbs, "README.md", "exec"), {})
    lines = capsys.readouterr().out.splitlines()
    assert 0 <= float(lines[0]) <= 100
    assert len(lines) == 241
    assert all(re.fullmatch(r"IMAGES/[ab]/\d+\.jpg \d", line) for line in lines[1:])
    exec(compile(loading, "README.md", "exec"), {})
    batches = capsys.readouterr().out.split("torch.Size([8, 3, 224, 224]) torch.Size([8, 3, 224, 224])")
    assert len(batches) == 1 + 216 // 8


def test_python_functions_in_the_readme_exist():
    for name in re.findall(r"fasticcl\.([a-z]+)\(", README):
        assert name in fasticcl.__all__
