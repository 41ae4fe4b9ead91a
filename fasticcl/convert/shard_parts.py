"""What each finished shard contributes; kept in ``DEST/.parts`` until the whole conversion is done.

A part is written after its shard is in place, so a part that is there stands for a whole shard. It says
what it was made from, and one that was made from something else counts for nothing.
"""

import io
import json
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fasticcl.convert.jobs import Fingerprint, Job, Work
from fasticcl.convert.source import Item
from fasticcl.files import write_file
from fasticcl.shards.images import SoundImage, UnreadableImage
from fasticcl.shards.manifest import ShardInfo
from fasticcl.shards.reader import INDEX_DTYPE, shard_name
from fasticcl.shards.writer import ShardWriter, member_key

FOLDER = ".parts"
_POLL = 0.2  # seconds between two looks for what another process has finished
ROW_DTYPE = np.dtype([("row", INDEX_DTYPE), ("ordinal", "<u8")])


@dataclass(frozen=True)
class Part:
    """What one finished shard contributes."""

    fingerprint: Fingerprint
    info: ShardInfo | None
    """None: none of its images can be read, and there is no shard."""
    reencoded: dict[str, int]
    quarantine: list[dict[str, str]]
    path: Path

    def rows(self) -> NDArray[np.void]:
        """Return the rows [images] of the index, each with the image's place in its split."""
        return np.load(self.path.with_suffix(".npy"), allow_pickle=False)


def load_part(work: Work, job: Job, made_from: Fingerprint) -> Part | None:
    """Return the part of a finished shard, or None where it has to be made (again)."""
    path = _path(work.dest, job)
    try:
        record = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    if record["stamp"] != made_from.stamp:
        return None
    info = record["info"] and ShardInfo(**record["info"])
    if info:
        shard = work.dest / job.split / info.name
        if not shard.exists() or shard.stat().st_size != info.bytes:
            return None
    return Part(made_from, info, record["reencoded"], record["quarantine"], path)


def wait_for_part(work: Work, job: Job) -> Part:
    """Return the part of a shard that another process makes, as soon as it is there."""
    made_from = work.fingerprint(job)
    while (part := load_part(work, job, made_from)) is None:
        time.sleep(_POLL)
    return part


def _path(dest: Path, job: Job) -> Path:
    return dest / FOLDER / job.split / f"{shard_name(job.number)}.json"


class PartWriter:
    """Writes one shard: sound images go into it, the others are listed."""

    def __init__(self, dest: Path, job: Job, made_from: Fingerprint) -> None:
        self.number, self.fingerprint = job.number, made_from
        self._path = _path(dest, job)
        self._shard = ShardWriter(dest / job.split, job.number)
        self._ordinals: list[int] = []
        self._reencoded: Counter[str] = Counter()
        self._quarantine: list[dict[str, str]] = []

    def add(self, ordinal: int, item: Item, image: SoundImage | UnreadableImage) -> None:
        """Append an image, or list why it cannot be read.

        Args:
            ordinal: place of the image in its split as the dataset lists it.
            item: the image as it was listed.
            image: what became of it.
        """
        if isinstance(image, UnreadableImage):
            self._quarantine.append({"image": item.name, "reason": str(image)})
            return
        key = member_key(ordinal, item.name)
        self._shard.add(key, image.suffix, image.content, item.label, image.height, image.width)
        self._ordinals.append(ordinal)
        if image.reencoded:
            self._reencoded[image.reencoded] += 1

    def close(self) -> Part:
        """Put the shard and then its part in place."""
        rows = np.empty(len(self._shard), ROW_DTYPE)
        info = None
        if len(self._shard):
            info, rows["row"] = self._shard.close()
            rows["ordinal"] = self._ordinals
        else:
            self._shard.abandon()
        buffer = io.BytesIO()
        np.save(buffer, rows)
        write_file(self._path.with_suffix(".npy"), buffer.getvalue())
        part = Part(self.fingerprint, info, dict(self._reencoded), self._quarantine, self._path)
        record = {
            "stamp": self.fingerprint.stamp,
            "info": info and info.model_dump(),
            "reencoded": part.reencoded,
            "quarantine": part.quarantine,
        }
        write_file(self._path, json.dumps(record).encode())
        return part

    def abandon(self) -> None:
        """Remove what was written so far."""
        self._shard.abandon()
