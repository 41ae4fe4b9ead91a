"""Sequential reading of intact and damaged tars."""

import gzip
import tarfile
import zlib

import numpy as np
import pytest

from fasticcl.convert.tar_stream import open_tar
from tests.support.files import write_tar

MEMBERS = [(f"{i}.bin", np.random.default_rng(i).bytes(3000)) for i in range(5)]


def read(path):
    with open_tar(path) as tar:
        return [(member.name, tar.extractfile(member).read()) for member in tar]


@pytest.fixture
def plain(tmp_path):
    return write_tar(tmp_path / "images.tar", MEMBERS).read_bytes()


def test_plain_and_gzipped_tars_give_all_members(tmp_path, plain):
    pieces = [plain[i : i + 4000] for i in range(0, len(plain), 4000)]
    contents = [plain, gzip.compress(plain), b"".join(map(gzip.compress, pieces))]
    for content in contents:
        path = tmp_path / "images.tar.gz"
        path.write_bytes(content)
        assert read(path) == MEMBERS


@pytest.mark.parametrize("compress", [bytes, gzip.compress], ids=["plain", "gzip"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.6])
def test_a_tar_that_is_truncated_raises_an_error(tmp_path, plain, compress, share):
    content = compress(plain.rstrip(b"\0"))
    path = tmp_path / "images.tar.gz"
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises((tarfile.TarError, EOFError, zlib.error)):
        read(path)


def test_a_tar_that_is_cut_between_two_members_raises_an_error(tmp_path, plain):
    path = tmp_path / "images.tar"
    path.write_bytes(plain)
    with tarfile.open(path) as tar:
        end = tar.getmembers()[3].offset
    path.write_bytes(plain[:end])
    with pytest.raises(tarfile.ReadError, match="unexpected end of data"):
        read(path)


def test_wrong_gzip_checksum_raises_an_error(tmp_path, plain):
    content = bytearray(gzip.compress(plain, compresslevel=0))
    content[content.index(MEMBERS[2][1][:50]) + 7] ^= 1
    path = tmp_path / "images.tar.gz"
    path.write_bytes(content)
    with pytest.raises(gzip.BadGzipFile, match="CRC"):
        read(path)
