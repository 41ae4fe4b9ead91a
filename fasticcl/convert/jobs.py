"""What a conversion has to do: which images make up which shard, and who makes it."""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from threading import Event

from fasticcl.convert.source import Item, Source
from fasticcl.shards.images import JPEG_QUALITY, Shrink
from fasticcl.shards.manifest import FORMAT

Progress = Callable[[int, int], None]
"""Called with how many images were just done, and how many there are in all."""


class Abandoned(Exception):
    """Ends a thread whose work is no longer wanted."""


@dataclass(frozen=True)
class Fingerprint:
    """What a shard is made from."""

    identity: str
    """Digest of settings, names, labels and sizes; a copy of the dataset has the same."""
    changed: int
    """When the newest of its files was last changed, in nanoseconds; 0: it is made from no file."""
    stamp: str
    """Digest of the identity and of when each file was last changed."""


@dataclass(frozen=True)
class Job:
    """The images of one shard; from an archive, as many as fit into it, in the archive's order."""

    split: str
    number: int
    first: int
    """Place of the first image in its split."""
    items: Sequence[Item]


@dataclass(frozen=True)
class Work:
    """What is converted, where to, how, and by which of several processes."""

    source: Source
    dest: Path
    shard_size: int
    shrink: Shrink | None
    workers: int
    rank: int
    world_size: int
    report: Progress | None
    stopped: Event = field(default_factory=Event)

    @cached_property
    def settings(self) -> dict[str, int | float | str | None]:
        """What the bytes of the shards depend on beside the images; the manifest records it."""
        shrink = self.shrink
        resized = {f"{shrink.side}_side": shrink.pixels, "quality": shrink.quality} if shrink else {}
        basic = {"shard_size": self.shard_size, "jpeg_quality": JPEG_QUALITY}
        return {**basic, **resized, **self.source.settings}

    @cached_property
    def total(self) -> int:
        """Images of all splits."""
        return sum(map(len, self.source.splits.values()))

    def jobs(self) -> Iterator[Job]:
        """Yield the shards of all splits, in order."""
        for split, items in self.source.splits.items():
            for number, first in enumerate(range(0, len(items), self.shard_size)):
                yield Job(split, number, first, items[first : first + self.shard_size])

    def is_mine(self, number: int) -> bool:
        """Return whether a shard is this process's share."""
        return number % self.world_size == self.rank

    def fingerprint(self, job: Job) -> Fingerprint:
        """Return what a shard is made from, without reading the images."""
        if archive := self.source.archive:
            status = archive.stat()
            found = [(f"{job.number} {status.st_size}", status.st_mtime_ns)]
        else:
            found = [item.fingerprint() for item in job.items]
        identity = _digest([self._salt, job.split, *(line for line, _ in found)])
        times = [changed for _, changed in found]
        return Fingerprint(identity, max(times), _digest([identity, *map(str, times)]))

    def source_sha256(self, fingerprints: Iterable[Fingerprint]) -> str:
        """Return the digest of the whole source from those of its shards, in order."""
        return _digest([self._salt, *(each.identity for each in fingerprints)])

    def tell(self, images: int) -> None:
        """Report progress.

        Raises:
            Abandoned: another thread failed, or the conversion was interrupted.
        """
        if self.stopped.is_set():
            raise Abandoned
        if self.report:
            self.report(images, self.total)

    @cached_property
    def _salt(self) -> str:
        """A digest of what holds for all shards; from an archive that is also which images are wanted."""
        source = self.source
        wanted = (
            f"{split} {item.label} {item.name}"
            for split, items in source.splits.items()
            for item in (items if source.archive else ())
        )
        return _digest([json.dumps([FORMAT, source.dataset, source.classes, self.settings]), *wanted])


def _digest(lines: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for line in lines:
        digest.update(line.encode("utf-8", "surrogateescape") + b"\n")
    return digest.hexdigest()
