"""CIFAR-10-LT and CIFAR-100-LT from the official python pickles, the subset of LDAM-DRW and BBN."""

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

from fasticcl.convert.layouts.layout import Layout
from fasticcl.convert.layouts.pixel_arrays import pictures
from fasticcl.convert.source import Source
from fasticcl.convert.subset import long_tailed
from fasticcl.convert.tar_stream import open_tar
from fasticcl.errors import UserError

IMBALANCES = (100, 50, 10)
_LARGEST = {"cifar10-lt": 5000, "cifar100-lt": 500}


def read(
    source: Path, name: Literal["cifar10-lt", "cifar100-lt"], imbalance: int = 100, download: bool = False
) -> Source:
    """Read the pickles, check them, and take the long-tailed part of the training images.

    Args:
        source: folder that holds cifar-10-python.tar.gz (cifar-100-python.tar.gz) or what is in it.
        name: which of the two.
        imbalance: imbalance ratio 100, 50 or 10 (section 4.1).
        download: get the archive with torchvision first, if it is not there.

    Raises:
        UserError: missing files, files that are not the official ones, or another ratio.
    """
    from torchvision import datasets  # knows the files and their checksums

    if imbalance not in IMBALANCES:
        raise UserError(f"--imbalance is 100, 50 or 10, got {imbalance}.")
    official: Any = datasets.CIFAR10 if name == "cifar10-lt" else datasets.CIFAR100
    if download:
        _download(official, source)
    meta = official.meta
    wanted = [*official.train_list, *official.test_list, (meta["filename"], meta["md5"])]
    contents = _contents(source, official, [file for file, _ in wanted])
    for file, md5 in wanted:
        if hashlib.md5(contents[file], usedforsecurity=False).hexdigest() != md5:
            raise UserError(
                f"{file} in {source} is not the official file (its MD5 differs); download it again."
            )
    classes = _load(contents[meta["filename"]])[meta["key"]]
    train, labels = _images(contents, official.train_list)
    test, test_labels = _images(contents, official.test_list)
    chosen = long_tailed(labels, len(classes), imbalance, largest=_LARGEST[name])
    splits = {
        "train": pictures(train, labels, chosen, classes, "train"),
        "test": pictures(test, test_labels, np.arange(len(test)), classes, "test"),
    }
    return Source(name, classes, splits, settings={"imbalance": imbalance})


def _download(official: Any, source: Path) -> None:
    try:
        official(source, download=True)
    except (OSError, RuntimeError, http.client.HTTPException) as error:
        raise UserError(
            f"The download into {source} failed ({error}); get {official.url} yourself "
            "and leave out --download."
        ) from None


def _contents(source: Path, official: Any, names: list[str]) -> dict[str, bytes]:
    """Return the bytes of files that lie in the folder, in its sub-folder, or in the archive."""
    for folder in (source / official.base_folder, source):
        if any((folder / name).is_file() for name in names):
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
            f"{source} has neither {official.filename} nor {official.base_folder}/; download it from "
            f"{official.url}, or give --download."
        ) from None
    except (OSError, EOFError, KeyError, zlib.error, tarfile.TarError) as error:
        raise UserError(f"{archive} cannot be read ({error}); download it again.") from None


def _images(contents: dict[str, bytes], batches: list[Any]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return pixels [N, 32, 32, 3] and labels [N] of some pickles."""
    loaded = [_load(contents[name]) for name, _ in batches]
    planes = np.concatenate([each["data"] for each in loaded]).reshape(-1, 3, 32, 32)
    labels = [each["fine_labels" if "fine_labels" in each else "labels"] for each in loaded]
    return np.ascontiguousarray(planes.transpose(0, 2, 3, 1)), np.concatenate(labels).astype(np.int64)


def _load(content: bytes) -> dict[str, Any]:
    return _ArraysOnly(io.BytesIO(content), encoding="latin1").load()


class _ArraysOnly(pickle.Unpickler):
    """Loads lists, dictionaries, strings, numbers and arrays; a pickle can name anything else to be run."""

    def find_class(self, module: str, name: str) -> Any:
        """Return one of the three things that an array is made with.

        Raises:
            UserError: the pickle names something else.
        """
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct":
            return np._core.multiarray._reconstruct  # pyrefly: ignore[missing-attribute]
        if module == "numpy" and name in ("ndarray", "dtype"):
            return getattr(np, name)
        raise UserError(f"A CIFAR file wants to run {module}.{name}; it is not the official one.")


def _layout(name: Literal["cifar100-lt", "cifar10-lt"], what: str, archive: str) -> Layout:
    return Layout(
        read=partial(read, name=name),
        what=what,
        where=f"{archive}: www.cs.toronto.edu/~kriz/cifar.html, or --download",
        licence="none stated; the authors ask to cite Krizhevsky's technical report (2009)",
        command=f"fasticcl convert {name} DOWNLOADS data/{name} --imbalance 100 --download",
        options=frozenset({"imbalance", "download"}),
    )


CIFAR100_LT = _layout(
    "cifar100-lt",
    "100 classes, 10,847, 12,608 or 19,573 training images at ratio 100, 50 or 10; 10,000 to test",
    "cifar-100-python.tar.gz",
)
CIFAR10_LT = _layout(
    "cifar10-lt",
    "10 classes, 12,406, 13,996 or 20,431 training images at ratio 100, 50 or 10; 10,000 to test",
    "cifar-10-python.tar.gz",
)
