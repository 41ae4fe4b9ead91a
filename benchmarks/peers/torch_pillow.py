"""Two torch DataLoaders over an ImageFolder, with Pillow and torchvision transforms."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from _peer import Pairs, Settings, Variants, main
from _torch_loaders import of_pillow_to_tensor_v2, of_pillow_v1, of_pillow_v2, two_loaders, worker_variants
from torchvision.datasets import ImageFolder

TRANSFORMS = {
    "transforms v1": of_pillow_v1,
    "transforms v2 of Pillow images": of_pillow_v2,
    "transforms v2 of tensors": of_pillow_to_tensor_v2,
}


def variants(settings: Settings) -> Variants:
    ways = {name: partial(_loaders, settings, make(settings.side)) for name, make in TRANSFORMS.items()}
    return worker_variants(ways, settings)


def _loaders(settings: Settings, transform: Callable[[Any], Any], workers: int) -> Iterator[Pairs]:
    dataset = ImageFolder(str(settings.folder / "train"), transform)
    return two_loaders(dataset, dataset.targets, settings, workers)


if __name__ == "__main__":
    main(variants, ["torch", "torchvision", "pillow"])
