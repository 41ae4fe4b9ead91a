"""Manifests that are damaged or were written by another version."""

import json
import shutil

import pytest

from fasticcl.errors import UserError
from fasticcl.shards.manifest import MANIFEST, Manifest


@pytest.fixture
def copied(digit_shards, tmp_path):
    return shutil.copytree(digit_shards, tmp_path / "copy")


def test_a_newer_format_asks_for_an_update(copied):
    manifest = json.loads((copied / MANIFEST).read_text())
    (copied / MANIFEST).write_text(json.dumps(manifest | {"format": 99}))
    with pytest.raises(UserError, match=r"have format 99, .* reads format 2\. Update fasticcl"):
        Manifest.read(copied)


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"format": 2}', b"\xff\xfe", b'{"format": "x"}'])
def test_a_damaged_manifest_is_named(copied, damage):
    (copied / MANIFEST).write_bytes(damage)
    with pytest.raises(UserError, match=r"manifest\.json is damaged"):
        Manifest.read(copied)
