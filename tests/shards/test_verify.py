"""Verification of shards: flipped bytes, missing files and inconsistent indexes are reported by name."""

import shutil
import tarfile
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fasticcl.convert.conversion import convert
from fasticcl.convert.source import Item, Source
from fasticcl.errors import UserError
from fasticcl.files import file_sha256
from fasticcl.shards.manifest import Manifest
from fasticcl.shards.reader import INDEX
from fasticcl.shards.verify import verify
from tests.support.command_line import UNPRIVILEGED, run_cli_subprocess
from tests.support.files import file_contents
from tests.support.images import encode, jpegs, noise

PNG = encode(noise(np.random.default_rng(0), 16, 20), "PNG")
MASKS = st.integers(1, 255)


@pytest.fixture(scope="module")
def intact(tmp_path_factory):
    """Shards of fourteen training and six other images, five per shard, and one unreadable image."""
    contents = [*jpegs(16, seed=2), PNG, PNG + b" ", PNG + b"  ", b"", *jpegs(1, seed=3)]
    items = [Item(content, i % 3, f"{i} of {len(contents)}.jpg") for i, content in enumerate(contents)]
    folder = tmp_path_factory.mktemp("intact")
    source = Source("folder", ["a", "b", "c"], {"train": items[:14], "val": items[14:]})
    convert(source, folder, shard_size=5, max_corrupt=1)
    return folder


@pytest.fixture
def folder(intact, tmp_path):
    return shutil.copytree(intact, tmp_path / "shards")


@pytest.fixture(scope="module")
def scratch(intact, tmp_path_factory):
    """A copy in which tests flip single bytes and flip them back."""
    return shutil.copytree(intact, tmp_path_factory.mktemp("scratch") / "shards")


def problems(folder, **options):
    """Return the problems, or the message of the error, as a list."""
    try:
        return verify(folder, **options).problems
    except UserError as error:
        return [str(error)]


def problems_after_flip(folder, name, offset, mask):
    """Return the problems after the bits of ``mask`` are flipped in one byte, and restore the file."""
    path = folder / name
    whole = path.read_bytes()
    damaged = bytearray(whole)
    damaged[offset] ^= mask
    path.write_bytes(damaged)
    try:
        return problems(folder, workers=1)
    finally:
        path.write_bytes(whole)


def image_at(tar, offset):
    """Return the name of the image that contains a byte of a shard, or None."""
    with tarfile.open(tar) as members:
        for member in members:
            if member.offset_data <= offset < member.offset_data + member.size:
                return None if member.name.endswith(".cls") else member.name
    return None


def assert_named(folder, name, offset, found):
    if name == "manifest.json":
        # A flip in the format number looks like another version.
        assert "manifest.json is damaged" in found[0] or "have format" in found[0]
        return
    assert any(name in sentence for sentence in found), (name, offset, found)
    if name.endswith(".tar") and (image := image_at(folder / name, offset)):
        assert any(name in sentence and image in sentence for sentence in found), (image, found)


def test_intact_shards_have_no_problems(intact):
    for options in ({}, {"decode": True}, {"workers": 1}):
        found = verify(intact, **options)
        assert (found.images, found.shards) == (20, 5)
        assert (found.problems, found.duplicates) == ([], [])


def test_progress_counts_every_image(intact):
    reports = []
    verify(intact, report=lambda *progress: reports.append(progress))
    assert sum(images for images, _ in reports) == 20
    assert {total for _, total in reports} == {20}


@given(st.data())
@settings(derandomize=True, deadline=None, max_examples=150)
def test_flipped_byte_anywhere_is_reported_by_name(scratch, data):
    files = file_contents(scratch)
    name = data.draw(st.sampled_from(sorted(files)))
    offset = data.draw(st.integers(0, len(files[name]) - 1))
    found = problems_after_flip(scratch, name, offset, data.draw(MASKS))
    assert_named(scratch, name, offset, found)


