"""CIFAR-10-LT and CIFAR-100-LT: the subsets of LDAM-DRW and BBN from the official Python pickles.

From a folder of image files, a subset with the same class counts (see ``cifar_folder.py``).
"""

import hashlib
import http.client
import io
import pickle
import tarfile
import zlib
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fasticcl.convert.layouts import cifar_folder
from fasticcl.convert.layouts.layout import Layout
from fasticcl.convert.layouts.pixel_arrays import png_items
from fasticcl.convert.source import Source
from fasticcl.convert.subset import long_tailed_positions
from fasticcl.convert.tar_stream import open_tar
from fasticcl.errors import UserError
from fasticcl.shards.published_subset import CIFAR, IMBALANCES


def read(
    source: Path, name: Literal["cifar10-lt", "cifar100-lt"], imbalance: int = 100, download: bool = False
) -> Source:
    """Read and check the pickles, and select a long-tailed subset of the training images.

    If there are no pickles, read a folder of image files instead.

    Args:
        source: folder that contains cifar-10-python.tar.gz (cifar-100-python.tar.gz) or its content, or else
            train/CLASS/*.png and test/CLASS/*.png.
        name: name of the dataset.
        imbalance: imbalance ratio 100, 50 or 10 (section 4.1 of the paper).
        download: if True, first download the archive with torchvision unless it exists.

    Raises:
        UserError: a file is missing or is not the official one, or the ratio is not supported.
    """
    from torchvision import datasets  # provides the names and checksums of the files

    if imbalance not in IMBALANCES:
        raise UserError(f"--imbalance must be 100, 50 or 10, not {imbalance}.")
    official: Any = datasets.CIFAR10 if name == "cifar10-lt" else datasets.CIFAR100
    if download:
        _download(official, source)
    meta = official.meta
    files = [*official.train_list, *official.test_list, (meta["filename"], meta["md5"])]
    names = [file for file, _ in files]
    packed = source.is_file() or (source / official.filename).is_file()
    if not packed and not _unpacked_folder(source, official, names) and cifar_folder.is_cifar_folder(source):
        return cifar_folder.read(source, name, imbalance)
    contents = _contents(source, official, names)
    for file, md5 in files:
        if hashlib.md5(contents[file], usedforsecurity=False).hexdigest() != md5:
            raise UserError(
                f"{file} in {source} is not the official file because its MD5 differs. Download it again."
            )
    classes = _load(contents[meta["filename"]])[meta["key"]]
    train, labels = _images(contents, official.train_list)
    test, test_labels = _images(contents, official.test_list)
    positions = long_tailed_positions(labels, len(classes), imbalance, largest=CIFAR[name].images)
    splits = {
        "train": png_items(train, labels, positions, classes, "train"),
        "test": png_items(test, test_labels, np.arange(len(test)), classes, "test"),
    }
    return Source(name, classes, splits, settings={"imbalance": imbalance})


def _download(official: Any, source: Path) -> None:
    try:
        official(source, download=True)
    except (OSError, RuntimeError, http.client.HTTPException) as error:
        raise UserError(
            f"The download into {source} failed ({error}). Download {official.url} manually "
            "into this folder and leave out --download."
        ) from None


def _unpacked_folder(source: Path, official: Any, names: list[str]) -> Path | None:
    """Return the folder or sub-folder that contains any of the unpacked files, or None."""
    for folder in (source / official.base_folder, source):
        if any((folder / name).is_file() for name in names):
            return folder
    return None


def _contents(source: Path, official: Any, names: list[str]) -> dict[str, bytes]:
    """Return the bytes of files from the folder, its sub-folder or the archive, whichever exists."""
    if folder := _unpacked_folder(source, official, names):
        try:
            return {name: (folder / name).read_bytes() for name in names}
        except OSError as error:
            raise UserError(f"Cannot read {error.filename}: {error.strerror}.") from None
    archive = source if source.is_file() else source / official.filename
    try:
        contents = {}
        with open_tar(archive) as tar:
            for member in tar:
                folder, _, name = member.name.removeprefix("./").rpartition("/")
                if name in names and folder == official.base_folder and (file := tar.extractfile(member)):
                    contents[name] = file.read()
        if missing := [name for name in names if name not in contents]:
            raise KeyError(f"{missing[0]} is not in it")
        return contents
    except FileNotFoundError:
        raise UserError(
            f"{source} has neither {official.filename} nor {official.base_folder}/, and no image folders "
            f"train/ and test/. Download {official.url} into it, or use --download."
        ) from None
    except (OSError, EOFError, KeyError, zlib.error, tarfile.TarError) as error:
        raise UserError(f"{archive} cannot be read ({error}). Download it again.") from None


def _images(contents: dict[str, bytes], batches: list[Any]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return pixels [N, 32, 32, 3] and labels [N] of several batch files."""
    loaded = [_load(contents[name]) for name, _ in batches]
    planes = np.concatenate([batch["data"] for batch in loaded]).reshape(-1, 3, 32, 32)
    labels = [batch["fine_labels" if "fine_labels" in batch else "labels"] for batch in loaded]
    return np.ascontiguousarray(planes.transpose(0, 2, 3, 1)), np.concatenate(labels).astype(np.int64)


def _load(content: bytes) -> dict[str, Any]:
    return _ArraysOnly(io.BytesIO(content), encoding="latin1").load()


class _ArraysOnly(pickle.Unpickler):
    """An unpickler that is restricted to built-in containers and arrays, so no other code can run."""

    def find_class(self, module: str, name: str) -> Any:
        """Return one of the three objects that rebuild an array.

        Raises:
            UserError: the pickle refers to any other object.
        """
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct":
            return np._core.multiarray._reconstruct  # pyrefly: ignore[missing-attribute]
        if module == "numpy" and name in ("ndarray", "dtype"):
            return getattr(np, name)
        raise UserError(
            f"A CIFAR file refers to {module}.{name}, so it is not the official one. Download it again."
        )


def _layout(name: Literal["cifar100-lt", "cifar10-lt"], description: str, archive: str) -> Layout:
    return Layout(
        read=partial(read, name=name),
        description=description,
        download=f"{archive} from www.cs.toronto.edu/~kriz/cifar.html, or use --download. Or its images as "
        "train/CLASS/x.png and test/CLASS/x.png under their own names: same class counts, other images",
        licence="none stated, but the authors ask to cite Krizhevsky's technical report (2009)",
        example=f"fasticcl convert {name} DOWNLOADS data/{name} --imbalance 100 --download",
        options=frozenset({"imbalance", "download"}),
    )


CIFAR100_LT = _layout(
    "cifar100-lt",
    "100 classes, 10,847 (ratio 100), 12,608 (50) or 19,573 (10) training images, 10,000 test images",
    "cifar-100-python.tar.gz",
)
CIFAR10_LT = _layout(
    "cifar10-lt",
    "10 classes, 12,406 (ratio 100), 13,996 (50) or 20,431 (10) training images, 10,000 test images",
    "cifar-10-python.tar.gz",
)
