"""Final step of a conversion: write the indexes, the list of unreadable images and the manifest."""

import hashlib
import json
import os
import shutil
from collections import Counter
from pathlib import Path

import numpy as np

from fasticcl.convert.jobs import Conversion
from fasticcl.convert.shard_parts import ShardPart
from fasticcl.errors import UserError
from fasticcl.files import file_sha256, replacing, write_file
from fasticcl.plural import counted
from fasticcl.shards.manifest import SPLITS, Manifest, SplitInfo
from fasticcl.shards.reader import INDEX, INDEX_DTYPE, QUARANTINE


def finalize(
    conversion: Conversion,
    parts: list[tuple[str, ShardPart]],
    missing: list[dict[str, str]],
    max_corrupt: int,
) -> Manifest:
    """Write the indexes and the list of unreadable images, then the manifest.

    Args:
        conversion: the conversion.
        parts: split and part of every shard, in order.
        missing: quarantine entries of images that are not in the archive.
        max_corrupt: number of unreadable images to accept.

    Raises:
        UserError: too many images are unreadable, or a class or a split has no readable image.
    """
    source, dest = conversion.source, conversion.dest
    quarantine = [entry for _, part in parts for entry in part.quarantine] + missing
    lines = [json.dumps(entry, ensure_ascii=False) + "\n" for entry in quarantine]
    # File names that are not UTF-8 are escaped as in JSON.
    quarantine_text = "".join(lines).encode("utf-8", "backslashreplace")
    write_file(dest / QUARANTINE, quarantine_text)
    if len(quarantine) > max_corrupt:
        first = quarantine[0]
        raise UserError(
            f"{counted(len(quarantine), 'image')} cannot be read, for example {first['image']} "
            f"({first['reason']}). Repair the images listed in "
            f"{dest / QUARANTINE}, or leave them out with --max-corrupt {len(quarantine)}."
        )
    # An archive that lacks images has fewer shards than there are jobs.
    fingerprints = (
        map(conversion.fingerprint, conversion.jobs())
        if source.archive
        else (part.fingerprint for _, part in parts)
    )
    manifest = Manifest(
        dataset=source.dataset,
        classes=source.classes,
        splits={
            split: _write_index(
                dest / split, source.classes, [part for part_split, part in parts if part_split == split]
            )
            for split in source.splits
        },
        settings={**conversion.settings, **({"subset": source.subset} if source.subset else {})},
        source_sha256=conversion.source_sha256(fingerprints),
        reencoded=dict(sum((Counter(part.reencoded) for _, part in parts), Counter())),
        quarantined=len(quarantine),
        quarantine_sha256=hashlib.sha256(quarantine_text).hexdigest(),
    )
    _remove_leftovers(dest, manifest)
    manifest.write(dest)
    return manifest


def _write_index(folder: Path, classes: list[str], parts: list[ShardPart]) -> SplitInfo:
    """Write the index of a split one part at a time, to keep only the order of its rows in memory."""
    labels, ordinals = np.empty(0, np.uint32), np.empty(0, np.uint64)
    for part in parts:
        rows = part.rows()
        labels = np.concatenate([labels, rows["row"]["label"]])
        ordinals = np.concatenate([ordinals, rows["ordinal"]])
    counts = np.bincount(labels, minlength=len(classes))
    _check_counts(folder, classes, counts)
    position = np.empty(len(labels), np.int64)
    position[np.lexsort((ordinals, labels))] = np.arange(len(labels))
    with replacing(folder / INDEX) as file:
        np.lib.format.write_array_header_1_0(
            file, {"descr": INDEX_DTYPE.descr, "fortran_order": False, "shape": (len(labels),)}
        )
        start = file.tell()
        file.flush()
        # Writing to a memory map on a full disk would kill the process instead of raising an error.
        os.posix_fallocate(file.fileno(), start, max(1, len(labels)) * INDEX_DTYPE.itemsize)
        index = np.memmap(file, INDEX_DTYPE, "r+", start, (len(labels),))
        done = 0
        for part in parts:
            rows = part.rows()
            index[position[done : done + len(rows)]] = rows["row"]
            done += len(rows)
        index.flush()
    return SplitInfo(
        class_counts=counts.tolist(),
        shards=[part.info for part in parts if part.info],
        index_sha256=file_sha256(folder / INDEX),
    )


def _check_counts(folder: Path, classes: list[str], counts: np.ndarray) -> None:
    if not counts.sum():
        raise UserError(f"No image of {folder.name}/ can be read. Repair at least one.")
    if folder.name == "train" and (empty := np.flatnonzero(counts == 0)).size:
        raise UserError(
            f"No training image of the class {classes[empty[0]]!r} can be read. "
            "Repair at least one or remove the class."
        )


def _remove_leftovers(dest: Path, manifest: Manifest) -> None:
    """Remove files of an earlier, unfinished conversion with other settings or splits."""
    for split in SPLITS:
        if split not in manifest.splits:
            shutil.rmtree(dest / split, ignore_errors=True)
    for split, info in manifest.splits.items():
        names = {Path(shard.name).stem for shard in info.shards}
        for path in (dest / split).glob("shard-*"):
            if path.name.split(".")[0] not in names or path.suffix == ".part":
                path.unlink()
