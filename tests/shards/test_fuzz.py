"""Damaged shards, indexes, manifests and images, which give a clear error or the correct bytes."""

import hashlib
import io
import json
import os
import shutil
import struct
import zipfile

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fasticcl.convert.conversion import convert
from fasticcl.convert.source import Item, Source
from fasticcl.errors import UserError
from fasticcl.files import file_sha256
from fasticcl.shards import reader as shards_module
from fasticcl.shards.images import UnreadableImage, decode, try_prepare
from fasticcl.shards.manifest import Manifest
from fasticcl.shards.reader import INDEX_DTYPE, DamagedImages, Shards
from fasticcl.shards.summary import read_summary
from fasticcl.shards.verify import verify
from tests.support.files import file_contents
from tests.support.images import encode, jpegs, noise

fixed = settings(derandomize=True, deadline=None)


@pytest.fixture(scope="module")
def intact(tmp_path_factory):
    """Eleven training images in three shards, and four to evaluate."""
    items = [Item(content, i % 3, f"{i}.jpg") for i, content in enumerate(jpegs(15, seed=8, side=16))]
    folder = tmp_path_factory.mktemp("intact")
    convert(Source("folder", ["a", "b", "c"], {"train": items[:11], "val": items[11:]}), folder, shard_size=4)
    return folder


@pytest.fixture(scope="module")
def rows(intact):
    """The index of the training images and the bytes of each row."""
    shards = Shards(intact, "train")
    return Rows(shards.index.copy(), [image.tobytes() for image in shards.read(np.arange(len(shards)))])


class Rows:
    def __init__(self, index, images):
        self.index, self.images = index, images


@pytest.fixture(scope="module")
def scratch(intact, tmp_path_factory):
    return shutil.copytree(intact, tmp_path_factory.mktemp("scratch") / "shards")


class Damage:
    """Temporarily replaced content of files."""

    def __init__(self, folder, contents):
        self.folder, self.contents = folder, contents
        self.whole = {name: (folder / name).read_bytes() for name in contents}

    def __enter__(self):
        for name, content in self.contents.items():
            (self.folder / name).write_bytes(content)

    def __exit__(self, *_):
        for name, content in self.whole.items():
            (self.folder / name).write_bytes(content)


def outcome(function, *arguments):
    """Return the result of a function, or the clear error that it raises."""
    try:
        return function(*arguments)
    except (UserError, DamagedImages) as error:
        return error


def location(index, row):
    """Return the location of an image in the form of the error messages."""
    return f"train/shard-{index['shard'][row]:06d}.tar:{index['offset'][row]}"


def read_all(shards, expected):
    """Read all images, singly and together. Check them, and return the rows that are reported as damaged."""
    assert len(shards) == len(expected)
    lost = []
    for row, content in enumerate(expected):
        found = outcome(shards.read, np.array([row]))
        if isinstance(found, DamagedImages):
            lost.append(row)
            assert found.rows == [row]
            assert location(shards.index, row) in str(found)
        else:
            assert [image.tobytes() for image in found] == [content]
    found = outcome(shards.read, np.arange(len(expected)))
    if lost:
        assert found.rows == lost
    else:
        assert [image.tobytes() for image in found] == expected
    return lost


def is_reported_or_correct(folder, expected):
    """Return True if damage is reported. Otherwise check that all images are correct."""
    shards = outcome(Shards, folder, "train")
    if isinstance(shards, UserError):
        assert_clear(shards, folder)
        return True
    return bool(read_all(shards, expected))


def assert_clear(error, folder):
    assert "\n" not in str(error)
    assert str(folder) in str(error)


