"""Manifests that are damaged or were written by another version."""

import json
import shutil

import pytest

from fasticcl.errors import UserError
from fasticcl.shards.manifest import MANIFEST, Manifest


@pytest.fixture
def shards_copy(digit_shards, tmp_path):
    return shutil.copytree(digit_shards, tmp_path / "copy")


def test_newer_format_gives_a_clear_error(shards_copy):
    manifest = json.loads((shards_copy / MANIFEST).read_text())
    (shards_copy / MANIFEST).write_text(json.dumps(manifest | {"format": 99}))
    with pytest.raises(UserError, match=r"have format 99, .* reads format 2\. Update fasticcl"):
        Manifest.read(shards_copy)


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"format": 2}', b"\xff\xfe", b'{"format": "x"}'])
def test_damaged_manifest_is_reported_by_name(shards_copy, damage):
    (shards_copy / MANIFEST).write_bytes(damage)
    with pytest.raises(UserError, match=r"manifest\.json is damaged"):
        Manifest.read(shards_copy)
