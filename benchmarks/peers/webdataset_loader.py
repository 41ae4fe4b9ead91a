"""webdataset over our own shards, which are in its layout; one stream as it comes, one balanced by class.

WebDataset reads front to back, so classes cannot be drawn by index. The usual ways to balance them are to
throw most images of large classes away, which reads many images for one, or to write a set of shards per
class. Here the balanced stream keeps the newest `KEPT` encoded images of every class and gives, for
each that comes in, an image of an evenly drawn class: nothing is read in vain and our shards stay as they
are. That is the fastest of the three and takes the most memory: K · `KEPT` encoded images per worker.
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
from _torch_loaders import decoded, each_way, mixed, of_pillow_to_tensor_v2, of_pillow_v1, of_tensor_v2
from fasticcl_loader import shards_of
from PIL import Image

SHUFFLED = 500  # encoded images in the shuffle buffer
KEPT = 32


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
    return each_way(ways, settings)


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
    """Yield (content, label) with every class equally likely, one for each that comes in."""
    kept: dict[bytes, list[Any]] = {}
    rng = random.Random()
    for image in images:
        of_class = kept.setdefault(image[1], [])
        if len(of_class) < KEPT:
            of_class.append(image)
        else:
            of_class[rng.randrange(KEPT)] = image
        if len(kept) == classes:
            yield rng.choice(kept[rng.choice([*kept])])


def _pillow(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content)).convert("RGB")


def _stacked(samples: list[Any]) -> tuple[torch.Tensor, torch.Tensor]:
    images, labels = zip(*samples, strict=True)
    return torch.stack(images), torch.tensor(labels)


if __name__ == "__main__":
    main(variants, ["torch", "torchvision", "webdataset"])
