"""Contents of exported files: outputs, signature and metadata."""

import json

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

import fasticcl
from fasticcl.export.classifier import Classifier
from fasticcl.export.formats import FORMATS
from tests.support.classifier_models import CLASSIFIERS, expected_logits, make_model
from tests.support.trained_runs import SIDE, fresh_weights, logits_of, network_of, noise_pixels, softmax


def as_input(pixels, input):
    return pixels if input == "uint8" else (np.float32(pixels) / 255).transpose(0, 3, 1, 2)


def onnx_session(path):
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


@pytest.fixture(scope="module")
def exported(small_run, tmp_path_factory):
    """The small run in both graph formats, with both input types. Each export takes seconds."""
    folder = tmp_path_factory.mktemp("exported")
    return {
        (format, input): fasticcl.export(
            small_run, format=format, input=input, output=folder / f"{input}.{format}"
        )
        for format in ("onnx", "pt2")
        for input in ("uint8", "float")
    }


@pytest.mark.parametrize("input", ["uint8", "float"])
@pytest.mark.parametrize("count", [1, 2, 7])
def test_onnx_computes_the_logits_of_the_network_for_any_batch_size(small_run, exported, input, count):
    pixels = noise_pixels(count)
    session = onnx_session(exported["onnx", input].file)
    logits, probabilities = session.run(None, {"images": as_input(pixels, input)})
    expected = logits_of(network_of(small_run), pixels)
    np.testing.assert_allclose(logits, expected, atol=1e-4, rtol=1e-4)
    np.testing.assert_allclose(probabilities, softmax(expected), atol=1e-4)


@pytest.mark.parametrize("input", ["uint8", "float"])
@pytest.mark.parametrize("count", [1, 2, 7])
def test_pt2_computes_the_logits_of_the_network_for_any_batch_size(small_run, exported, input, count):
    pixels = noise_pixels(count)
    classifier = torch.export.load(exported["pt2", input].file).module()
    logits, probabilities = classifier(torch.from_numpy(as_input(pixels, input)))
    expected = logits_of(network_of(small_run), pixels)
    np.testing.assert_allclose(logits, expected, atol=1e-4, rtol=1e-4)
    np.testing.assert_allclose(probabilities, softmax(expected), atol=1e-4)


def test_safetensors_copies_weights_and_description(run, tmp_path):
    fasticcl.export(run, format="safetensors", output=tmp_path / "copy.safetensors")
    original, copy = run / "model.safetensors", tmp_path / "copy.safetensors"
    weights = load_file(original)
    assert all(torch.equal(value, weights.pop(name)) for name, value in load_file(copy).items())
    assert not weights
    with safe_open(original, "pt") as original_file, safe_open(copy, "pt") as copy_file:
        assert original_file.metadata() == copy_file.metadata()


@pytest.mark.parametrize(
    ("input", "images"),
    [
        ("uint8", ("images", "tensor(uint8)", ["batch", SIDE, SIDE, 3])),
        ("float", ("images", "tensor(float)", ["batch", 3, SIDE, SIDE])),
    ],
)
def test_onnx_inputs_and_outputs_have_names_and_shapes(exported, input, images):
    session = onnx_session(exported["onnx", input].file)
    nodes = [*session.get_inputs(), *session.get_outputs()]
    assert [(node.name, node.type, node.shape) for node in nodes] == [
        images,
        ("logits", "tensor(float)", ["batch", 10]),
        ("probabilities", "tensor(float)", ["batch", 10]),
    ]


@pytest.mark.parametrize("format", ["onnx", "pt2"])
def test_metadata_contains_classes_and_preprocessing(tmp_path, format):
    fresh_weights(tmp_path / "trees.safetensors", image_size=16, eval_resize=20)
    fasticcl.export(tmp_path / "trees.safetensors", format=format, input="float")
    if format == "onnx":
        metadata = onnx_session(tmp_path / "trees.onnx").get_modelmeta().custom_metadata_map
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


def test_files_do_not_contain_paths_of_this_machine(small_run, exported):
    for result in exported.values():
        content = result.file.read_bytes()
        assert b"images" in content  # names in the graph are stored as plain text, so paths would be too
        assert b"site-packages" not in content
        assert b"fasticcl/" not in content
        assert str(small_run).encode() not in content


def test_network_of_torchvision_can_be_exported(tmp_path):
    network = fresh_weights(tmp_path / "trees.safetensors", encoder="resnet18", image_size=64)
    fasticcl.export(tmp_path / "trees.safetensors")
    pixels = noise_pixels(3, side=64)
    (logits,) = onnx_session(tmp_path / "trees.onnx").run(["logits"], {"images": pixels})
    expected = logits_of(network, pixels, mean=[0.5, 0.4, 0.3], std=[0.3, 0.2, 0.25])
    np.testing.assert_allclose(logits, expected, atol=1e-4, rtol=1e-4)


# The linear classifier is exported above. The affine cosine classifier has the operations of two others.
@pytest.mark.parametrize(
    ("kind", "format"),
    [
        *((kind, "pt2") for kind in CLASSIFIERS if kind != "linear"),
        ("affine cosine", "onnx"),
        ("nearest mean", "onnx"),
        ("causal", "onnx"),
    ],
)
def test_exported_classifiers_compute_their_formula_for_any_batch_size(tmp_path, kind, format):
    model, path = make_model(kind), tmp_path / f"model.{format}"
    path.write_bytes(FORMATS[format].pack(Classifier(model)))
    forward = FORMATS[format].load(path, "uint8")
    for count in (1, 5):
        pixels = noise_pixels(count)
        logits, probabilities = forward(torch.from_numpy(pixels))
        expected = expected_logits(model, pixels)
        np.testing.assert_allclose(logits, expected, atol=1e-5)
        np.testing.assert_allclose(probabilities, softmax(expected), atol=1e-6)
