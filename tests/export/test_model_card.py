"""What a model card says, against the files of the run and the network itself."""

import contextlib
import csv
import io
import re
import shutil

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch.nn import functional

import fasticcl
from fasticcl.convert.layouts.registry import LAYOUTS
from tests.support.images import photographs
from tests.support.small_runs import Heard, start_tiny
from tests.support.trained_runs import fresh_weights, logits_of, network_of, softmax, train_small


@pytest.fixture(scope="module")
def trained(digit_shards, tmp_path_factory):
    return train_small(digit_shards, tmp_path_factory.mktemp("trained"))


@pytest.fixture
def run(trained, tmp_path):
    """A copy of the run to write into."""
    return shutil.copytree(trained, tmp_path / "run")


def card_of(model, **options):
    return fasticcl.export(model, **{"format": "safetensors", **options}).card.read_text(encoding="utf-8")


def section(card, title):
    return re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", card, re.MULTILINE | re.DOTALL)[1]


def rows(text):
    """The cells of a table's rows, without its head, by the first cell."""
    table = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    return {first.strip("*"): rest for first, *rest in table[1:]}


def accuracies(record):
    return [f"{float(record[f'val/{key}']):.1f}" for key in ("top1", "many", "medium", "few")]


def test_the_front_matter_is_what_hubs_read(run):
    _, front, _ = card_of(run).split("---\n", 2)
    assert yaml.safe_load(front) == {
        "library_name": "fasticcl",
        "pipeline_tag": "image-classification",
        "tags": ["image-classification", "long-tailed", "iccl", "safetensors"],
        "datasets": ["demo"],
        "metrics": ["accuracy"],
    }


def test_the_accuracies_are_those_of_the_last_epochs_and_the_best(run):
    with open(run / "results.csv", newline="") as file:
        records = [*csv.DictReader(file)]
    before, after = ([r for r in records if r["stage"] == s] for s in ("representation", "rebalancing"))
    best = max(after, key=lambda record: float(record["val/top1"]))
    accuracy = section(card_of(run), "Accuracy")
    assert rows(accuracy) == {
        "before rebalancing, last epoch (2)": accuracies(before[-1]),
        "after rebalancing, last epoch (2): this file": accuracies(after[-1]),
        f"best epoch ({best['epoch']}), chosen on these images": accuracies(best),
    }
    assert "on the 359 images of the test split" in accuracy


def test_the_card_of_the_best_epoch_says_so_and_what_that_means(run):
    accuracy = section(card_of(run, best=True), "Accuracy")
    assert [title for title in rows(accuracy) if "this file" in title] == [
        f"best epoch ({fasticcl.evaluate(run).best_epoch}), chosen on these images: this file"
    ]
    assert "too good for other images" in accuracy


def test_a_run_without_rebalancing_has_no_accuracy_before_it(digit_shards, tmp_path):
    fasticcl.train(
        "demo",
        method="ce",
        data=digit_shards,
        project=tmp_path,
        name="ce",
        epochs=1,
        batch_size=196,
        device="cpu",
        report=False,
        set={"method.encoder": "resnet8", "data.image_size": 8, "data.crop_padding": 1},
    )
    card = card_of(tmp_path / "demo" / "ce")
    assert [*rows(section(card, "Accuracy"))] == [
        "last epoch (1): this file",
        "best epoch (1), chosen on these images",
    ]
    assert "no rebalancing" in section(card, "Training")
    assert "rebalance.epochs" not in card  # it is that of the method's preset


def test_settings_are_listed_where_they_differ_from_the_preset(run):
    training = section(card_of(run), "Training")
    assert rows(training) == {
        "`data.image_size`": ["8", "16"],
        "`data.crop_padding`": ["1", "2"],
        "`method.encoder`": ["resnet8", "resnet14"],
        "`method.warmup_epochs`": ["1", "20"],
        "`optim.epochs`": ["2", "50"],
        "`optim.batch_size`": ["98", "32"],
        "`rebalance.epochs`": ["2", "10"],
    }


def test_the_card_names_no_place_of_this_machine(run, digit_shards):
    card = card_of(run)
    assert str(digit_shards) not in card
    assert str(run.parent) not in card


def test_classes_are_counted_by_their_training_images(run, tmp_path):
    assert rows(section(card_of(run), "Data")) == {
        "many": ["more than 100", "1", "142"],
        "medium": ["20 to 100", "4", "212"],
        "few": ["fewer than 20", "5", "38"],
    }
    fresh_weights(tmp_path / "trees.safetensors")
    data = section(card_of(tmp_path / "trees.safetensors"), "Data")
    assert "195 training images of 3 classes" in data
    assert "an imbalance of 30.0" in data


def test_parameters_are_those_of_encoder_and_classifier(run):
    count = sum(parameter.numel() for parameter in network_of(run).parameters())
    assert f"a resnet8 of {count:,} parameters" in card_of(run)


