"""``fasticcl train``, ``eval`` and ``rebalance``: output, signals, errors and the next commands."""

import json
import re
import shlex
import shutil
import signal
import time
import tomllib
from pathlib import Path

import numpy as np

import fasticcl
from fasticcl.report.data_files import run_json
from fasticcl.report.run_history import read_history
from fasticcl.report.run_sections import accuracy_table, run_sections
from fasticcl.shards.manifest import Manifest
from tests.support.images import encode, noise
from tests.support.processes import Child, call_main_in

SMALL = shlex.split(
    "--set method.encoder=resnet8 --set data.image_size=8 --set data.crop_padding=1 --batch-size 20 "
    "--epochs 2 --set rebalance.epochs=1 --device cpu --no-report"
)


def test_batch_larger_than_the_dataset_is_rejected(fasticcl_command, digit_shards):
    code, _, err = fasticcl_command("train", "demo", "--data", digit_shards, "--batch-size", "393")
    assert code == 2
    assert (
        err == "error: A batch of 393 is larger than the 392 training images. Use --batch-size 392 or less.\n"
    )


def test_printed_configuration_can_be_read_with_config(fasticcl_command, tmp_path):
    code, out, _ = fasticcl_command(
        "train", "cifar100-lt", "--epochs", "50", "--set", "data.gamma=0.5", "--print-config"
    )
    assert code == 0
    assert tomllib.loads(out)["method"]["warmup_epochs"] == 20
    (tmp_path / "mine.toml").write_text(out)
    assert fasticcl_command("train", "-c", "mine.toml", "--print-config")[1] == out


def test_train_and_eval_print_the_same_table(fasticcl_command, tiny_shards):
    code, out, _ = fasticcl_command("train", "demo", "--data", tiny_shards, *SMALL)
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


def test_train_and_eval_show_the_figure_of_the_paper(fasticcl_command, tiny_shards, tmp_path):
    """Digits in place of CIFAR-10, which is another choice of images."""
    shards = shutil.copytree(tiny_shards, tmp_path / "shards")
    manifest = Manifest.read(shards)
    settings = {**manifest.settings, "long_tail": 14.0}
    manifest.model_copy(update={"dataset": "folder", "settings": settings}).write(shards)
    code, out, _ = fasticcl_command("train", "cifar10-lt", "--data", shards, *SMALL)
    assert code == 0
    assert re.search(r"^paper    Table 1: overall 82.1 %; this run differs in \d settings$", out, re.M)
    shown = out[out.index("Evaluated on test") : out.index("Next: ")]
    assert re.search(r"paper, Table 1 +│ +82.1 │ +- │ +- │ +- │", shown)
    sentence = "This run differs from Table 1 of the paper: another choice of images, 2 epochs (paper: 200), "
    sentence += "encoder resnet8 (paper: resnet32), batch size 20 (paper: 128), "
    assert sentence in shown
    run = "runs/cifar10-lt/iccl-1"
    assert fasticcl_command("eval", run)[1].strip() == shown.strip()
    paper = json.loads(fasticcl_command("eval", run, "--json")[1])["paper"]
    assert (paper["table"], paper["row"], paper["figures"]) == ("Table 1", "ICCL (ours)", {"overall": 82.1})
    history = read_history(Path(run))
    *_, row = accuracy_table(history).rows
    assert [cell.text for cell in row] == ["paper, Table 1", "–", "82.1", "–", "–", "–"]
    section = next(run_sections(history, None, {}, ""))
    assert f"Table 1 of the paper has this setting in the row “ICCL (ours)”. {sentence}" in section.text
    assert json.loads(run_json(history, None))["paper"] == paper


def test_resuming_a_finished_run_reports_it_and_the_next_commands(fasticcl_command, tiny_shards):
    fasticcl_command("train", "demo", "--data", tiny_shards, *SMALL)
    code, out, _ = fasticcl_command("train", "demo", "--resume")
    assert code == 0
    assert out.startswith("run      runs/demo/iccl-1 is already finished\n")
    for verb in ("predict", "report"):
        assert f"fasticcl {verb} runs/demo/iccl-1" in out
    assert "images/s" not in out


