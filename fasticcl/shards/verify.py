"""Verification of shards against their checksums, indexes and manifest."""

import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
from isal.isal_zlib import crc32
from numpy.typing import NDArray

from fasticcl.console import ProgressCallback
from fasticcl.errors import UserError
from fasticcl.files import file_sha256
from fasticcl.shards.images import UnreadableImage, prepare
from fasticcl.shards.manifest import MANIFEST, Manifest, ShardInfo, SplitInfo
from fasticcl.shards.reader import INDEX, INDEX_DTYPE, QUARANTINE, open_index, shard_name
from fasticcl.shards.writer import idx_line, idx_text
from fasticcl.system.resources import available_cores


@dataclass(frozen=True)
class VerificationResult:
    """Result of `verify`."""

    images: int
    shards: int
    problems: list[str]
    """One description for each damaged, missing or inconsistent file or image. Empty if there are none."""
    duplicates: list[str]
    """Images that occur with identical bytes in two splits. Some published datasets contain a few of them."""


def verify(
    dest: Path, *, decode: bool = False, workers: int | None = None, report: ProgressCallback | None = None
) -> VerificationResult:
    """Read all shards and compare them with their checksums, the indexes and the manifest.

    Args:
        dest: folder of the shards.
        decode: if True, also decode every image and compare its size with the index.
        workers: number of threads, or None for one per core.
        report: progress callback.

    Raises:
        UserError: there are no shards, or their manifest is damaged.
    """
    manifest = Manifest.read(dest)
    if manifest is None:
        raise UserError(f"There are no shards in {dest}: it has no {MANIFEST}.")
    total = sum(sum(info.class_counts) for info in manifest.splits.values())
    problems = [f"{path.relative_to(dest)} is not in {MANIFEST}" for path in _extra_tars(dest, manifest)]
    if _sha256(dest / QUARANTINE) != manifest.quarantine_sha256:
        problems.append(f"{QUARANTINE} is missing or was changed")
    indexes = {split: _read_index(dest / split / INDEX) for split in manifest.splits}
    with ThreadPoolExecutor(workers or available_cores()) as pool:
        checks = []
        for split, info in manifest.splits.items():
            problems += _index_problems(f"{split}/{INDEX}", dest / split / INDEX, indexes[split], info)
            for shard, rows in _by_shard(indexes[split], info):
                checks.append((shard, pool.submit(_shard_problems, dest / split, shard, rows, decode)))
        try:
            for shard, check in checks:
                problems += check.result()
                if report:
                    report(shard.images, total)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    duplicates = [] if problems else list(_duplicates(dest, indexes))
    return VerificationResult(total, len(checks), problems, duplicates)


def _extra_tars(dest: Path, manifest: Manifest) -> Iterator[Path]:
    """Yield tars that are not in the manifest, which other readers would use as shards."""
    for split in dest.iterdir():
        if split.is_dir() and not split.name.startswith("."):
            info = manifest.splits.get(split.name)
            names = {shard.name for shard in info.shards} if info else set()
            yield from sorted(path for path in split.glob("*.tar") if path.name not in names)


def _sha256(path: Path) -> str:
    try:
        return file_sha256(path)
    except OSError:
        return ""


def _read_index(path: Path) -> NDArray[np.void]:
    """Return the rows of an index, or no rows if it cannot be read."""
    index = open_index(path)
    return np.empty(0, INDEX_DTYPE) if index is None else index


def _index_problems(name: str, path: Path, index: NDArray[np.void], info: SplitInfo) -> Iterator[str]:
    if _sha256(path) != info.index_sha256:
        yield f"{name} is missing or was changed"
        return
    labels = index["label"]
    if not (labels[1:] >= labels[:-1]).all():
        yield f"{name} is not sorted by label"
    if len(labels) and labels.max() >= len(info.class_counts):
        yield f"{name} has the label {labels.max()}, but there are {len(info.class_counts)} classes"
        return
    counts = np.bincount(labels, minlength=len(info.class_counts)).tolist()
    if counts != info.class_counts:
        yield f"{name} and {MANIFEST} disagree about the images per class"
    if sum(counts) != sum(shard.images for shard in info.shards):
        yield f"{name} and {MANIFEST} disagree about the images per shard"


