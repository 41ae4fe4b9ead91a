"""Conversion: a source's images, each checked by decoding it once, into shards.

Each shard is a unit of work that is either whole or absent, so a conversion that was stopped goes on
with the shards that are missing when the same command is given again, and several processes that share
a file system can divide the shards among themselves.
"""

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from fasticcl.convert.archive import convert_archive
from fasticcl.convert.finalize import finish
from fasticcl.convert.jobs import Job, Progress, Work
from fasticcl.convert.shard_parts import FOLDER, Part, PartWriter, load_part, wait_for_part
from fasticcl.convert.source import Source
from fasticcl.errors import UserError
from fasticcl.shards.images import Shrink, UnreadableImage, prepared
from fasticcl.shards.manifest import MANIFEST, Manifest
from fasticcl.system.resources import available_cores


def convert(
    source: Source,
    dest: Path,
    *,
    shard_size: int = 2000,
    shrink: Shrink | None = None,
    workers: int | None = None,
    max_corrupt: int = 0,
    rank: int = 0,
    world_size: int = 1,
    report: Progress | None = None,
) -> Manifest | None:
    """Write the shards of a source; the same source gives the same bytes, whoever and how many make them.

    Args:
        source: what to convert.
        dest: folder of the shards; created if need be.
        shard_size: images per shard.
        shrink: images above a size are made smaller; None: all keep their size.
        workers: threads; None: one per core.
        max_corrupt: unreadable images that are accepted; all are listed in ``dest/quarantine.jsonl``.
        rank, world_size: which of several processes this is; they divide the shards. Rank 0 waits for
            the others and finishes, the others return None.
        report: told of progress.

    Raises:
        UserError: ``dest`` holds something else, too many images are unreadable, or the disk is full.
    """
    threads = workers or available_cores()
    work = Work(source, dest, shard_size, shrink, threads, rank, world_size, report)
    if existing := _finished(work):
        _remove_parts(dest)
        return None if rank else existing
    try:
        for split in source.splits:
            (dest / FOLDER / split).mkdir(parents=True, exist_ok=True)
            (dest / split).mkdir(exist_ok=True)
        if source.archive:
            parts, missing = convert_archive(work, source.archive)
        else:
            parts, missing = _convert_files(work), []
        manifest = None if rank else finish(work, parts, missing, max_corrupt)
        if manifest or Manifest.read(dest):
            _remove_parts(dest)
        return manifest
    except OSError as error:
        raise UserError(
            f"Cannot write {error.filename or dest}: {error.strerror}; make room or choose another folder, "
            "then give the same command to continue."
        ) from None


def _finished(work: Work) -> Manifest | None:
    dest = work.dest
    existing = Manifest.read(dest)
    if existing is None and dest.is_dir() and (names := os.listdir(dest)) and FOLDER not in names:
        existing = Manifest.read(dest)  # another process may just have finished
        if existing is None:
            raise UserError(f"{dest} holds other files; choose an empty folder or a new one for the shards.")
    if existing:
        fingerprints = [work.fingerprint(job) for job in work.jobs()]
        made = (dest / MANIFEST).stat().st_mtime_ns
        if existing.source_sha256 != work.source_sha256(fingerprints):
            raise UserError(
                f"{dest} already holds another conversion: {_difference(work, existing)}; "
                "choose another folder or delete this one."
            )
        if any(each.changed > made for each in fingerprints):
            raise UserError(f"Images were changed after {dest} was made; delete it or choose another folder.")
    return existing


def _difference(work: Work, made: Manifest) -> str:
    """Return in what a finished conversion is another than the one that is asked for."""
    if made.dataset != work.source.dataset:
        return f"it is of {made.dataset}"
    settings, wanted = made.settings, work.settings
    differing = [key for key in {**settings, **wanted} if settings.get(key) != wanted.get(key)]
    if differing:
        words = (
            f"with {_option(key)} {settings[key]}" if key in settings else f"without {_option(key)}"
            for key in differing
        )
        return f"it was made {' and '.join(words)}"
    return "it has other classes" if made.classes != work.source.classes else "it was made of other images"


def _option(setting: str) -> str:
    """Return the option of the command line that a setting in the manifest comes from."""
    return "--max-side" if setting == "long_side" else f"--{setting.replace('_', '-')}"


def _remove_parts(dest: Path) -> None:
    """Remove what only an unfinished conversion needs; a process that comes late may have made it anew."""
    shutil.rmtree(dest / FOLDER, ignore_errors=True)


def _convert_files(work: Work) -> list[tuple[str, Part]]:
    """Convert this process's shards; return the parts of all, or, where another finishes, of these."""
    jobs = list(work.jobs())
    with ThreadPoolExecutor(work.workers) as pool:
        mine = {id(job): pool.submit(_convert_shard, work, job) for job in jobs if work.is_mine(job.number)}
        try:
            for future in mine.values():
                future.result()
        except BaseException:
            work.stopped.set()
            pool.shutdown(cancel_futures=True)
            raise
    if work.rank:
        return []
    return [
        (job.split, mine[id(job)].result() if id(job) in mine else wait_for_part(work, job)) for job in jobs
    ]


def _convert_shard(work: Work, job: Job) -> Part:
    made_from = work.fingerprint(job)
    if part := load_part(work, job, made_from):
        work.tell(len(job.items))
        return part
    writer = PartWriter(work.dest, job, made_from)
    try:
        for place, item in enumerate(job.items, start=job.first):
            try:
                image = prepared(item.read(), work.shrink)
            except OSError as error:
                image = UnreadableImage(str(error.strerror))
            writer.add(place, item, image)
            work.tell(1)
        return writer.close()
    except BaseException:
        writer.abandon()
        raise
