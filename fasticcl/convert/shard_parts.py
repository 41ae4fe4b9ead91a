"""Results of finished shards, kept in ``DEST/.parts`` until the whole conversion is finished.

A part is written after its shard, so an existing part implies a complete shard. It contains the fingerprint
of its images and is ignored if the fingerprint has changed.
"""

import io
import json
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fasticcl.convert.jobs import Conversion, Fingerprint, ShardJob
from fasticcl.convert.source import Item
from fasticcl.files import write_file
from fasticcl.shards.images import PreparedImage, UnreadableImage
from fasticcl.shards.manifest import ShardInfo
from fasticcl.shards.reader import INDEX_DTYPE, shard_name
from fasticcl.shards.writer import ShardWriter, member_key

PARTS_FOLDER = ".parts"
_POLL_SECONDS = 0.2  # between two checks for the part of another process
_ROW_DTYPE = np.dtype([("row", INDEX_DTYPE), ("ordinal", "<u8")])


@dataclass(frozen=True)
class ShardPart:
    """Result of one finished shard: its entry in the manifest, its rows of the index and its failures."""

    fingerprint: Fingerprint
    info: ShardInfo | None
    """None if none of the images can be read, in which case no shard is written."""
    reencoded: dict[str, int]
    """Number of re-encoded images by reason."""
    quarantine: list[dict[str, str]]
    """Name and reason of each unreadable image."""
    path: Path

    def rows(self) -> NDArray[np.void]:
        """Return the rows [images] of the index, each with the position of the image in its split."""
        return np.load(self.path.with_suffix(".npy"), allow_pickle=False)


def load_part(conversion: Conversion, job: ShardJob, fingerprint: Fingerprint) -> ShardPart | None:
    """Return the part of a finished shard, or None if the shard has to be written."""
    path = _part_path(conversion.dest, job)
    try:
        record = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    if record["stamp"] != fingerprint.stamp:
        return None
    info = record["info"] and ShardInfo(**record["info"])
    if info:
        shard = conversion.dest / job.split / info.name
        if not shard.exists() or shard.stat().st_size != info.bytes:
            return None
    return ShardPart(fingerprint, info, record["reencoded"], record["quarantine"], path)


def wait_for_part(conversion: Conversion, job: ShardJob) -> ShardPart:
    """Wait until another process has written the part of a shard, and return it."""
    fingerprint = conversion.fingerprint(job)
    while (part := load_part(conversion, job, fingerprint)) is None:
        time.sleep(_POLL_SECONDS)
    return part


def _part_path(dest: Path, job: ShardJob) -> Path:
    return dest / PARTS_FOLDER / job.split / f"{shard_name(job.number)}.json"


class ShardPartWriter:
    """Writes one shard and its part. Unreadable images are listed in the part."""

    def __init__(self, dest: Path, job: ShardJob, fingerprint: Fingerprint) -> None:
        self.number, self.fingerprint = job.number, fingerprint
        self._path = _part_path(dest, job)
        self._shard = ShardWriter(dest / job.split, job.number)
        self._ordinals: list[int] = []
        self._reencoded: Counter[str] = Counter()
        self._quarantine: list[dict[str, str]] = []

    def add(self, ordinal: int, item: Item, image: PreparedImage | UnreadableImage) -> None:
        """Append an image to the shard, or list it as unreadable.

        Args:
            ordinal: position of the image in its split, in the order of the dataset.
            item: the image in the dataset.
            image: the image to store, or the reason why it is unreadable.
        """
        if isinstance(image, UnreadableImage):
            self._quarantine.append({"image": item.name, "reason": str(image)})
            return
        key = member_key(ordinal, item.name)
        self._shard.add(key, image.suffix, image.content, item.label, image.height, image.width)
        self._ordinals.append(ordinal)
        if image.reencoding_reason:
            self._reencoded[image.reencoding_reason] += 1

    def close(self) -> ShardPart:
        """Move the shard and then its part into place."""
        rows = np.empty(len(self._shard), _ROW_DTYPE)
        info = None
        if len(self._shard):
            info, rows["row"] = self._shard.close()
            rows["ordinal"] = self._ordinals
        else:
            self._shard.abandon()
        buffer = io.BytesIO()
        np.save(buffer, rows)
        write_file(self._path.with_suffix(".npy"), buffer.getvalue())
        part = ShardPart(self.fingerprint, info, dict(self._reencoded), self._quarantine, self._path)
        record = {
            "stamp": self.fingerprint.stamp,
            "info": info and info.model_dump(),
            "reencoded": part.reencoded,
            "quarantine": part.quarantine,
        }
        write_file(self._path, json.dumps(record).encode())
        return part

    def abandon(self) -> None:
        """Remove the unfinished shard."""
        self._shard.abandon()
