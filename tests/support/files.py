"""Reading and writing of whole folders of files, and their modification times."""

import io
import os
import tarfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path


def file_contents(folder: Path) -> dict[str, bytes]:
    """Return the content of every file by its relative path."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def modification_times(folder: Path) -> dict[Path, int]:
    """Return the modification time of every file and folder in nanoseconds."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def modify_later(path: Path) -> None:
    """Give a file a modification time that is later than those of all files written so far."""
    os.utime(path, ns=(time.time_ns() + 10**9,) * 2)


def write_files(root: Path, contents: Mapping[str, bytes]) -> Path:
    """Write files by their relative paths, create their folders, and return the root folder."""
    created = set()
    for name, content in contents.items():
        path = root / name
        if path.parent not in created:
            path.parent.mkdir(parents=True, exist_ok=True)
            created.add(path.parent)
        path.write_bytes(content)
    return root


def write_tar(path: Path, members: Iterable[tuple[str, bytes]]) -> Path:
    """Write a tar of these members in this order, gzipped if its name ends with gz."""
    compressed = path.name.endswith("gz")
    with tarfile.open(
        path, "w:gz" if compressed else "w", **({"compresslevel": 1} if compressed else {})
    ) as tar:
        for name, content in members:
            header = tarfile.TarInfo(name)
            header.size = len(content)
            tar.addfile(header, io.BytesIO(content))
    return path