def test_python_function_gives_the_same_accuracies(fasticcl_command, tiny_shards):
    fasticcl_command("train", "demo", "--data", tiny_shards, "--seed", "3", "--name", "cli", *SMALL)
    settings = {"method.encoder": "resnet8", "data.image_size": 8, "data.crop_padding": 1}
    settings |= {"rebalance.epochs": 1}
    options = {"epochs": 2, "batch_size": 20, "device": "cpu", "report": False, "set": settings}
    report = fasticcl.train("demo", data=tiny_shards, seed=3, name="api", **options)
    _, text, _ = fasticcl_command("eval", "runs/demo/cli", "--json")
    assert {name: json.loads(text)[name] for name in report.rows} == report.rows


def test_ctrl_c_saves_the_run_and_prints_how_to_continue(tiny_shards, tmp_path):
    words = ["train", "demo", "--data", tiny_shards, *SMALL, "--epochs", 40]
    child = Child(tmp_path / "log", call_main_in, tmp_path, *words)
    while "epoch  2/40" not in child.printed():
        assert child.process.is_alive(), child.printed()
        time.sleep(0.01)
    child.signal(signal.SIGINT)
    assert child.exit_code() == 130
    assert "Traceback" not in child.printed()
    assert child.printed().rstrip().endswith("fasticcl train demo --name iccl-1 --resume")
    assert (tmp_path / "runs/demo/iccl-1/last.pt").exists()


def test_quiet_prints_only_errors(fasticcl_command, tiny_shards):
    quiet = ["train", "demo", "--data", tiny_shards, "--quiet", "--name", "quiet"]
    assert fasticcl_command(*quiet, *SMALL) == (0, "", "")
    code, out, err = fasticcl_command(*quiet, *SMALL)
    assert (code, out) == (2, "")
    assert "The run runs/demo/quiet already exists" in err


def test_piped_output_has_no_colours_and_no_progress_bars(fasticcl_command, tiny_shards):
    code, out, _ = fasticcl_command("train", "demo", "--data", tiny_shards, *SMALL)
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


def test_error_for_images_without_shards_gives_the_convert_command(fasticcl_command, tmp_path):
    (tmp_path / "my images/a").mkdir(parents=True)
    (tmp_path / "my images/a/x.jpg").write_bytes(b"")
    code, _, err = fasticcl_command("train", "folder", "--data", "my images")
    assert code == 2
    assert "fasticcl convert folder 'my images' data/folder --val-fraction 0.1" in err
    (tmp_path / "begun/train").mkdir(parents=True)
    (tmp_path / "begun/train/shard-000000.tar").write_bytes(b"")
    _, _, err = fasticcl_command("train", "folder", "--data", "begun")
    assert "no shards of folder in begun. Create them with: fasticcl convert folder SRC begun" in err


def next_commands(out):
    """Return the words of each command at the end of the output, without placeholders."""
    lines = out[out.index("Next: ") :].removeprefix("Next: ").splitlines()
    commands = [shlex.split(line.strip().split("    ")[0]) for line in lines]
    return [[word for word in words if not word.endswith("...")] for words in commands]


def test_next_commands_work_for_paths_with_spaces(fasticcl_command, tiny_shards, tmp_path):
    shutil.copytree(tiny_shards, tmp_path / "my shards")
    (tmp_path / "my image.png").write_bytes(encode(noise(np.random.default_rng(0), 12, 10), "PNG"))
    small = ["--data", "my shards", "--project", "my 'own' runs", *SMALL]
    code, out, _ = fasticcl_command("train", "demo", "--name", "first", *small)
    assert code == 0
    commands = [words for words in next_commands(out) if words[2] != "demo"]
    assert [words[1] for words in commands] == ["predict", "sweep", "train", "train", "report"]
    commands[0].append("my image.png")
    for words in [*commands, ["fasticcl", "rebalance", "my 'own' runs/demo/first"]]:
        code, out, err = fasticcl_command(*words[1:])
        assert (code, err) == (0, ""), words
    ((_, *words),) = next_commands(out)
    assert words == ["report", "my 'own' runs/demo/first", "my 'own' runs/demo/first-rebalance-1"]
    assert fasticcl_command(*words)[0] == 0
    assert (tmp_path / "my 'own' runs/demo/again/model.safetensors").exists()
    assert (tmp_path / "my 'own' runs/demo/ce-1/model.safetensors").exists()