@pytest.mark.parametrize("method", ["iccl", "ce"])
def test_banner_and_card_differ_by_the_projection_head_that_the_banner_counts(tiny_shards, tmp_path, method):
    heard = Heard()
    run = start_tiny(tiny_shards, tmp_path, method=method, console=heard.console, epochs=2).run
    banner = re.search(
        r"resnet8, ([\d,]+) parameters(?: \(([\d,]+) in the projection head, which .*\))?, seed",
        heard.file.getvalue(),
    )
    whole, head = (int((count or "0").replace(",", "")) for count in banner.groups())
    assert (head > 0) == (method == "iccl")
    assert f"a resnet8 of {whole - head:,} parameters (encoder and classifier;" in card_of(run)


def test_a_file_without_its_run_has_unknown_accuracies(run, tmp_path):
    lone = shutil.copy(run / "model.safetensors", tmp_path / "digits.safetensors")
    card = card_of(lone)
    assert "The accuracies are not known" in section(card, "Accuracy")
    assert "without the records" in section(card, "Training")
    assert "392 training images of 10 classes" in section(card, "Data")


def test_other_weights_in_the_folder_of_a_run_do_not_get_its_accuracies(run):
    fresh_weights(run / "other.safetensors")
    assert "The accuracies are not known" in section(card_of(run / "other.safetensors"), "Accuracy")


def test_records_cut_short_by_a_crash_do_not_matter(run):
    whole = section(card_of(run), "Accuracy")
    with open(run / "metrics.jsonl", "a") as file:
        file.write('{"stage": "rebalancing", "epo')
    assert section(card_of(run), "Accuracy") == whole


def test_shards_of_other_data_are_not_taken_for_those_of_the_run(run, photo_shards):
    config = (run / "config.toml").read_text()
    (run / "config.toml").write_text(re.sub(r'^dir = ".*"$', f'dir = "{photo_shards}"', config, flags=re.M))
    assert "on the test split, or where there is none the val split:" in section(card_of(run), "Accuracy")


@pytest.mark.parametrize("dataset", ["inat2018", "imagenet-lt", "cifar100-lt"])
def test_the_licence_is_that_of_the_dataset(tmp_path, dataset):
    fresh_weights(tmp_path / "trees.safetensors", dataset=dataset)
    assert LAYOUTS[dataset].licence in section(card_of(tmp_path / "trees.safetensors"), "Licence")


def test_the_licence_of_own_images_is_not_known(tmp_path):
    fresh_weights(tmp_path / "trees.safetensors", dataset="folder")
    assert "not known here" in section(card_of(tmp_path / "trees.safetensors"), "Licence")


CHOICES = [("onnx", "uint8"), ("onnx", "float"), ("pt2", "uint8"), ("pt2", "float"), ("safetensors", "uint8")]


def printed(card, folder, monkeypatch):
    """Run the program of a card in a folder; the probabilities that it prints, by class, in their order."""
    monkeypatch.chdir(folder)
    program = re.search(r"```python\n(.*?)```", card, re.DOTALL)[1]
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        exec(program, {})
    return {
        name: float(number) for number, name in (li.split(" ", 1) for li in output.getvalue().splitlines())
    }


@pytest.mark.parametrize(("format", "input"), CHOICES)
def test_the_program_on_the_card_names_the_classes_of_a_photograph(tmp_path, monkeypatch, format, input):
    network = fresh_weights(tmp_path / "trees.safetensors", image_size=32, eval_resize=41, contrast=5.0)
    (tmp_path / "image.jpg").write_bytes(photographs(1)[0])
    card = card_of(tmp_path / "trees.safetensors", format=format, input=input)

    pixels = torch.from_numpy(np.array(Image.open(tmp_path / "image.jpg"))).permute(2, 0, 1)[None].double()
    short = min(pixels.shape[2:])
    size = [41 * side // short for side in pixels.shape[2:]]
    resized = functional.interpolate(pixels, size, mode="bilinear", antialias=True)
    top, left = (round((side - 32) / 2) for side in size)
    cut = resized[:, :, top : top + 32, left : left + 32].permute(0, 2, 3, 1).numpy()
    (expected,) = softmax(logits_of(network, cut, mean=[0.5, 0.4, 0.3], std=[0.3, 0.2, 0.25]))

    found = printed(card, tmp_path, monkeypatch)
    assert [*found] == [("ash", "beech", "größte Eiche")[k] for k in np.argsort(-expected)]
    assert sorted(found.values(), reverse=True) == [*found.values()]
    assert [*found.values()] == pytest.approx(sorted(expected, reverse=True), abs=0.02)  # 8-bit rounding
    assert max(expected) < 0.95  # else any image would do


def test_the_program_takes_whole_images_where_evaluation_does(run, monkeypatch):
    Image.fromarray(np.full((20, 8, 3), 255, np.uint8)).save(run / "image.jpg")
    found = printed(card_of(run), run, monkeypatch)
    (expected,) = softmax(logits_of(network_of(run), np.full((1, 8, 8, 3), 255)))
    assert [*found.values()] == pytest.approx(sorted(expected, reverse=True)[:5], abs=1e-3)
