"""Exported files compute what the network computes, say what they are, and are whole or absent."""

import json
import re
import shutil
import sys
from dataclasses import replace

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import fasticcl
from fasticcl.cli.main import main
from fasticcl.engine.run.checkpoint import load_checkpoint, save_checkpoint
from fasticcl.errors import ExportFailed, UserError
from fasticcl.export import formats
from tests.support.trained_runs import (
    SIDE,
    fresh_weights,
    logits_of,
    network_of,
    noise_pixels,
    softmax,
    train_small,
)


@pytest.fixture(scope="module")
def trained(digit_shards, tmp_path_factory):
    return train_small(digit_shards, tmp_path_factory.mktemp("trained"))


@pytest.fixture
def run(trained, tmp_path):
    """A copy of the run to write into."""
    return shutil.copytree(trained, tmp_path / "run")


def as_input(pixels, input):
    return pixels if input == "uint8" else (np.float32(pixels) / 255).transpose(0, 3, 1, 2)


def session(path):
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory):
    """The run in both formats with a graph, with both inputs; exporting one takes seconds."""
    folder = tmp_path_factory.mktemp("exported")
    return {
        (format, input): fasticcl.export(
            trained, format=format, input=input, output=folder / f"{input}.{format}"
        )
        for format in ("onnx", "pt2")
        for input in ("uint8", "float")
    }


@pytest.mark.parametrize("input", ["uint8", "float"])
@pytest.mark.parametrize("count", [1, 2, 7])
def test_onnx_has_the_networks_logits_for_any_number_of_images(trained, exported, input, count):
    pixels = noise_pixels(count)
    opened = session(exported["onnx", input].file)
    logits, probabilities = opened.run(None, {"images": as_input(pixels, input)})
    expected = logits_of(network_of(trained), pixels)
    np.testing.assert_allclose(logits, expected, atol=1e-4, rtol=1e-4)
    np.testing.assert_allclose(probabilities, softmax(expected), atol=1e-4)


@pytest.mark.parametrize("input", ["uint8", "float"])
@pytest.mark.parametrize("count", [1, 2, 7])
def test_pt2_has_the_networks_logits_for_any_number_of_images(trained, exported, input, count):
    pixels = noise_pixels(count)
    classifier = torch.export.load(exported["pt2", input].file).module()
    logits, probabilities = classifier(torch.from_numpy(as_input(pixels, input)))
    expected = logits_of(network_of(trained), pixels)
    np.testing.assert_allclose(logits, expected, atol=1e-4, rtol=1e-4)
    np.testing.assert_allclose(probabilities, softmax(expected), atol=1e-4)


def test_safetensors_is_a_copy_of_weights_and_description(run, tmp_path):
    fasticcl.export(run, format="safetensors", output=tmp_path / "copy.safetensors")
    original, copy = run / "model.safetensors", tmp_path / "copy.safetensors"
    weights = load_file(original)
    assert all(torch.equal(value, weights.pop(name)) for name, value in load_file(copy).items())
    assert not weights
    with safe_open(original, "pt") as one, safe_open(copy, "pt") as other:
        assert one.metadata() == other.metadata()


@pytest.mark.parametrize(
    ("input", "images"),
    [
        ("uint8", ("images", "tensor(uint8)", ["batch", SIDE, SIDE, 3])),
        ("float", ("images", "tensor(float)", ["batch", 3, SIDE, SIDE])),
    ],
)
def test_input_and_outputs_of_onnx_have_names_and_shapes(exported, input, images):
    opened = session(exported["onnx", input].file)
    found = [(each.name, each.type, each.shape) for each in [*opened.get_inputs(), *opened.get_outputs()]]
    assert found == [
        images,
        ("logits", "tensor(float)", ["batch", 10]),
        ("probabilities", "tensor(float)", ["batch", 10]),
    ]


