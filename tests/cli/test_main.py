"""The command line as a person meets it: verbs, options, and one sentence for what went wrong."""

import json
import shlex
import shutil
import signal
import subprocess
import sys
import tomllib

import numpy as np
import pytest

import fasticcl
from fasticcl.cli.main import main
from tests.support.image_sources import write_image_folder
from tests.support.images import encode, noise
from tests.support.processes import started_process

SMALL = [
    "--set",
    "method.encoder=resnet8",
    "--epochs",
    "2",
    "--set",
    "rebalance.epochs=1",
    "--device",
    "cpu",
    "--no-report",
]


@pytest.fixture
def fasticcl_command(monkeypatch, capsys, tmp_path):
    """Call the command line in this process, in an empty folder; returns exit code, output and errors."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["fasticcl", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            main()
        output = capsys.readouterr()
        return left.value.code, output.out, output.err

    return call


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["trian"], "Did you mean 'train'?"),
        (["train", "demo", "--epoch", "3"], "--epochs"),
        (["train", "dmeo"], "There is no dataset preset 'dmeo'. Did you mean demo?"),
        (["train", "demo", "--method", "icc"], "Did you mean iccl?"),
        (["train", "demo", "--set", "method.temprature=1"], "Did you mean method.temperature?"),
        (
            ["train", "demo", "--set", "optimiser.lr=1"],
            "There is no section 'optimiser'. Did you mean optim?",
        ),
        (["train", "demo", "--set", "optim.lr=fast"], "optim.lr: "),
        (["train", "demo", "--lr", "fast"], "'--lr'"),
        (["train", "demo", "--lr", "-1"], "optim.lr: input should be greater than 0, got -1.0."),
        (["train"], "Specify a dataset to train on: "),
        (["train", "inat2018"], "fasticcl convert inat2018 SRC data/inat2018"),
        (
            ["train", "cifar100-lt", "--imbalance", "50"],
            "fasticcl convert cifar100-lt SRC data/cifar100-lt --imbalance 50",
        ),
        (["train", "imagenet-lt", "--data", "nowhere"], "fasticcl convert imagenet-lt SRC nowhere"),
        (
            ["train", "cifar100-lt", "--imbalance", "20"],
            "data.imbalance: input should be 100, 50 or 10, got 20.",
        ),
        (["train", "demo", "--device", "gpu"], "torch detects no GPU"),
        (["train", "demo", "--device", "tpu"], "engine.device: "),
        (
            ["train", "demo", "--resume"],
            "There is no run to resume in runs/demo. Start one without --resume.",
        ),
        (["train", "-c", "nowhere.toml"], "Cannot read the configuration nowhere.toml: No such file"),
        (["convert", "folder", "nowhere", "shards"], "Cannot read the folder nowhere: No such file"),
        (["convert", "coco", "nowhere", "shards"], "There is no layout 'coco'. Known: inat2018, "),
        (["presets", "inat"], "Did you mean inat2018?"),
        (["eval", "nowhere"], "nowhere is not a run folder: it has no config.toml."),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_is_one_sentence_and_exit_code_2(
    fasticcl_command, tmp_path, arguments, sentence, monkeypatch
):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    code, out, err = fasticcl_command(*arguments)
    assert code == 2
    assert sentence in err
    assert "Traceback" not in out + err
    assert len([line for line in err.splitlines() if "rror: " in line]) == 1
    assert not list(tmp_path.iterdir())  # nothing was made


def test_an_unreadable_folder_is_named(fasticcl_command, monkeypatch):
    def locked(folder):
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr("os.scandir", locked)
    code, _, err = fasticcl_command("convert", "folder", "locked", "shards")
    assert (code, err) == (2, "error: Cannot read the folder locked: Permission denied.\n")


def test_a_folder_without_images_is_named(fasticcl_command, tmp_path):
    for name in ("train/a", "train/b", "val/a"):
        (tmp_path / "images" / name).mkdir(parents=True)
    code, _, err = fasticcl_command("convert", "folder", "images", "shards")
    assert code == 2
    assert err.startswith(
        "error: There are no images in images/train. Arrange the images as train/CLASS/x.jpg"
    )


def test_one_class_and_a_batch_too_large_are_named(fasticcl_command, tmp_path):
    picture = encode(noise(np.random.default_rng(0)))
    for name in ("train/a/1.jpg", "train/a/2.jpg", "val/a/3.jpg"):
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture)
    code, out, _ = fasticcl_command("convert", "folder", "images", "shards")
    assert code == 0
    assert "Next: fasticcl train folder --data shards" in out
    code, _, err = fasticcl_command("train", "folder", "--data", "shards")
    assert (code, err) == (2, "error: shards has only one class, 'a'. A classifier needs at least two.\n")


def test_a_batch_larger_than_the_dataset_is_named(fasticcl_command, digit_shards):
    code, _, err = fasticcl_command("train", "demo", "--data", digit_shards, "--batch-size", "393")
    assert code == 2
    assert (
        err == "error: A batch of 393 is larger than the 392 training images. Use --batch-size 392 or less.\n"
    )


def test_print_config_prints_what_config_reads(fasticcl_command, tmp_path):
    code, out, _ = fasticcl_command(
        "train", "cifar100-lt", "--epochs", "50", "--set", "data.gamma=0.5", "--print-config"
    )
    assert code == 0
    assert tomllib.loads(out)["method"]["warmup_epochs"] == 20
    (tmp_path / "mine.toml").write_text(out)
    assert fasticcl_command("train", "-c", "mine.toml", "--print-config")[1] == out


def test_presets_are_listed_and_shown(fasticcl_command):
    _, out, _ = fasticcl_command("presets")
    for name in (
        "cifar10-lt",
        "cifar100-lt",
        "demo",
        "folder",
        "imagenet-lt",
        "inat2018",
        "ce",
        "crt",
        "iccl",
        "mixup",
    ):
        (line,) = [line for line in out.splitlines() if line.startswith(f"  {name} ")]
        assert len(line) <= 120
    code, out, _ = fasticcl_command("presets", "inat2018")
    assert code == 0
    assert tomllib.loads(out)["optim"]["batch_size"] == 512


def test_train_and_eval_print_the_same_table(fasticcl_command, digit_shards):
    code, out, _ = fasticcl_command("train", "demo", "--data", digit_shards, *SMALL)
    assert code == 0
    table = out[out.index("Evaluated on test") : out.index("Next: ")]
    for title in (
        "before rebalancing",
        "after rebalancing",
        "rebalancing epoch",
        "best on test",
        "overall",
        "many",
        "medium",
        "few",
    ):
        assert title in table
    assert "fasticcl sweep runs/demo/iccl-1" in out
    code, again, _ = fasticcl_command("eval", "runs/demo/iccl-1")
    assert (code, again.strip()) == (0, table.strip())
    code, text, _ = fasticcl_command("eval", "runs/demo/iccl-1", "--json")
    found = json.loads(text)
    assert found["split"] == "test"
    assert f"{found['after']['val/top1']:.1f}" in table


def test_resuming_a_finished_run_says_so_and_what_to_do_next(fasticcl_command, digit_shards):
    fasticcl_command("train", "demo", "--data", digit_shards, *SMALL)
    code, out, _ = fasticcl_command("train", "demo", "--resume")
    assert code == 0
    assert out.startswith("run      runs/demo/iccl-1 is already finished\n")
    for verb in ("predict", "report"):
        assert f"fasticcl {verb} runs/demo/iccl-1" in out
    assert "images/s" not in out


def test_the_python_api_is_the_same_call(fasticcl_command, digit_shards):
    fasticcl_command("train", "demo", "--data", digit_shards, "--seed", "3", "--name", "cli", *SMALL)
    settings = {"method.encoder": "resnet8", "rebalance.epochs": 1}
    report = fasticcl.train(
        "demo", data=digit_shards, seed=3, name="api", epochs=2, device="cpu", set=settings
    )
    _, text, _ = fasticcl_command("eval", "runs/demo/cli", "--json")
    assert {name: json.loads(text)[name] for name in report.rows} == report.rows


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_and_says_how_to_continue(digit_shards, tmp_path, signum, code):
    command = [
        sys.executable,
        "-m",
        "fasticcl",
        "train",
        "demo",
        "--data",
        str(digit_shards),
        *SMALL,
        "--epochs",
        "40",
    ]
    with started_process(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        for line in process.stdout:
            if "epoch  2/40" in line:
                process.send_signal(signum)
                break
        process.stdout.read()
        errors = process.stderr.read()
    assert process.returncode == code
    assert "Traceback" not in errors
    assert errors.rstrip().endswith("fasticcl train demo --name iccl-1 --resume")
    assert (tmp_path / "runs/demo/iccl-1/last.pt").exists()


def test_quiet_prints_nothing_but_trouble(fasticcl_command, digit_shards):
    quiet = ["train", "demo", "--data", digit_shards, "--quiet", "--name", "quiet"]
    assert fasticcl_command(*quiet, *SMALL) == (0, "", "")
    code, out, err = fasticcl_command(*quiet, *SMALL)
    assert (code, out) == (2, "")
    assert "The run runs/demo/quiet exists" in err


def test_colours_and_bars_stay_out_of_pipes_and_of_terminals_that_want_none(fasticcl_command, digit_shards):
    code, out, _ = fasticcl_command("train", "demo", "--data", digit_shards, *SMALL)
    assert code == 0
    assert "\x1b" not in out
    assert len([line for line in out.splitlines() if "images/s" in line]) == 3
    assert [line.split()[0] for line in out.splitlines()[:5]] == [
        "data",
        "method",
        "schedule",
        "machine",
        "run",
    ]
    assert "Next: fasticcl predict runs/demo/iccl-1 IMAGE..." in out


def test_the_version_is_that_of_the_package(fasticcl_command):
    assert fasticcl_command("--version") == (0, f"fasticcl {fasticcl.__version__}\n", "")


def test_pictures_given_as_shards_lead_to_their_conversion(fasticcl_command, tmp_path):
    (tmp_path / "my pictures/a").mkdir(parents=True)
    (tmp_path / "my pictures/a/x.jpg").write_bytes(b"")
    code, _, err = fasticcl_command("train", "folder", "--data", "my pictures")
    assert code == 2
    assert "fasticcl convert folder 'my pictures' data/folder --val-fraction 0.1" in err
    (tmp_path / "begun/train").mkdir(parents=True)
    (tmp_path / "begun/train/shard-000000.tar").write_bytes(b"")
    _, _, err = fasticcl_command("train", "folder", "--data", "begun")
    assert "no shards of folder in begun. Create them with: fasticcl convert folder SRC begun" in err


def test_what_follows_a_small_conversion_can_be_typed(fasticcl_command, tmp_path):
    write_image_folder(tmp_path / "few", train=20, val=4)
    _, out, _ = fasticcl_command("convert", "folder", "few", "shards of few")
    (following,) = [line.removeprefix("Next: ") for line in out.splitlines() if line.startswith("Next: ")]
    words = shlex.split(following)
    assert words[words.index("--batch-size") + 1] == "2"
    small = [
        "--set",
        "method.encoder=resnet8",
        "--set",
        "data.image_size=16",
        "--fast-dev-run",
        "--no-report",
    ]
    assert fasticcl_command(*words[1:], *small)[0] == 0


def next_commands(out):
    """The words of every command that the output ends with, a place for pictures or runs left out."""
    lines = out[out.index("Next: ") :].removeprefix("Next: ").splitlines()
    commands = [shlex.split(line.strip().split("    ")[0]) for line in lines]
    return [[word for word in words if not word.endswith("...")] for words in commands]


def test_what_is_to_be_typed_next_can_be_typed_where_paths_have_spaces(
    fasticcl_command, tiny_shards, tmp_path
):
    shutil.copytree(tiny_shards, tmp_path / "my shards")
    (tmp_path / "my picture.png").write_bytes(encode(noise(np.random.default_rng(0), 12, 10), "PNG"))
    small = ["--data", "my shards", "--project", "my 'own' runs", "--batch-size", "20", *SMALL]
    small += ["--set", "data.image_size=8", "--set", "data.crop_padding=1"]
    code, out, _ = fasticcl_command("train", "demo", "--name", "first", *small)
    assert code == 0
    commands = [words for words in next_commands(out) if words[2] != "demo"]
    assert [words[1] for words in commands] == ["predict", "sweep", "train", "report"]
    commands[0].append("my picture.png")
    for words in [*commands, ["fasticcl", "rebalance", "my 'own' runs/demo/first"]]:
        code, out, err = fasticcl_command(*words[1:])
        assert (code, err) == (0, ""), words
    ((_, *words),) = next_commands(out)
    assert words == ["report", "my 'own' runs/demo/first", "my 'own' runs/demo/first-rebalance-1"]
    assert fasticcl_command(*words)[0] == 0
    assert (tmp_path / "my 'own' runs/demo/again/model.safetensors").exists()
