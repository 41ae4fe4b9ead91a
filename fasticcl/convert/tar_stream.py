"""Tars, gzipped or not, read once from their beginning to their end."""

import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from isal import igzip, igzip_lib

_GZIP = b"\x1f\x8b"


@contextmanager
def open_tar(path: Path) -> Iterator[tarfile.TarFile]:
    """Open a tar, gzipped or not, to be read once from its beginning, and check that its end is there.

    Left to itself tarfile takes a tar that is cut short for one that ends there, reads only the first of
    the pieces that some programs compress one by one, and ignores gzip's checksum.

    Raises:
        OSError, EOFError, zlib.error, tarfile.TarError: the file cannot be read, or is not whole.
    """
    with open(path, "rb") as raw:
        file = _Gunzip(fileobj=raw) if raw.peek(2)[:2] == _GZIP else raw
        with tarfile.open(fileobj=file, mode="r|") as tar:
            yield tar
            while file.read(2**20):
                pass
            if file.tell() < tar.offset + tarfile.BLOCKSIZE:
                raise tarfile.ReadError("unexpected end of data")


class _Gunzip(igzip.IGzipFile):
    """A gzipped file, twice as fast as the standard library's; damage is the same error."""

    def read(self, size: int | None = -1) -> bytes:
        try:
            return super().read(size)
        except igzip_lib.IsalError as error:  # pyrefly: ignore[not-a-type]  its stub has an instance
            raise zlib.error(str(error)) from None
