"""webdataset on fasticcl's shards, which use its layout: one stream shuffled, one balanced by class.

webdataset reads sequentially, so classes cannot be sampled by index. The usual ways to balance classes are
to discard most images of large classes, which wastes reads, or to write separate shards per class. Here, the
balanced stream buffers `BUFFER_SIZE` recent encoded images of every class. For each image that it reads, it
yields a buffered image of a uniformly drawn class. This wastes no reads and needs no other shards. It is
the fastest of the three and needs the most memory: K · `BUFFER_SIZE` encoded images per worker.
"""

import io
import random
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from _peer import Pairs, Settings, Variants, main, skip

try:
    import webdataset
except ImportError:
    skip("webdataset", "pip install webdataset")

import torch
from _torch_loaders import decoded, mixed, of_pillow_to_tensor_v2, of_pillow_v1, of_tensor_v2, worker_variants
from fasticcl_loader import shards_of
from PIL import Image

SHUFFLED = 500  # encoded images in the shuffle buffer
BUFFER_SIZE = 32


def variants(settings: Settings) -> Variants:
    urls = [str(path) for path in sorted((shards_of(settings.folder) / "train").glob("*.tar"))]
    classes = len(list((settings.folder / "train").iterdir()))
    side = settings.side
    decoders = {
        "Pillow, transforms v1": (_pillow, of_pillow_v1(side)),
        "Pillow, transforms v2 of tensors": (_pillow, of_pillow_to_tensor_v2(side)),
        "decode_jpeg, transforms v2": (decoded, of_tensor_v2(side)),
    }
    ways = {
        name: partial(_loaders, urls, classes, settings, decode, transform)
        for name, (decode, transform) in decoders.items()
    }
    return worker_variants(ways, settings)


def _loaders(
    urls: list[str],
    classes: int,
    settings: Settings,
    decode: Callable[[bytes], Any],
    transform: Callable[[Any], torch.Tensor],
    workers: int,
) -> Iterator[Pairs]:
    def stream(arrange: Callable[[Iterator[Any]], Iterator[Any]]) -> Any:
        dataset = (
            webdataset.WebDataset(urls, resampled=True, shardshuffle=False)
            .to_tuple("jpg", "cls")
            .compose(arrange)
            .map_tuple(lambda content: transform(decode(content)), int)
            .batched(settings.batch_size, collation_fn=_stacked, partial=False)
        )
        return webdataset.WebLoader(dataset, batch_size=None, num_workers=workers)

    return mixed(stream(webdataset.shuffle(SHUFFLED)), stream(partial(balanced, classes=classes)))


def balanced(images: Iterator[Any], classes: int) -> Iterator[Any]:
    """Yield (content, label) with every class equally likely, one for each input image."""
    buffers: dict[bytes, list[Any]] = {}
    rng = random.Random()
    for image in images:
        buffer = buffers.setdefault(image[1], [])
        if len(buffer) < BUFFER_SIZE:
            buffer.append(image)
        else:
            buffer[rng.randrange(BUFFER_SIZE)] = image
        if len(buffers) == classes:
            yield rng.choice(buffers[rng.choice([*buffers])])


def _pillow(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content)).convert("RGB")


def _stacked(samples: list[Any]) -> tuple[torch.Tensor, torch.Tensor]:
    images, labels = zip(*samples, strict=True)
    return torch.stack(images), torch.tensor(labels)


if __name__ == "__main__":
    main(variants, ["torch", "torchvision", "webdataset"])
