"""Consistency of the plain and mixed images, labels and λ of every compared loader.

Each class has its own colour, which allows a check of pixels against labels.
"""

import importlib
import os
import subprocess
import sys
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fasticcl.longtail import exponential_counts
from tests.support.images import encode

# torchvision 0.29 deprecates its own decoder in favour of the package torchcodec.
pytestmark = pytest.mark.filterwarnings("ignore:The image decoding and encoding:DeprecationWarning")

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
COLORS = np.array([[220, 40, 60], [30, 200, 90], [40, 60, 210], [230, 220, 30]])
COUNTS = (40, 12, 6, 2)
MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
LEVELS = 4 / 255 / 0.224  # maximum JPEG error of a uniform colour, normalised
PEERS = {  # module: the package that it requires
    "fasticcl_loader": "fasticcl",
    "fasticcl_short_side": "fasticcl",
    "dali_graph": "fasticcl",
    "torch_pillow": "torchvision",
    "torch_jpeg": "torchvision",
    "webdataset_loader": "webdataset",
    "litdata_loader": "litdata",
    "ffcv_loader": "ffcv",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Long-tailed dataset of uniformly coloured images of 40×48 pixels."""
    folder = tmp_path_factory.mktemp("plain")
    for label, count in enumerate(COUNTS):
        content = encode(Image.new("RGB", (40, 48), tuple(COLORS[label].tolist())), quality=95)
        for number in range(count):
            for split in ("train", "val") if number == 0 else ("train",):
                path = folder / split / f"{label:02}" / f"{number}.jpg"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
    return folder


@pytest.mark.parametrize("minimum", [1, 600, 3000])
def test_the_images_have_the_class_counts_of_fasticcl(monkeypatch, minimum):
    monkeypatch.syspath_prepend(str(BENCHMARKS / "peers"))
    photo_crops = importlib.import_module("_photo_crops")
    counts = photo_crops.long_tail(minimum)
    assert counts == exponential_counts(counts[0], photo_crops.CLASSES, photo_crops.IMBALANCE).tolist()
    assert sum(counts) >= minimum


@pytest.fixture(params=PEERS)
def variants(request, folder, monkeypatch):
    """Variants of a peer for batches of 16 pairs of 32×32 pixels with one worker."""
    monkeypatch.syspath_prepend(str(BENCHMARKS / "peers"))
    pytest.importorskip(PEERS[request.param], exc_type=ImportError)
    settings = importlib.import_module("_peer").Settings(folder, batch_size=16, side=32, cores=1)
    return importlib.import_module(request.param).variants(settings)


def color_of(labels: torch.Tensor) -> torch.Tensor:
    """Return the normalised colours of classes, [B, 3, 1, 1]."""
    normalised = (COLORS / 255 - MEAN) / STD
    return torch.from_numpy(normalised[labels.numpy()]).float()[:, :, None, None]


def test_x_f_is_a_mix_of_x_h_and_an_image_of_class_y_t(variants):
    for name, make in variants.items():
        for batch in islice(make(), 3):
            lam = batch.lam.reshape(-1, 1, 1, 1)
            mix = lam * color_of(batch.y_h) + (1 - lam) * color_of(batch.y_t)
            for images, expected in ((batch.x_h, color_of(batch.y_h)), (batch.x_f, mix)):
                assert images.shape == (16, 3, 32, 32), name
                assert images.dtype == torch.float32, name
                assert (images - expected).abs().max() < LEVELS, name
            assert 0 <= lam.min() <= lam.max() <= 1, name


def test_y_h_is_sampled_by_images_and_y_t_uniformly_by_classes(request, variants):
    """960 draws: the standard deviation of a share is at most 0.016.

    webdataset shuffles in a buffer, which adds to the deviation. Its variants differ only after the sampling.
    """
    count = 60
    if "webdataset_loader" in request.node.callspec.params.values():
        variants, count = dict([*variants.items()][:1]), 200
    for name, make in variants.items():
        batches = [(batch.y_h.numpy().copy(), batch.y_t.numpy().copy()) for batch in islice(make(), count)]
        y_h, y_t = (np.concatenate(labels) for labels in zip(*batches, strict=True))
        assert np.bincount(y_h, minlength=4) / len(y_h) == pytest.approx(
            np.array(COUNTS) / sum(COUNTS), abs=0.1
        ), name
        assert np.bincount(y_t, minlength=4) / len(y_t) == pytest.approx(np.full(4, 0.25), abs=0.1), name


def test_batches_have_different_lambdas(variants):
    for name, make in variants.items():
        lams = {batch.lam.reshape(-1)[0].item() for batch in islice(make(), 4)}
        assert len(lams) == 4, name


@pytest.mark.parametrize("package", ["ffcv", "litdata", "webdataset"])
def test_a_missing_package_ends_a_peer_with_an_install_command(package, tmp_path):
    (tmp_path / f"{package}.py").write_text(f"raise ImportError('{package} is missing')")
    root = BENCHMARKS.parent
    process = subprocess.run(
        [sys.executable, BENCHMARKS / "peers" / f"{package}_loader.py", "--serve"],
        env=os.environ | {"PYTHONPATH": f"{tmp_path}:{root}"},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 3
    assert "pip install" in process.stdout
    assert process.stdout.count("\n") == 1
    assert not process.stderr
