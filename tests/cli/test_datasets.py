"""``fasticcl convert`` and ``presets``: output, errors and the next commands."""

import json
import re
import shlex
import tomllib

import numpy as np

from fasticcl.preset_files import MethodPreset, preset_names, preset_text
from fasticcl.shards import published_subset
from tests.support.cifar_folders import small_cifar
from tests.support.files import write_files
from tests.support.image_sources import write_image_folder
from tests.support.images import encode, noise


def test_error_names_an_unreadable_folder(fasticcl_command, monkeypatch):
    def locked(folder):
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr("os.scandir", locked)
    code, _, err = fasticcl_command("convert", "folder", "locked", "shards")
    assert (code, err) == (2, "error: Cannot read the folder locked: Permission denied.\n")


def test_error_names_a_folder_without_images(fasticcl_command, tmp_path):
    for name in ("train/a", "train/b", "val/a"):
        (tmp_path / "images" / name).mkdir(parents=True)
    code, _, err = fasticcl_command("convert", "folder", "images", "shards")
    assert code == 2
    assert err.startswith(
        "error: There are no images in images/train. Arrange the images as train/CLASS/x.jpg"
    )


def test_shards_of_one_class_cannot_be_trained_on(fasticcl_command, tmp_path):
    content = encode(noise(np.random.default_rng(0)))
    for name in ("train/a/1.jpg", "train/a/2.jpg", "val/a/3.jpg"):
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    code, out, _ = fasticcl_command("convert", "folder", "images", "shards")
    assert code == 0
    assert "Next: fasticcl train folder --data shards" in out
    code, _, err = fasticcl_command("train", "folder", "--data", "shards")
    assert (code, err) == (2, "error: shards has only one class, 'a'. A classifier needs at least two.\n")


def test_presets_are_listed_and_printed(fasticcl_command):
    _, out, _ = fasticcl_command("presets")
    lines = out.splitlines()
    assert max(map(len, lines)) <= 80
    for name in preset_names():
        assert len([line for line in lines if line.startswith(f"  {name} ")]) == 1
    code, out, _ = fasticcl_command("presets", "inat2018")
    assert code == 0
    assert tomllib.loads(out)["optim"]["batch_size"] == 512


def test_methods_are_listed_once_in_their_group_with_their_row_and_citation(fasticcl_command):
    _, out, _ = fasticcl_command("presets")
    methods = out[out.index("Rows and tables are those of the ICCL paper.") :]
    for name in preset_names("method"):
        about = MethodPreset.read(name).about
        words = ". ".join(filter(None, (about.paper, about.citation))).split()
        row = r"\s+".join(map(re.escape, words))  # may be wrapped
        (found,) = re.finditer(rf"^  {name} +{re.escape(about.title)}\n +{row}$", methods, re.M)
        groups = re.findall(r"^(\S.*):$", methods[: found.start()], re.M)
        assert groups[-1] == about.group
    code, out, _ = fasticcl_command("presets", "ldam-drw")
    assert (code, out) == (0, preset_text("ldam-drw", "method"))


def test_next_command_after_a_small_conversion_works(fasticcl_command, tmp_path):
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


def test_folder_of_cifar_is_recognised_and_the_subset_is_named(fasticcl_command, tmp_path, monkeypatch):
    files, *_ = small_cifar(monkeypatch)
    monkeypatch.setattr(published_subset, "IMBALANCES", (10,))
    write_files(tmp_path / "c10", files)
    note = "The class counts are those of the published CIFAR10-LT, but the images are another choice.\n"
    code, out, _ = fasticcl_command("convert", "folder", "c10", "a", "--long-tail", "10")
    assert code == 0
    assert f"subset: {note}" in out
    assert "For these images use: fasticcl convert cifar10-lt c10 DEST --imbalance 10 " in out
    code, out, _ = fasticcl_command("convert", "cifar10-lt", "c10", "b", "--imbalance", "10")
    assert code == 0
    assert f"subset: {note}" in out
    assert "use:" not in out
    assert "Next: fasticcl train cifar10-lt --data b --imbalance 10\n" in out
    _, out, _ = fasticcl_command("show", "b")
    assert f"subset    {note}" in out
    assert "subset file-names-seed0)" in out
    code, out, _ = fasticcl_command("convert", "folder", "c10", "c", "--long-tail", "5")
    assert "subset: The training images are a seeded random choice with an exponential profile" in out
    small = (
        "--set",
        "method.encoder=resnet8",
        "--batch-size",
        "16",
        "--set",
        "engine.report=false",
        "--device",
        "cpu",
    )
    train = ("train", "cifar10-lt", "--data", "b", "--imbalance", "10", "--fast-dev-run", *small)
    code, out, err = fasticcl_command(*train, "--name", "short")
    assert (code, err) == (0, "")
    assert f"subset   {note}" in out
    (environment,) = (tmp_path / "runs/cifar10-lt/short/environment.jsonl").read_text().splitlines()
    assert json.loads(environment)["subset"] == note.strip()
    code, _, err = fasticcl_command("train", "cifar10-lt", "--data", "b", "--imbalance", "100")
    assert (code, "The shards in b have imbalance ratio 10. Use --imbalance 10" in err) == (2, True)


def test_renamed_cifar_images_are_not_recognised(fasticcl_command, tmp_path, monkeypatch):
    files, *_ = small_cifar(monkeypatch)
    monkeypatch.setattr(published_subset, "IMBALANCES", (10,))
    write_files(tmp_path / "c10", {name.replace("_s_", "-"): content for name, content in files.items()})
    _, out, _ = fasticcl_command("convert", "folder", "c10", "a", "--long-tail", "10")
    assert "subset: The class counts are those of the published CIFAR10-LT, but the images are" in out
    assert "cifar10-lt" not in out
