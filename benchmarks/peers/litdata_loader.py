"""litdata: encoded images in its chunk format, read by index with two torch DataLoaders.

StreamingDataset supports an index, so torch samplers can balance the classes. CombinedStreamingDataset would
need one dataset per class.
"""

import shutil
from functools import partial
from pathlib import Path
from typing import Any

from _peer import Settings, Variants, listing, main, skip

try:
    from litdata import StreamingDataset
    from litdata.streaming.writer import BinaryWriter
except ImportError:
    skip("litdata", "pip install litdata")

from _torch_loaders import decoded, of_tensor_v2, two_loaders, worker_variants
from torch.utils.data import Dataset


def variants(settings: Settings) -> Variants:
    folder = settings.folder / "litdata"
    paths, labels = listing(settings.folder)
    if not folder.exists():
        _write(folder, paths, labels)

    dataset = _Images(folder, settings.side)
    loaders = partial(two_loaders, dataset, labels, settings)
    return worker_variants({"decode_jpeg, transforms v2": loaders}, settings)


class _Images(Dataset[Any]):
    def __init__(self, folder: Path, side: int) -> None:
        self.stored = StreamingDataset(str(folder))
        self.transform = of_tensor_v2(side)

    def __len__(self) -> int:
        return len(self.stored)

    def __getitem__(self, index: int) -> Any:
        content, label = self.stored[index]
        return self.transform(decoded(content)), label


def _write(folder: Path, paths: list[Path], labels: list[int]) -> None:
    unfinished = folder.with_suffix(".part")
    shutil.rmtree(unfinished, ignore_errors=True)
    writer = BinaryWriter(str(unfinished), chunk_bytes=2**26)
    for index, (path, label) in enumerate(zip(paths, labels, strict=True)):
        writer[index] = (path.read_bytes(), label)
    writer.done()
    writer.merge()
    unfinished.rename(folder)


if __name__ == "__main__":
    main(variants, ["torch", "torchvision", "litdata"])
