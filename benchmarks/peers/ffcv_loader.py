"""FFCV: its file format, compiled decoding, crop, flip and normalisation, with mixing in torch.

FFCV needs NumPy below 2.3 and the headers of OpenCV and TurboJPEG, and therefore its own environment:

    apt-get install libopencv-dev libturbojpeg0-dev pkg-config
    python -m venv VENV
    VENV/bin/pip install 'numpy<2.3' numba opencv-python-headless torch torchvision scikit-learn
    VENV/bin/pip install --no-build-isolation ffcv

FFCV re-encodes the images when it writes its file, here at their original quality. Its crop always uses area
interpolation. An epoch of the class-balanced stream contains every class equally often. The variants are two
loaders, one per stream, and a single loader whose batches contain both streams.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from _peer import LISTED, MEAN, STD, Pairs, Settings, Variants, listing, main, skip

try:
    from ffcv.fields import IntField, RGBImageField
    from ffcv.fields.decoders import IntDecoder, RandomResizedCropRGBImageDecoder
    from ffcv.loader import Loader, OrderOption
    from ffcv.transforms import NormalizeImage, RandomHorizontalFlip, Squeeze, ToTensor, ToTorchImage
    from ffcv.traversal_order.base import TraversalOrder
    from ffcv.writer import DatasetWriter
except ImportError:
    skip("FFCV", "pip install --no-build-isolation ffcv, in the environment that ffcv_loader.py describes")

import numpy as np
from _photo_crops import QUALITY
from _torch_loaders import mixed, mixture, worker_variants
from PIL import Image


def variants(settings: Settings) -> Variants:
    path = settings.folder / "train.beton"
    paths, labels = listing(settings.folder)
    if not path.exists():
        _write(path, paths, labels)
    two = worker_variants({"two loaders": partial(_two, path, labels, settings)}, settings)
    return two | {f"one loader, workers: {settings.cores}": partial(_one, path, labels, settings)}


def _two(path: Path, labels: Sequence[int], settings: Settings, workers: int) -> Iterator[Pairs]:
    size = settings.batch_size
    agnostic = _loader(path, settings, size, workers, np.tile(np.arange(len(labels)), LISTED))
    aware = _loader(path, settings, size, workers, _balanced(labels))
    return mixed(agnostic, aware)


def _one(path: Path, labels: Sequence[int], settings: Settings) -> Iterator[Pairs]:
    size = settings.batch_size
    loader = _loader(path, settings, 2 * size, settings.cores, np.arange(len(labels)))
    loader.traversal_order = _BothStreams(loader, labels, size)
    loader.first_traversal_order = loader.next_traversal_order()  # sets the length of an epoch
    while True:
        for x, y in loader:
            yield mixture(x[:size], y[:size], x[size:], y[size:])


def _loader(path: Path, settings: Settings, batch_size: int, workers: int, indices: Any) -> Any:
    scale = 255 * np.array([MEAN, STD])
    image = [
        RandomResizedCropRGBImageDecoder((settings.side, settings.side)),
        RandomHorizontalFlip(),
        NormalizeImage(scale[0], scale[1], np.float32),
        ToTensor(),
        ToTorchImage(),
    ]
    return Loader(
        str(path),
        batch_size=batch_size,
        num_workers=workers,
        order=OrderOption.RANDOM,
        indices=indices,
        os_cache=True,
        drop_last=True,
        pipelines={"image": image, "label": [IntDecoder(), ToTensor(), Squeeze(1)]},
    )


class _BothStreams(TraversalOrder):
    """Batches of images in random order, each followed by a class-balanced batch."""

    def __init__(self, loader: Any, labels: Sequence[int], size: int) -> None:
        super().__init__(loader)
        self.agnostic = np.tile(np.arange(len(labels)), LISTED)
        self.aware, self.size = _balanced(labels), size

    def sample_order(self, epoch: int) -> Any:
        rng = np.random.default_rng(self.seed + epoch)
        count = len(self.agnostic) // self.size * self.size
        agnostic = rng.permutation(self.agnostic)[:count].reshape(-1, self.size)
        aware = rng.choice(self.aware, count).reshape(-1, self.size)
        return np.concatenate([agnostic, aware], axis=1).reshape(-1)


def _balanced(labels: Sequence[int]) -> Any:
    """Return indices of images, equally many of every class."""
    by_class = [np.flatnonzero(np.array(labels) == label) for label in range(max(labels) + 1)]
    each = LISTED * len(labels) // len(by_class)
    return np.concatenate([np.resize(of_class, each) for of_class in by_class])


def _write(path: Path, paths: list[Path], labels: list[int]) -> None:
    class Images:
        def __len__(self) -> int:
            return len(paths)

        def __getitem__(self, index: int) -> tuple[Any, int]:
            return np.asarray(Image.open(paths[index]).convert("RGB")), labels[index]

    part = path.with_suffix(".part")
    fields = {"image": RGBImageField(write_mode="jpg", jpeg_quality=QUALITY), "label": IntField()}
    DatasetWriter(str(part), fields, num_workers=1).from_indexed_dataset(Images(), shuffle_indices=False)
    part.rename(path)


if __name__ == "__main__":
    main(variants, ["ffcv", "torch", "numpy", "numba"])