@st.composite
def damages(draw, content):
    """Return damaged content: bytes changed, pieces removed, moved or inserted, truncated or extended."""
    size = len(content)
    changes = ["flip", "flips", "cut", "piece", "swap", "zero", "insert"] if size else []
    kind = draw(st.sampled_from([*changes, "grow", "random"]))
    place = draw(st.integers(0, max(0, size - 1)))
    length = draw(st.integers(1, 600))
    if kind in ("flip", "flips"):
        damaged = bytearray(content)
        for _ in range(1 if kind == "flip" else draw(st.integers(2, 8))):
            damaged[draw(st.integers(0, size - 1))] ^= draw(st.integers(1, 255))
        return bytes(damaged)
    if kind == "swap":
        other = draw(st.integers(0, max(0, size - length)))
        damaged = bytearray(content)
        one, two = content[place : place + length], content[other : other + length]
        damaged[place : place + len(two)], damaged[other : other + len(one)] = two, one
        return bytes(damaged)
    return {
        "cut": content[:place],
        "piece": content[:place] + content[place + length :],
        "zero": content[:place] + bytes(len(content[place : place + length])) + content[place + length :],
        "insert": content[:place] + draw(st.binary(min_size=1, max_size=40)) + content[place:],
        "grow": content + draw(st.binary(min_size=1, max_size=40)),
        "random": draw(st.binary(max_size=300)),
    }[kind]


@given(st.data())
@settings(fixed, max_examples=250)
def test_any_damage_of_any_file_is_reported_or_leaves_correct_images(scratch, rows, data):
    files = file_contents(scratch)
    name = data.draw(st.sampled_from(sorted(files)))
    with Damage(scratch, {name: data.draw(damages(files[name]))}):
        is_reported_or_correct(scratch, rows.images)
        found = outcome(read_summary, scratch)
        if isinstance(found, UserError):
            assert_clear(found, scratch)


@given(st.data())
@settings(fixed, max_examples=120)
def test_any_damage_after_opening_is_reported_or_leaves_correct_images(scratch, rows, data):
    name = f"train/shard-{data.draw(st.integers(0, 2)):06d}.tar"
    content = (scratch / name).read_bytes()
    damaged = data.draw(damages(content))
    shards = Shards(scratch, "train")
    with Damage(scratch, {name: damaged}):
        lost = read_all(shards, rows.images)
        assert all(location(shards.index, row).startswith(name) for row in lost)


def test_a_shard_that_disappears_after_opening_is_reported(intact, tmp_path):
    folder = shutil.copytree(intact, tmp_path / "shards")
    shards = Shards(folder, "train")
    (folder / "train" / "shard-000000.tar").unlink()
    with pytest.raises((DamagedImages, UserError), match=r"shard-000000\.tar"):
        shards.read(np.arange(len(shards)))


def header(text, version=(1, 0), length=None):
    """Return the header of an .npy file."""
    content = text.encode("latin-1")
    content += b" " * (-(len(content) + 11) % 64) + b"\n"
    size = len(content) if length is None else length
    return b"\x93NUMPY" + bytes(version) + struct.pack("<H" if version == (1, 0) else "<I", size) + content


def npy_header(descr=INDEX_DTYPE.descr, shape="(11,)", order=False):
    return header(f"{{'descr': {descr!r}, 'fortran_order': {order}, 'shape': {shape}, }}")


def zipped(**arrays):
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


