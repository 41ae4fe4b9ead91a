"""Two torch DataLoaders over an ImageFolder, with torchvision's decode_jpeg and transforms v2 on tensors."""

from collections.abc import Iterator
from functools import partial

import torch
from _peer import Pairs, Settings, Variants, main
from _torch_loaders import decoded, of_tensor_v2, two_loaders, worker_variants
from torchvision.datasets import ImageFolder
from torchvision.io import read_file


def variants(settings: Settings) -> Variants:
    return worker_variants({"decode_jpeg, transforms v2": partial(_loaders, settings)}, settings)


def _loaders(settings: Settings, workers: int) -> Iterator[Pairs]:
    dataset = ImageFolder(str(settings.folder / "train"), of_tensor_v2(settings.side), loader=_load)
    return two_loaders(dataset, dataset.targets, settings, workers)


def _load(path: str) -> torch.Tensor:
    return decoded(read_file(path))


if __name__ == "__main__":
    main(variants, ["torch", "torchvision"])
