"""The example programs in model cards are executed."""

import contextlib
import io
import re

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from tests.support.images import photographs
from tests.support.model_cards import export_card
from tests.support.trained_runs import fresh_weights, logits_of, network_of, softmax

FORMATS = [("onnx", "uint8"), ("onnx", "float"), ("pt2", "uint8"), ("pt2", "float"), ("safetensors", "uint8")]


def run_program(card, folder, monkeypatch):
    """Run the program of a card in a folder and return the printed probabilities by class, in order."""
    monkeypatch.chdir(folder)
    program = re.search(r"```python\n(.*?)```", card, re.DOTALL)[1]
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        exec(program, {})
    lines = (line.split(" ", 1) for line in output.getvalue().splitlines())
    return {name: float(probability) for probability, name in lines}


@pytest.mark.parametrize(("format", "input"), FORMATS)
def test_program_prints_the_classes_of_a_photograph(tmp_path, monkeypatch, format, input):
    network = fresh_weights(tmp_path / "trees.safetensors", image_size=32, eval_resize=41, contrast=5.0)
    (tmp_path / "image.jpg").write_bytes(photographs(1)[0])
    card = export_card(tmp_path / "trees.safetensors", format=format, input=input)

    pixels = torch.from_numpy(np.array(Image.open(tmp_path / "image.jpg"))).permute(2, 0, 1)[None].double()
    short = min(pixels.shape[2:])
    size = [41 * side // short for side in pixels.shape[2:]]
    resized = functional.interpolate(pixels, size, mode="bilinear", antialias=True)
    top, left = (round((side - 32) / 2) for side in size)
    crop = resized[:, :, top : top + 32, left : left + 32].permute(0, 2, 3, 1).numpy()
    (expected,) = softmax(logits_of(network, crop, mean=[0.5, 0.4, 0.3], std=[0.3, 0.2, 0.25]))

    printed = run_program(card, tmp_path, monkeypatch)
    assert [*printed] == [("ash", "beech", "größte Eiche")[k] for k in np.argsort(-expected)]
    assert sorted(printed.values(), reverse=True) == [*printed.values()]
    assert [*printed.values()] == pytest.approx(sorted(expected, reverse=True), abs=0.02)  # 8-bit rounding
    assert max(expected) < 0.95  # otherwise any image would pass


def test_program_resizes_whole_images_if_evaluation_does(run, monkeypatch):
    Image.fromarray(np.full((20, 8, 3), 255, np.uint8)).save(run / "image.jpg")
    printed = run_program(export_card(run), run, monkeypatch)
    (expected,) = softmax(logits_of(network_of(run), np.full((1, 8, 8, 3), 255)))
    assert [*printed.values()] == pytest.approx(sorted(expected, reverse=True)[:5], abs=1e-3)