INDEXES = {
    "empty file": b"",
    "magic only": b"\x93NUMPY",
    "pickle": b"\x80\x04K\x01.",
    "a zip": zipped(index=np.zeros(11, INDEX_DTYPE)),
    "an empty zip": b"PK\x05\x06" + bytes(18),
    "damaged zip": b"PK\x03\x04" + bytes(400),
    "huge length": npy_header(shape="(99999999999999999999999999,)"),
    "2 to the 62": npy_header(shape=f"({2**62},)"),
    "2 to the 64": npy_header(shape=f"({2**64 + 11},)"),
    "2 to the 40": npy_header(shape=f"({2**40},)"),
    "negative length": npy_header(shape="(-11,)"),
    "fractional length": npy_header(shape="(11.0,)"),
    "true": npy_header(shape="(True,)"),
    "no tuple": npy_header(shape="11"),
    "no dimension": npy_header(shape="()"),
    "two dimensions": npy_header(shape="(11, 1)", order=True),
    "no rows": npy_header(shape="(0,)"),
    "objects": npy_header("|O"),
    "bytes of no size": npy_header("|V0"),
    "duplicate field": npy_header([("a", "<u4"), ("a", "<u4")]),
    "big endian": npy_header([(name, kind.replace("<", ">")) for name, kind in INDEX_DTYPE.descr]),
    "mixed keys": header("{'descr': '<u4', 3: False, 'shape': (2,), }"),
    "list as key": header("{[]: 1}"),
    "Python 2": npy_header(shape="(11L,)"),
    "open brackets": header("(" * 3000),
    "an open string": header("{'descr': '''<u4"),
    "a zero byte": header("{'descr': '<u4\x00', }"),
    "code": header("__import__('os').abort()"),
    "another version": header("{}", (9, 0)),
    "a header of two gigabytes": header("{}", (2, 0), 2**31),
}


@pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::UserWarning", "ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("content", INDEXES.values(), ids=INDEXES.keys())
def test_an_invalid_index_gives_a_clear_error(scratch, content):
    with Damage(scratch, {"train/index.npy": content + bytes(11 * INDEX_DTYPE.itemsize)}):
        with pytest.raises(UserError, match=r"train/index\.npy (is missing or damaged|does not match)"):
            Shards(scratch, "train")
        assert "train/index.npy is missing or was changed" in verify(scratch).problems


MANIFESTS = {
    "open lists": b"[" * 100_000,
    "open objects": b'{"a":' * 100_000,
    "a number of a million digits": b'{"format": ' + b"9" * 1_000_000 + b"}",
    "infinite": b'{"format": 1e999}',
    "not a number": b'{"format": NaN}',
    "lone surrogate": b'{"dataset": "\\ud800"}',
    "another encoding": '{"format": 2}'.encode("utf-16"),
    "null": b"null",
    "text": b'"manifest"',
    "two objects": b"{}{}",
}


@pytest.mark.parametrize("content", MANIFESTS.values(), ids=MANIFESTS.keys())
def test_an_invalid_manifest_gives_a_clear_error(scratch, content):
    with Damage(scratch, {"manifest.json": content}):
        for read in (Manifest.read, read_summary, verify, lambda folder: Shards(folder, "train")):
            with pytest.raises(UserError, match=r"manifest\.json is damaged|have format"):
                read(scratch)


def signed(values):
    """Return a manifest of any content with its valid checksum."""
    body = json.dumps({key: value for key, value in values.items() if key != "sha256"}, indent=1)
    body = body.removesuffix("\n}").encode()
    return body + b',\n "sha256": "' + hashlib.sha256(body).hexdigest().encode() + b'"\n}\n'


def test_signing_a_manifest_preserves_its_values(intact):
    content = (intact / "manifest.json").read_bytes()
    values = json.loads(content)
    assert json.loads(signed(values)) == values


def replaced(values, path, new):
    """Return a copy of nested values with a replaced value at a path."""
    copy = json.loads(json.dumps(values))
    at = copy
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = new
    return copy


TRAIN = ("splits", "train")


