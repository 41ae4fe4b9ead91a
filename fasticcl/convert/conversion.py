"""Conversion of a source dataset into shards. Each image is decoded once to check it.

Each shard is either complete or absent. Running the same command again therefore continues a stopped
conversion with the missing shards, and several processes with a shared file system can divide the shards.
"""

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from fasticcl.console import ProgressCallback
from fasticcl.convert.archive import convert_archive
from fasticcl.convert.finalize import finalize
from fasticcl.convert.jobs import Conversion, ShardJob
from fasticcl.convert.shard_parts import (
    PARTS_FOLDER,
    ShardPart,
    ShardPartWriter,
    load_part,
    wait_for_part,
)
from fasticcl.convert.source import Source
from fasticcl.errors import UserError
from fasticcl.shards.images import UnreadableImage, try_prepare
from fasticcl.shards.manifest import MANIFEST, Manifest
from fasticcl.shards.shrink import Shrink
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
    report: ProgressCallback | None = None,
) -> Manifest | None:
    """Write the shards of a source. Their bytes do not depend on the number of threads or processes.

    Args:
        source: dataset to convert.
        dest: folder for the shards, created if necessary.
        shard_size: images per shard.
        shrink: limit on the size of images, or None to keep all sizes.
        workers: number of threads, or None for one per core.
        max_corrupt: number of unreadable images to accept. All are listed in ``dest/quarantine.jsonl``.
        rank: rank of this process. Rank 0 waits for the other processes, finishes the conversion and returns
            the manifest. Other ranks return None.
        world_size: number of processes, which divide the shards.
        report: progress callback.

    Raises:
        UserError: ``dest`` contains other files, too many images are unreadable, or the disk is full.
    """
    threads = workers or available_cores()
    conversion = Conversion(source, dest, shard_size, shrink, threads, rank, world_size, report)
    if finished := _finished_manifest(conversion):
        _remove_parts(dest)
        return None if rank else finished
    try:
        for split in source.splits:
            (dest / PARTS_FOLDER / split).mkdir(parents=True, exist_ok=True)
            (dest / split).mkdir(exist_ok=True)
        if source.archive:
            parts, missing = convert_archive(conversion, source.archive)
        else:
            parts, missing = _convert_files(conversion), []
        manifest = None if rank else finalize(conversion, parts, missing, max_corrupt)
        if manifest or Manifest.read(dest):
            _remove_parts(dest)
        return manifest
    except OSError as error:
        raise UserError(
            f"Cannot write {error.filename or dest}: {error.strerror}. Free some space or choose another "
            "folder, then run the same command to continue."
        ) from None


def _finished_manifest(conversion: Conversion) -> Manifest | None:
    """Return the manifest if this conversion is already finished, or None.

    Raises:
        UserError: the destination contains another conversion or other files.
    """
    dest = conversion.dest
    manifest = Manifest.read(dest)
    if manifest is None and dest.is_dir() and (names := os.listdir(dest)) and PARTS_FOLDER not in names:
        manifest = Manifest.read(dest)  # another process may have finished in the meantime
        if manifest is None:
            raise UserError(f"{dest} contains other files. Choose an empty or new folder for the shards.")
    if manifest:
        fingerprints = [conversion.fingerprint(job) for job in conversion.jobs()]
        if manifest.source_sha256 != conversion.source_sha256(fingerprints):
            raise UserError(
                f"{dest} already contains another conversion: {_difference(conversion, manifest)}. "
                "Choose another folder or delete this one."
            )
        finished_at = (dest / MANIFEST).stat().st_mtime_ns
        if any(fingerprint.modified > finished_at for fingerprint in fingerprints):
            raise UserError(
                f"Images were changed after the conversion into {dest}. "
                "Choose another folder or delete this one."
            )
    return manifest


def _difference(conversion: Conversion, manifest: Manifest) -> str:
    """Describe how a finished conversion differs from the requested one."""
    if manifest.dataset != conversion.source.dataset:
        return f"it contains the dataset {manifest.dataset}"
    before, now = {**manifest.settings}, conversion.settings
    before.pop("subset", None)  # not an option
    differing = [key for key in {**before, **now} if before.get(key) != now.get(key)]
    if differing:
        options = (
            f"with {_option(key)} {before[key]}" if key in before else f"without {_option(key)}"
            for key in differing
        )
        return f"it was made {' and '.join(options)}"
    if manifest.classes != conversion.source.classes:
        return "it has other classes"
    return "it was made from other images"


def _option(setting: str) -> str:
    """Return the command-line option of a setting in the manifest."""
    return "--max-side" if setting == "long_side" else f"--{setting.replace('_', '-')}"


def _remove_parts(dest: Path) -> None:
    """Remove the parts of a finished conversion, which a late process may have created again."""
    shutil.rmtree(dest / PARTS_FOLDER, ignore_errors=True)


def _convert_files(conversion: Conversion) -> list[tuple[str, ShardPart]]:
    """Convert the shards assigned to this process. Return the parts of all shards on rank 0."""
    jobs = list(conversion.jobs())
    with ThreadPoolExecutor(conversion.workers) as pool:
        futures = {
            id(job): pool.submit(_convert_shard, conversion, job)
            for job in jobs
            if conversion.is_assigned(job.number)
        }
        try:
            for future in futures.values():
                future.result()
        except BaseException:
            conversion.cancelled.set()
            pool.shutdown(cancel_futures=True)
            raise
    if conversion.rank:
        return []
    return [
        (
            job.split,
            futures[id(job)].result() if id(job) in futures else wait_for_part(conversion, job),
        )
        for job in jobs
    ]


def _convert_shard(conversion: Conversion, job: ShardJob) -> ShardPart:
    fingerprint = conversion.fingerprint(job)
    if part := load_part(conversion, job, fingerprint):
        conversion.report_progress(len(job.items))
        return part
    writer = ShardPartWriter(conversion.dest, job, fingerprint)
    try:
        for ordinal, item in enumerate(job.items, start=job.first):
            try:
                image = try_prepare(item.read(), conversion.shrink)
            except OSError as error:
                image = UnreadableImage(str(error.strerror))
            writer.add(ordinal, item, image)
            conversion.report_progress(1)
        return writer.close()
    except BaseException:
        writer.abandon()
        raise