def sampled_offsets(folder, name):
    """Return offsets throughout a file. For a tar, they include the start and the end of each part."""
    size = (folder / name).stat().st_size
    if not name.endswith(".tar"):
        return sorted({*range(0, size, 1 + size // 60), size - 1})
    edges = {0, size - 1, size - 512, size - 1024}
    with tarfile.open(folder / name) as tar:
        for member in tar:
            data, end = member.offset_data, member.offset_data + member.size
            # Name, mode, size, checksum, type, magic and padding of the header; content; padding.
            edges |= {member.offset + field for field in (0, 100, 130, 150, 156, 260, 500)}
            edges |= {data, (data + end) // 2, end - 1, end, data - member.size // -512 * -512 - 1}
    return sorted(offset for offset in edges if offset < size)


@pytest.mark.parametrize(
    "name",
    [
        "manifest.json",
        "quarantine.jsonl",
        "train/index.npy",
        "val/index.npy",
        "train/shard-000000.idx",
        "val/shard-000001.idx",
        "train/shard-000002.tar",
        "val/shard-000000.tar",
    ],
)
def test_flipped_bit_in_any_field_is_reported_by_name(scratch, name):
    rng = np.random.default_rng(1)
    for offset in sampled_offsets(scratch, name):
        found = problems_after_flip(scratch, name, offset, 1 << int(rng.integers(8)))
        assert_named(scratch, name, offset, found)


def test_every_damaged_image_is_reported_by_name(folder):
    damaged = {}
    for path in sorted(folder.glob("*/*.tar")):
        with tarfile.open(path) as tar:
            member = next(member for member in tar if not member.name.endswith(".cls"))
        content = bytearray(path.read_bytes())
        content[member.offset_data + 40] ^= 1
        path.write_bytes(content)
        damaged[f"{path.parent.name}/{path.name}"] = member
    found = verify(folder).problems
    assert found == [
        f"{name}: {member.name} at byte {member.offset_data} was changed" for name, member in damaged.items()
    ]


@pytest.mark.parametrize("cut", [-1, -512, -10240, 700, 0])
def test_truncated_shard_is_reported_by_name(folder, cut):
    path = folder / "train" / "shard-000001.tar"
    path.write_bytes(path.read_bytes()[:cut])
    assert verify(folder).problems == ["train/shard-000001.tar is missing or has the wrong length"]


def test_shard_with_appended_bytes_is_reported_by_name(folder):
    path = folder / "train" / "shard-000001.tar"
    path.write_bytes(path.read_bytes() + bytes(10240))
    assert verify(folder).problems == ["train/shard-000001.tar is missing or has the wrong length"]


@pytest.mark.parametrize(
    "name", ["quarantine.jsonl", "val/index.npy", "train/shard-000000.idx", "val/shard-000000.tar"]
)
@pytest.mark.parametrize("replaced", ["missing", "empty", "folder"])
def test_missing_or_replaced_file_is_reported_by_name(folder, name, replaced):
    (folder / name).unlink()
    if replaced == "empty":
        (folder / name).write_bytes(b"")
    if replaced == "folder":
        (folder / name).mkdir()
    found = verify(folder).problems
    assert any(name in sentence for sentence in found)
    assert len(found) <= 3


def test_every_file_of_a_missing_split_is_reported(folder):
    shutil.rmtree(folder / "val")
    found = " ".join(verify(folder).problems)
    for name in ("val/index.npy", "val/shard-000000.tar", "val/shard-000001.tar"):
        assert f"{name} is missing" in found


def test_interruption_stops_verification_early(intact, monkeypatch):
    read = []

    def interrupted(*arguments):
        read.append(arguments)
        time.sleep(0.5)
        raise KeyboardInterrupt

    monkeypatch.setattr("fasticcl.shards.verify._shard_problems", interrupted)
    with pytest.raises(KeyboardInterrupt):
        verify(intact, workers=1)
    assert len(read) < len(list(intact.rglob("*.tar")))


def test_a_folder_without_a_manifest_gives_a_clear_error(folder, tmp_path):
    (folder / "manifest.json").unlink()
    for path in (folder, tmp_path / "nowhere"):
        with pytest.raises(UserError, match=r"There are no shards in .*: it has no manifest\.json"):
            verify(path)


def test_extra_tars_that_other_readers_would_read_are_reported(folder):
    for name in ("train/shard-000009.tar", "train/more.tar", "test/shard-000000.tar"):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(folder / "train" / "shard-000000.tar", folder / name)
    assert sorted(verify(folder).problems) == [
        "test/shard-000000.tar is not in manifest.json",
        "train/more.tar is not in manifest.json",
        "train/shard-000009.tar is not in manifest.json",
    ]


def test_two_swapped_shards_are_both_reported(folder):
    one, two = (folder / "train" / f"shard-00000{i}.tar" for i in (0, 1))
    if one.stat().st_size != two.stat().st_size:
        pytest.fail("the test needs two shards of one size")
    content = one.read_bytes()
    one.write_bytes(two.read_bytes())
    two.write_bytes(content)
    found = " ".join(verify(folder).problems)
    assert "train/shard-000000.tar" in found
    assert "train/shard-000001.tar" in found


def change_index(folder, split, change):
    """Change the index of a split and update the checksums."""
    manifest = Manifest.read(folder)
    path = folder / split / INDEX
    index = np.load(path)
    np.save(path, change(index))
    info = manifest.splits[split].model_copy(update={"index_sha256": file_sha256(path)})
    manifest.model_copy(update={"splits": {**manifest.splits, split: info}}).write(folder)


def add_to_field(field, row, by=1):
    def change(index):
        index[field][row] += by
        return index

    return change


@pytest.mark.parametrize("field", ["height", "width"])
def test_decode_reports_an_image_whose_size_differs_from_the_index(folder, field):
    change_index(folder, "train", add_to_field(field, 3))
    row = np.load(folder / "train" / INDEX)[3]
    shard = f"train/shard-{row['shard']:06d}.tar"
    image = image_at(folder / shard, int(row["offset"]))
    assert verify(folder).problems == []
    assert verify(folder, decode=True).problems == [f"{shard}: {image} has a different size in the index"]


@pytest.mark.parametrize("field", ["shard", "offset", "size", "label", "crc32"])
def test_index_that_disagrees_with_the_tars_is_reported(folder, field):
    change_index(folder, "train", add_to_field(field, 9))
    found = " ".join(verify(folder).problems)
    assert "train/" in found
    assert INDEX in found or "was changed" in found


def test_index_that_is_not_sorted_by_label_is_reported(folder):
    change_index(folder, "train", lambda index: index[::-1].copy())
    assert "train/index.npy is not sorted by label" in verify(folder).problems


@pytest.mark.parametrize(
    "change",
    [lambda index: index[:-1], lambda index: np.concatenate([index, index[-1:]]), lambda index: index[:0]],
    ids=["missing row", "repeated row", "empty"],
)
def test_index_with_missing_or_repeated_images_is_reported(folder, change):
    change_index(folder, "train", change)
    assert any("train/index.npy" in sentence for sentence in verify(folder).problems)


def test_images_shared_by_two_splits_are_detected_by_content(tmp_path):
    contents = jpegs(9, seed=6)
    train = [Item(content, i % 2, f"{i}.jpg") for i, content in enumerate(contents[:6])]
    val = [Item(content, i % 2, f"other{i}.jpg") for i, content in enumerate([contents[4], *contents[6:]])]
    test = [Item(contents[0], 0, "t.jpg"), Item(contents[8], 1, "u.jpg")]
    convert(Source("folder", ["a", "b"], {"train": train, "val": val, "test": test}), tmp_path, shard_size=4)
    found = verify(tmp_path)
    assert found.problems == []
    assert sorted(found.duplicates) == [
        "train/000000000_0.jpg is also test/000000000_t.jpg",
        "train/000000004_4.jpg is also val/000000000_other0.jpg",
        "val/000000003_other3.jpg is also test/000000001_u.jpg",
    ]


def test_different_images_of_equal_checksum_and_size_are_not_duplicates(tmp_path):
    """CRC-32 is linear, so adding a multiple of its polynomial does not change it."""
    polynomial = int("100000100110000010001110110110111", 2)  # x^32 + x^26 + … + 1
    difference = int(f"{polynomial:040b}"[::-1], 2).to_bytes(
        5, "little"
    )  # reflected, in the byte order of CRC-32
    [content] = jpegs(1)
    one = content + bytes(8)
    two = content + bytes(a ^ b for a, b in zip(bytes(8), difference + bytes(3), strict=True))
    items = [Item(one, 0, "one.jpg"), Item(two, 0, "two.jpg")]
    convert(Source("folder", ["a"], {"train": items[:1], "val": items[1:]}), tmp_path)
    rows = [np.load(tmp_path / split / INDEX)[0] for split in ("train", "val")]
    assert one != two
    assert rows[0]["crc32"] == rows[1]["crc32"]
    assert verify(tmp_path).duplicates == []


@pytest.mark.parametrize(("option", "more"), [([], ""), (["--decode"], " and can be decoded")])
def test_the_command_reports_intact_shards(run_cli, intact, option, more):
    assert run_cli("verify", intact, *option) == (
        0,
        f"20 images in 5 shards are intact{more}.\n",
        "",
    )


def test_the_command_reports_problems_with_exit_code_1(run_cli, folder):
    path = folder / "train" / "shard-000000.tar"
    content = bytearray(path.read_bytes())
    content[600] ^= 1
    path.write_bytes(content)
    (folder / "val" / "stray.tar").write_bytes(b"")
    code, out, err = run_cli("verify", folder)
    assert (code, out) == (1, "")
    assert err.splitlines() == [
        "val/stray.tar is not in manifest.json",
        f"train/shard-000000.tar: {image_at(path, 600)} at byte 512 was changed",
        f"error: 2 problems in {folder}. Convert the dataset again.",
    ]


def test_the_command_has_exit_code_2_without_shards(run_cli, tmp_path):
    code, _, err = run_cli("verify", tmp_path)
    assert (code, err) == (2, f"error: There are no shards in {tmp_path}: it has no manifest.json.\n")


def test_command_lists_images_shared_by_two_splits(run_cli, tmp_path):
    items = [Item(content, 0, f"{i}.jpg") for i, content in enumerate(jpegs(3))]
    convert(Source("folder", ["a"], {"train": items, "val": items[2:]}), tmp_path)
    code, out, _ = run_cli("verify", tmp_path)
    assert code == 0
    assert "same image in two splits: train/000000002_2.jpg is also val/000000000_2.jpg" in out


@pytest.mark.parametrize(
    "name", ["train/shard-000001.tar", "train/index.npy", "train/shard-000000.idx", "quarantine.jsonl"]
)
def test_file_that_cannot_be_read_is_reported_by_name(folder, name):
    (folder / name).chmod(0)
    process = run_cli_subprocess("verify", folder, before=UNPRIVILEGED)
    assert process.returncode == 1
    assert name in process.stderr
    assert "Traceback" not in process.stderr


def test_a_single_problem_is_singular(run_cli, folder):
    (folder / "val" / "stray.tar").write_bytes(b"")
    _, _, err = run_cli("verify", folder)
    assert err.splitlines()[-1] == f"error: 1 problem in {folder}. Convert the dataset again."
