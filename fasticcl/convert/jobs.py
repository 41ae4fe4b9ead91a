"""Division of a conversion into jobs, one for each shard, and the fingerprints of their input images."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from threading import Event

from fasticcl.console import ProgressCallback
from fasticcl.convert.source import Item, Source
from fasticcl.shards.images import JPEG_QUALITY
from fasticcl.shards.manifest import FORMAT
from fasticcl.shards.shrink import Shrink


class Cancelled(Exception):
    """Raised to end a worker thread after another thread has failed or the conversion was interrupted."""


@dataclass(frozen=True)
class Fingerprint:
    """Digests that identify the images of a shard without reading them."""

    identity: str
    """Digest of settings, names, labels and sizes. A copy of the dataset has the same identity."""
    modified: int
    """Modification time of the newest image file in nanoseconds, or 0 if there are no image files."""
    stamp: str
    """Digest of the identity and the modification time of each file."""


@dataclass(frozen=True)
class ShardJob:
    """The images of one shard. A shard from an archive gets its images in the order of the archive."""

    split: str
    number: int
    first: int
    """Position of the first image in its split."""
    items: Sequence[Item]
    """Empty if the dataset is an archive."""


@dataclass(frozen=True)
class Conversion:
    """Input, output and settings of a conversion, for one of its processes."""

    source: Source
    dest: Path
    shard_size: int
    shrink: Shrink | None
    workers: int
    rank: int
    world_size: int
    report: ProgressCallback | None
    cancelled: Event = field(default_factory=Event)

    @cached_property
    def settings(self) -> dict[str, int | float | str | None]:
        """Settings that, with the images, determine the bytes of the shards. The manifest contains them.

        The name of the subset is not one of them, because the images determine it.
        """
        shrink = self.shrink
        resized = {f"{shrink.side}_side": shrink.pixels, "quality": shrink.quality} if shrink else {}
        basic = {"shard_size": self.shard_size, "jpeg_quality": JPEG_QUALITY}
        return {**basic, **resized, **self.source.settings}

    @cached_property
    def total(self) -> int:
        """Number of images in all splits."""
        return sum(map(len, self.source.splits.values()))

    def jobs(self) -> Iterator[ShardJob]:
        """Yield the jobs of all splits, in order."""
        for split, items in self.source.splits.items():
            for number, first in enumerate(range(0, len(items), self.shard_size)):
                yield ShardJob(split, number, first, items[first : first + self.shard_size])

    def is_assigned(self, number: int) -> bool:
        """Return True if this process converts the shards with this number."""
        return number % self.world_size == self.rank

    def fingerprint(self, job: ShardJob) -> Fingerprint:
        """Return the fingerprint of the images of a shard."""
        if archive := self.source.archive:
            status = archive.stat()
            images = [(f"{job.number} {status.st_size}", status.st_mtime_ns)]
        else:
            images = [item.fingerprint() for item in job.items]
        identity = _digest([self._common_digest, job.split, *(line for line, _ in images)])
        times = [modified for _, modified in images]
        return Fingerprint(identity, max(times), _digest([identity, *map(str, times)]))

    def source_sha256(self, fingerprints: Iterable[Fingerprint]) -> str:
        """Return the digest of the whole source from the fingerprints of its shards, in order."""
        return _digest([self._common_digest, *(fingerprint.identity for fingerprint in fingerprints)])

    def report_progress(self, images: int) -> None:
        """Report the conversion of further images.

        Raises:
            Cancelled: another thread failed, or the conversion was interrupted.
        """
        if self.cancelled.is_set():
            raise Cancelled
        if self.report:
            self.report(images, self.total)

    @cached_property
    def _common_digest(self) -> str:
        """Digest of everything that all shards share. For an archive this includes the list of images."""
        source = self.source
        images = (
            f"{split} {item.label} {item.name}"
            for split, items in source.splits.items()
            for item in (items if source.archive else ())
        )
        return _digest([json.dumps([FORMAT, source.dataset, source.classes, self.settings]), *images])


def _digest(lines: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for line in lines:
        digest.update(line.encode("utf-8", "surrogateescape") + b"\n")
    return digest.hexdigest()