@pytest.mark.parametrize(
    ("path", "new"),
    [
        ((*TRAIN, "shards", 0, "name"), "../val/shard-000000.tar"),
        ((*TRAIN, "shards", 0, "name"), "/etc/passwd"),
        ((*TRAIN, "shards", 0, "name"), "shard-000000.tar\n"),
        ((*TRAIN, "shards", 0, "name"), "shard-000000.tar/../../x"),
        ((*TRAIN, "shards", 0, "name"), "shard-٠٠٠٠٠٠.tar"),
        ((*TRAIN, "shards", 0, "name"), ""),
        ((*TRAIN, "shards", 0, "bytes"), 10**30),
        ((*TRAIN, "shards", 0, "bytes"), -1),
        ((*TRAIN, "shards", 0, "images"), "four"),
        ((*TRAIN, "shards", 0, "sha256"), None),
        ((*TRAIN, "shards"), {}),
        ((*TRAIN, "class_counts"), [4, -4, 11]),
        ((*TRAIN, "class_counts"), [10**30, 4, 4]),
        ((*TRAIN, "class_counts"), [4, 4]),
        ((*TRAIN, "class_counts"), []),
        ((*TRAIN, "index_sha256"), ""),
        ((*TRAIN, "extra"), 1),
        (("splits",), {}),
        (("splits", "../train"), {"class_counts": [], "shards": [], "index_sha256": ""}),
        (("classes",), "abc"),
        (("format",), 3),
        (("format",), "two"),
        (("quarantined",), []),
    ],
    ids=lambda value: str(value)[-30:],
)
def test_a_wrong_manifest_with_a_valid_checksum_gives_a_clear_error(scratch, path, new):
    values = json.loads((scratch / "manifest.json").read_bytes())
    with (
        Damage(scratch, {"manifest.json": signed(replaced(values, path, new))}),
        pytest.raises(UserError, match=str(scratch)),
    ):
        Shards(scratch, "train")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(data=st.data(), new=JSON)
@settings(fixed, max_examples=120)
def test_any_manifest_with_a_valid_checksum_is_read_or_gives_a_clear_error(scratch, rows, data, new):
    values = json.loads((scratch / "manifest.json").read_bytes())
    paths = [
        *((key,) for key in values),
        *((*TRAIN, key) for key in values["splits"]["train"]),
        *((*TRAIN, "shards", 1, key) for key in values["splits"]["train"]["shards"][1]),
    ]
    path = data.draw(st.sampled_from(paths))
    with Damage(scratch, {"manifest.json": signed(replaced(values, path, new))}):
        is_reported_or_correct(scratch, rows.images)
        found = outcome(verify, scratch)
        if isinstance(found, UserError):
            assert_clear(found, scratch)


def with_index(folder, index):
    """Return the files of shards with a changed index and matching checksums."""
    buffer = io.BytesIO()
    np.save(buffer, index)
    (folder / "train" / "index.npy").write_bytes(buffer.getvalue())
    manifest = Manifest.read(folder)
    info = manifest.splits["train"].model_copy(
        update={"index_sha256": file_sha256(folder / "train" / "index.npy")}
    )
    manifest.model_copy(update={"splits": {**manifest.splits, "train": info}}).write(folder)


EXTREME = st.sampled_from([0, 1, 511, 512, 513, 2**16, 2**31 - 1, 2**31, 2**32 - 1])


@given(
    row=st.integers(0, 10),
    field=st.sampled_from(INDEX_DTYPE.names),
    value=EXTREME | st.sampled_from([2**63 - 1, 2**63, 2**64 - 1]) | st.integers(0, 2**32 - 1),
)
@example(row=0, field="shard", value=2**32 - 1)
@example(row=0, field="offset", value=2**64 - 1)
@example(row=0, field="size", value=0)
@settings(fixed, max_examples=150)
def test_index_with_any_numbers_gives_correct_bytes_or_a_clear_error(scratch, rows, row, field, value):
    index = rows.index.copy()
    before = index[field][row]
    index[field][row] = value & (2 ** (8 * INDEX_DTYPE[field].itemsize) - 1)
    changed = index[field][row] != before
    whole = {name: (scratch / name).read_bytes() for name in ("train/index.npy", "manifest.json")}
    with Damage(scratch, whole):
        with_index(scratch, index)
        assert is_reported_or_correct(scratch, rows.images) == (
            changed and field in ("shard", "offset", "size", "crc32")
        )
        if changed and field not in ("height", "width"):
            assert verify(scratch, workers=1).problems