@pytest.mark.parametrize("format", ["onnx", "pt2"])
def test_classes_and_preprocessing_are_in_the_metadata(tmp_path, format):
    fresh_weights(tmp_path / "trees.safetensors", image_size=16, eval_resize=20)
    fasticcl.export(tmp_path / "trees.safetensors", format=format, input="float")
    if format == "onnx":
        metadata = session(tmp_path / "trees.onnx").get_modelmeta().custom_metadata_map
    else:
        metadata = dict.fromkeys(("classes", "preprocessing", "input", "output", "fasticcl"), "")
        torch.export.load(tmp_path / "trees.pt2", extra_files=metadata)
    assert json.loads(metadata["classes"]) == ["ash", "beech", "größte Eiche"]
    assert json.loads(metadata["preprocessing"]) == {
        "color": "RGB",
        "resize": {"short_side": 20},
        "interpolation": "bilinear, antialiased",
        "center_crop": 16,
        "layout": "NCHW",
        "range": [0, 1],
        "normalization": {"in_graph": True, "mean": [0.5, 0.4, 0.3], "std": [0.3, 0.2, 0.25]},
    }
    assert metadata["input"] == "images: float32 [batch, 3, 16, 16], RGB, 0 to 1"
    assert metadata["output"] == "logits, probabilities: float32 [batch, 3]"
    assert json.loads(metadata["fasticcl"])["train_counts"] == [150, 40, 5]


def test_files_tell_nothing_of_the_machine_that_wrote_them(trained, exported):
    for each in exported.values():
        content = each.file.read_bytes()
        assert b"images" in content  # names in the graph are legible, so paths would be
        assert b"site-packages" not in content
        assert b"fasticcl/" not in content
        assert str(trained).encode() not in content


def test_a_network_of_torchvision_can_be_exported(tmp_path):
    network = fresh_weights(tmp_path / "trees.safetensors", encoder="resnet18", image_size=64)
    fasticcl.export(tmp_path / "trees.safetensors")
    pixels = noise_pixels(3, side=64)
    (logits,) = session(tmp_path / "trees.onnx").run(["logits"], {"images": pixels})
    expected = logits_of(network, pixels, mean=[0.5, 0.4, 0.3], std=[0.3, 0.2, 0.25])
    np.testing.assert_allclose(logits, expected, atol=1e-4, rtol=1e-4)


def test_best_is_a_file_of_its_own_with_the_weights_of_the_best_epoch(run):
    checkpoint = load_checkpoint(run / "best.pt")
    checkpoint["network"]["classifier.bias"] += torch.arange(10.0)  # surely another than the last epoch's
    save_checkpoint(run / "best.pt", {key: value for key, value in checkpoint.items() if key != "format"})
    assert fasticcl.export(run, format="pt2", best=True).file == run / "best.pt2"
    pixels = noise_pixels(2)
    logits, _ = torch.export.load(run / "best.pt2").module()(torch.from_numpy(pixels))
    expected = logits_of(network_of(run, checkpoint["network"]), pixels)
    np.testing.assert_allclose(logits, expected, atol=1e-4, rtol=1e-4)
    assert not (run / "model.pt2").exists()


@pytest.fixture
def faulty_pt2(monkeypatch):
    """What is written as pt2 has another bias for one class than the network."""
    sound = formats.FORMATS["pt2"]

    def pack(classifier):
        bias = classifier.network.classifier.bias
        bias[0] += 0.01
        content = sound.pack(classifier)
        bias[0] -= 0.01
        return content

    monkeypatch.setattr(formats, "FORMATS", {**formats.FORMATS, "pt2": replace(sound, pack=pack)})


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.usefixtures("faulty_pt2")
def test_a_file_that_computes_something_else_leaves_nothing_behind(run):
    (run / "model.pt2").write_text("the one from before")
    before = contents(run)
    with pytest.raises(ExportFailed, match=r"differs from PyTorch by \d\.\de-0[23], more than 1e-04"):
        fasticcl.export(run, format="pt2")
    assert contents(run) == before