def _by_shard(index: NDArray[np.void], info: SplitInfo) -> Iterator[tuple[ShardInfo, NDArray[np.void]]]:
    """Yield every shard with its rows of the index, in the order of the shard."""
    order = np.lexsort((index["offset"], index["shard"]))
    numbers = index["shard"][order]
    for shard in info.shards:
        first, last = np.searchsorted(numbers, [shard.number, shard.number + 1])
        yield shard, index[order[first:last]]


def _shard_problems(folder: Path, shard: ShardInfo, rows: NDArray[np.void], decode: bool) -> list[str]:
    name = f"{folder.name}/{shard.name}"
    try:
        return _compare_shard(folder / shard.name, name, shard, rows, decode)
    except OSError as error:
        return [f"{folder.name}/{Path(error.filename or shard.name).name} cannot be read: {error.strerror}"]


def _compare_shard(
    path: Path, name: str, shard: ShardInfo, rows: NDArray[np.void], decode: bool
) -> list[str]:
    if not path.is_file() or path.stat().st_size != shard.bytes:
        return [f"{name} is missing or has the wrong length"]
    content = np.memmap(path, np.uint8, "r").view(np.ndarray)
    if file_sha256(path) != shard.sha256:
        changed = [row for row in rows if crc32(_image(content, row).data) != row["crc32"]]
        problems = [f"{name}: {_name(content, row)} at byte {row['offset']} was changed" for row in changed]
        return problems or [f"{name} was changed outside its images"]
    problems = list(_index_disagreements(name, path, content, rows))
    for row in rows if decode else ():
        try:
            image = prepare(_image(content, row).tobytes())
            if (image.height, image.width) != (row["height"], row["width"]):
                problems.append(f"{name}: {_name(content, row)} has a different size in the index")
        except UnreadableImage as error:
            problems.append(f"{name}: {_name(content, row)} cannot be decoded ({error})")
    return problems


def _index_disagreements(
    name: str, path: Path, content: NDArray[np.uint8], rows: NDArray[np.void]
) -> Iterator[str]:
    """Compare an unchanged tar with the rows of the index and with its DALI index."""
    lines, stored = [], []
    try:
        with tarfile.open(path, "r:") as tar:
            members = iter(tar)
            for image, label in zip(members, members, strict=True):
                lines.append(
                    idx_line(image.name, image.offset_data, image.size, label.offset_data, label.size)
                )
                text = tar.extractfile(label)
                stored.append((image.offset_data, image.size, int(text.read() if text else b"")))
    except (tarfile.TarError, ValueError):
        yield f"{name} is not a tar of alternating images and labels"
        return
    checksums = [crc32(_image(content, row).data) for row in rows]
    expected = list(zip(*(rows[field].tolist() for field in ("offset", "size", "label")), strict=True))
    if stored != expected or checksums != rows["crc32"].tolist():
        yield f"{name} and {INDEX} disagree about the members of the shard"
    idx = path.with_suffix(".idx")
    if not idx.is_file() or idx.read_bytes() != idx_text(lines).encode():
        yield f"{Path(name).with_suffix('.idx')} is missing or was changed"


def _image(content: NDArray[np.uint8], row: np.void) -> NDArray[np.uint8]:
    return content[int(row["offset"]) : int(row["offset"]) + int(row["size"])]


def _name(content: NDArray[np.uint8], row: np.void) -> str:
    """Return the name of an image from the tar header before it."""
    start = int(row["offset"]) - tarfile.BLOCKSIZE
    return content[start : start + 100].tobytes().rstrip(b"\0").decode("ascii", "replace")


def _duplicates(dest: Path, indexes: dict[str, NDArray[np.void]]) -> Iterator[str]:
    """Yield the images that two splits share. Only images of equal checksum and size are compared."""
    keys = {
        split: index["crc32"].astype(np.uint64) << np.uint64(32) | index["size"]
        for split, index in indexes.items()
    }
    for one, other in combinations(indexes, 2):
        common = np.intersect1d(keys[one], keys[other])
        for key in common:
            first, second = (indexes[split][np.flatnonzero(keys[split] == key)[0]] for split in (one, other))
            first_shard, second_shard = _open(dest, one, first), _open(dest, other, second)
            if (_image(first_shard, first) == _image(second_shard, second)).all():
                yield f"{one}/{_name(first_shard, first)} is also {other}/{_name(second_shard, second)}"


def _open(dest: Path, split: str, row: np.void) -> NDArray[np.uint8]:
    return np.memmap(dest / split / f"{shard_name(row['shard'])}.tar", np.uint8, "r").view(np.ndarray)