@given(st.data())
@settings(fixed, max_examples=100)
def test_index_without_checksum_gives_correct_bytes_or_a_clear_error(scratch, rows, data):
    content = (scratch / "train" / "index.npy").read_bytes()
    damaged = bytearray(content)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    checked = shards_module._CHECKED_INDEX
    shards_module._CHECKED_INDEX = 0
    try:
        with Damage(scratch, {"train/index.npy": bytes(damaged)}):
            is_reported_or_correct(scratch, rows.images)
    finally:
        shards_module._CHECKED_INDEX = checked


IMAGE = noise(np.random.default_rng(0), 20, 28)
EXIF = b"Exif\0\0MM\0*\0\0\0\x08\0\3" + b"".join(
    struct.pack(">HHI4s", *entry)
    for entry in [
        (0x010E, 2, 6, struct.pack(">I", 50)),
        (0x0112, 3, 1, b"\0\6\0\0"),
        (0x011A, 5, 1, struct.pack(">I", 56)),
    ]
)
EXIF += bytes(4) + b"hello\0" + struct.pack(">II", 72, 1)
MOVES = {"save_all": True, "append_images": [IMAGE.transpose(0)]}
IMAGES = {
    "jpeg": encode(IMAGE),
    "progressive jpeg": encode(IMAGE, progressive=True),
    "jpeg with exif": encode(IMAGE, exif=EXIF),
    "cmyk jpeg": encode(IMAGE.convert("CMYK"), subsampling=2),
    "jpeg of several": encode(IMAGE, "MPO", **MOVES),
    "png": encode(IMAGE, "PNG"),
    "animated png": encode(IMAGE, "PNG", **MOVES),
    "png with palette": encode(IMAGE.quantize(9), "PNG"),
    "webp": encode(IMAGE, "WEBP", exif=EXIF),
    "bmp": encode(IMAGE, "BMP"),
    "gif": encode(IMAGE, "GIF", **MOVES),
    "tiff": encode(IMAGE, "TIFF", compression="tiff_lzw", exif=EXIF),
    "tiff of jpeg": encode(IMAGE, "TIFF", compression="jpeg"),
    "ppm": encode(IMAGE, "PPM"),
}


def reason(function, content):
    """Return the reason why an image is refused, or None."""
    try:
        function(content)
    except UnreadableImage as error:
        return str(error)
    return None


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("content", IMAGES.values(), ids=IMAGES.keys())
def test_any_damage_of_an_image_gives_a_reason_or_a_readable_image(content):
    rng = np.random.default_rng(9)
    refused = 0
    for _ in range(150):
        damaged = bytearray(content)
        within = len(content) if rng.random() < 0.4 else min(len(content), 300)
        for _ in range(int(rng.integers(1, 4))):
            damaged[int(rng.integers(within))] = int(rng.integers(256))
        if rng.random() < 0.2:
            del damaged[int(rng.integers(len(content))) :]
        image = try_prepare(bytes(damaged))
        assert reason(decode, bytes(damaged)) == (str(image) if isinstance(image, UnreadableImage) else None)
        if isinstance(image, UnreadableImage):
            assert str(image)
            assert " at 0x" not in str(image)  # an address would differ from run to run
            refused += 1
            continue
        again = try_prepare(image.content)
        assert (again.content, again.reencoding_reason) == (image.content, None)
        assert (again.height, again.width) == (image.height, image.width)
    assert refused > 5


def test_a_folder_in_place_of_any_file_is_reported(intact, tmp_path):
    folder = shutil.copytree(intact, tmp_path / "shards")
    for name in ("train/index.npy", "train/shard-000001.tar", "manifest.json"):
        (folder / name).unlink()
        (folder / name).mkdir()
        with pytest.raises(UserError, match=os.path.basename(name)):
            Shards(folder, "train")
        (folder / name).rmdir()
        shutil.copy(intact / name, folder / name)
    assert Shards(folder, "train")


def test_the_zip_helper_writes_what_numpy_writes():
    assert zipfile.is_zipfile(io.BytesIO(INDEXES["a zip"]))
    assert zipfile.is_zipfile(io.BytesIO(INDEXES["an empty zip"]))