@pytest.mark.usefixtures("faulty_pt2")
def test_such_a_file_ends_the_command_with_exit_code_1(run, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["fasticcl", "export", str(run), "--format", "pt2"])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 1
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("error: What was written differs from PyTorch")


def test_weights_that_are_not_numbers_are_not_exported(tmp_path):
    network = fresh_weights(tmp_path / "trees.safetensors")
    broken = {**network.state_dict(), "classifier.bias": torch.full((3,), torch.nan)}
    with safe_open(tmp_path / "trees.safetensors", "pt") as file:
        save_file(broken, tmp_path / "broken.safetensors", file.metadata())
    with pytest.raises(ExportFailed, match="by nan"):
        fasticcl.export(tmp_path / "broken.safetensors", format="pt2")
    assert {path.name for path in tmp_path.iterdir()} == {"trees.safetensors", "broken.safetensors"}


def test_the_verb_says_what_it_wrote_and_nothing_else(run, monkeypatch, capfd):
    monkeypatch.setattr(sys, "argv", ["fasticcl", "export", str(run)])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 0
    output = capfd.readouterr()
    assert output.err == ""
    file, images, outputs, checked, card = output.out.splitlines()
    assert file.startswith(f"file    {run / 'model.onnx'}, ")
    assert images == "input   images: uint8 [batch, 8, 8, 3], RGB, 0 to 255"
    assert outputs == "output  logits, probabilities: float32 [batch, 10]"
    assert re.match(
        r"checked against PyTorch on random images: outputs differ by at most \d\.\de-\d\d ", checked
    )
    assert card == f"card    {run / 'MODEL_CARD.md'}, about {file.split(',')[0].rsplit('/')[-1]}"


@pytest.mark.parametrize("module", ["onnx", "onnxscript", "onnxruntime"])
def test_without_the_extra_onnx_says_what_to_install(run, monkeypatch, module):
    monkeypatch.setitem(sys.modules, module, None)  # as if it were not installed
    before = contents(run)
    with pytest.raises(UserError, match=rf"needs {module}.*: pip install 'fasticcl\[export\]'$"):
        fasticcl.export(run)
    assert contents(run) == before
    assert fasticcl.export(run, format="pt2").file.is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"format": "onx"}, "Did you mean onnx"),
        ({"input": "uint"}, "Did you mean uint8"),
        ({"format": "pt2", "output": "model.onnx"}, r"end its name with \.pt2"),
        ({"format": "safetensors", "input": "float"}, "leave out --input"),
        ({"format": "pt2", "output": "nowhere/model.pt2"}, "Cannot write nowhere/model.pt2: No such file"),
        ({"format": "safetensors", "output": "model.safetensors", "best": True}, "choose another --output"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(run, monkeypatch, arguments, message):
    monkeypatch.chdir(run)
    before = contents(run)
    with pytest.raises(UserError, match=message):
        fasticcl.export(run, **arguments)
    assert contents(run) == before


def test_a_file_of_something_else_is_refused(tmp_path):
    save_file({"weight": torch.ones(2)}, tmp_path / "foreign.safetensors")
    (tmp_path / "damaged.safetensors").write_bytes(b"\0" * 100)
    for name, message in (("foreign", "fasticcl did not write it"), ("damaged", "cannot be read")):
        with pytest.raises(UserError, match=message):
            fasticcl.export(tmp_path / f"{name}.safetensors", format="pt2")
    with pytest.raises(UserError, match="no finished weights"):
        fasticcl.export(tmp_path, format="pt2")
    assert len([*tmp_path.iterdir()]) == 2


def test_the_safetensors_of_a_run_stay_as_they_are_and_get_a_card(run):
    before = (run / "model.safetensors").read_bytes()
    fasticcl.export(run, format="safetensors")
    assert (run / "model.safetensors").read_bytes() == before
    assert (run / "MODEL_CARD.md").is_file()
