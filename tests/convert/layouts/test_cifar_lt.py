"""CIFAR-10-LT and CIFAR-100-LT: the exact subset, and safe reading of the pickles."""

import hashlib
import http.client
import io
import os
import pickle
import shutil
import tarfile
import urllib.error
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision import datasets

import fasticcl
from fasticcl import UserError
from fasticcl.convert.layouts import cifar_lt as layout
from fasticcl.shards.reader import Shards
from tests.support.files import write_files, write_tar
from tests.support.replicas import cifar

OFFICIAL = {"cifar10-lt": datasets.CIFAR10, "cifar100-lt": datasets.CIFAR100}
NAMES = list(OFFICIAL)
CLASSES = {"cifar10-lt": 10, "cifar100-lt": 100}
TOTALS = {
    ("cifar10-lt", 100): 12406,
    ("cifar10-lt", 50): 13996,
    ("cifar10-lt", 10): 20431,
    ("cifar100-lt", 100): 10847,
    ("cifar100-lt", 50): 12608,
    ("cifar100-lt", 10): 19573,
}
FACTOR = {100: 0.01, 50: 0.02, 10: 0.1}


def ldam_drw(labels, num_classes, imbalance):
    """Return the training images that `IMBALANCECIFAR10` of LDAM-DRW selects, reimplemented here."""
    generator = np.random.RandomState(0)
    chosen = []
    for k in range(num_classes):
        members = np.where(labels == k)[0]
        generator.shuffle(members)
        count = int(len(labels) / num_classes * FACTOR[imbalance] ** (k / (num_classes - 1.0)))
        chosen.extend((int(member), k) for member in members[:count])
    return chosen


def md5_sums(contents):
    return {path.split("/")[1]: hashlib.md5(content).hexdigest() for path, content in contents.items()}


def make_official(monkeypatch, name, md5):
    """Make torchvision accept files with these MD5 sums as the official ones."""
    official = OFFICIAL[name]
    for files in ("train_list", "test_list"):
        monkeypatch.setattr(official, files, [[file, md5[file]] for file, _ in getattr(official, files)])
    monkeypatch.setattr(official, "meta", official.meta | {"md5": md5[official.meta["filename"]]})


def labels_of(name, per_class, tests_per_class, seed=0):
    rng = np.random.default_rng(seed)
    classes = np.arange(CLASSES[name])
    return np.concatenate([rng.permutation(np.repeat(classes, n)) for n in (per_class, tests_per_class)])


@pytest.fixture(scope="module")
def pixels():
    """Pixels [60000, 3072], as many as in the real dataset."""
    return np.random.default_rng(0).integers(0, 256, (60_000, 3072), dtype=np.uint8)


@pytest.fixture(scope="module", params=NAMES)
def full(request, pixels, tmp_path_factory):
    """Name, folder, MD5 sums and labels of a replica of the full size."""
    name = request.param
    labels = labels_of(name, 50_000 // CLASSES[name], 10_000 // CLASSES[name])
    contents = cifar(OFFICIAL[name].__name__, pixels, labels, tests=10_000)
    folder = write_files(tmp_path_factory.mktemp(name), contents)
    yield name, folder, md5_sums(contents), labels
    shutil.rmtree(folder)  # pytest would keep 180 MB of each of the last three runs


@pytest.fixture(params=NAMES)
def small(request, monkeypatch):
    """Name, contents, pixels and labels of a replica with a few images per class."""
    name = request.param
    labels = labels_of(name, 6, 2)
    rows = np.random.default_rng(1).integers(0, 256, (len(labels), 3072), dtype=np.uint8)
    contents = cifar(OFFICIAL[name].__name__, rows, labels, tests=2 * CLASSES[name])
    make_official(monkeypatch, name, md5_sums(contents))
    return name, contents, rows, labels


def archive_name(name):
    return OFFICIAL[name].filename


def listed(source):
    """Return every image of a source with its bytes."""
    return {
        split: [(item.name, item.label, item.read()) for item in items]
        for split, items in source.splits.items()
    }


def pixel_array(row):
    """Return [32, 32, 3] from a row of a pickle, which has a red, a green and a blue plane."""
    image = np.empty((32, 32, 3), np.uint8)
    for channel in range(3):
        image[:, :, channel] = row[1024 * channel : 1024 * (channel + 1)].reshape(32, 32)
    return image


def decoded(png):
    image = Image.open(io.BytesIO(png))
    assert (image.format, image.mode) == ("PNG", "RGB")
    return np.asarray(image)


def test_the_subset_is_exactly_that_of_ldam_drw(full, pixels, monkeypatch):
    name, folder, md5, labels = full
    make_official(monkeypatch, name, md5)
    for imbalance in (100, 50, 10):
        source = layout.read(folder, name, imbalance)
        train, test = source.splits["train"], source.splits["test"]
        expected = ldam_drw(labels[:50_000], CLASSES[name], imbalance)
        assert len(train) == len(expected) == TOTALS[name, imbalance]
        assert train.labels.tolist() == [label for _, label in expected]
        assert test.labels.tolist() == labels[50_000:].tolist()
        for place in np.random.default_rng(imbalance).integers(0, len(expected), 60):
            assert (decoded(train[int(place)].read()) == pixel_array(pixels[expected[place][0]])).all()
        # Names are compared for all images, pixels for 60.
        assert [int(train.name(place).rsplit("/", 1)[1]) for place in range(len(train))] == [
            row for row, _ in expected
        ]


def test_torchvision_reads_the_same_pixels_from_the_replica(small, tmp_path):
    name, contents, rows, labels = small
    source = layout.read(write_files(tmp_path, contents), name)
    peer = OFFICIAL[name](tmp_path, train=False)
    items = list(source.splits["test"])
    assert source.classes == peer.classes
    assert peer.targets == [item.label for item in items] == labels[-len(peer) :].tolist()
    for place, item in enumerate(items):
        assert (decoded(item.read()) == peer.data[place]).all()
        assert (peer.data[place] == pixel_array(rows[len(rows) - len(peer) + place])).all()


def test_converted_images_have_exactly_the_original_pixels(full, pixels, monkeypatch, tmp_path):
    name, folder, md5, labels = full
    make_official(monkeypatch, name, md5)
    manifest = fasticcl.convert(name, folder, tmp_path, imbalance=50, limit=300, shard_size=128)
    assert manifest.dataset == name
    assert manifest.settings["imbalance"] == 50
    assert fasticcl.verify(tmp_path, decode=True).problems == []

    expected = ldam_drw(labels[:50_000], CLASSES[name], 50)
    kept = [expected[place * len(expected) // 300] for place in range(300)]
    kept_classes = sorted({label for _, label in kept})
    assert manifest.classes == [f"thing {k}" for k in kept_classes]
    test = [place * 10_000 // 300 for place in range(300)]
    stored = {
        "train": [(kept_classes.index(label), row) for row, label in kept],
        "test": [
            (kept_classes.index(labels[50_000 + place]), 50_000 + place)
            for place in test
            if labels[50_000 + place] in kept_classes
        ],
    }
    for split, images in stored.items():
        shards = Shards(tmp_path, split)
        wanted = sorted(images, key=lambda image: image[0])
        assert shards.index["label"].tolist() == [label for label, _ in wanted]
        for content, (_, row) in zip(shards.read(np.arange(len(shards))), wanted, strict=True):
            assert (decoded(content.tobytes()) == pixel_array(pixels[row])).all()


@pytest.mark.parametrize("place", ["folder", "sub-folder", "archive", "archive itself"])
def test_files_are_found_in_the_folder_its_sub_folder_and_the_archive(small, tmp_path, place):
    name, contents, _, _ = small
    expected = listed(layout.read(write_files(tmp_path / "expected", contents), name))
    folder = source = tmp_path / "source"
    folder.mkdir()
    if place == "folder":
        write_files(folder, {path.split("/")[1]: content for path, content in contents.items()})
    elif place == "sub-folder":
        write_files(folder, contents)
    else:
        archive = write_tar(folder / archive_name(name), contents.items())
        source = archive if place == "archive itself" else folder
    before = sorted(folder.rglob("*"))
    found = layout.read(source, name)
    assert listed(found) == expected
    assert found.classes == [f"thing {k}" for k in range(CLASSES[name])]
    assert sorted(folder.rglob("*")) == before


def test_the_imbalance_is_100_if_none_is_given(small, tmp_path):
    name, contents, _, _ = small
    source = layout.read(write_files(tmp_path, contents), name)
    assert source.settings == {"imbalance": 100}
    assert listed(source) == listed(layout.read(tmp_path, name, 100))


@pytest.mark.parametrize("imbalance", [20, 1, 0, -10, 1000])
def test_another_imbalance_gives_a_clear_error(small, tmp_path, imbalance):
    name, contents, _, _ = small
    with pytest.raises(UserError, match=f"--imbalance must be 100, 50 or 10, not {imbalance}"):
        fasticcl.convert(
            name, write_files(tmp_path / "src", contents), tmp_path / "shards", imbalance=imbalance
        )


@pytest.mark.parametrize("packed", [False, True], ids=["folder", "archive"])
def test_every_file_is_compared_with_its_md5(small, tmp_path, packed):
    name, contents, _, _ = small
    for i, path in enumerate(contents):
        changed = bytearray(contents[path])
        changed[len(changed) // 2] ^= 1
        source = tmp_path / str(i)
        source.mkdir()
        if packed:
            write_tar(source / archive_name(name), (contents | {path: bytes(changed)}).items())
        else:
            write_files(source, contents | {path: bytes(changed)})
        with pytest.raises(
            UserError, match=rf"{path.split('/')[1]} in .* is not the official file because its MD5"
        ):
            layout.read(source, name)


@pytest.mark.parametrize("packed", [False, True], ids=["folder", "archive"])
def test_a_missing_file_is_named(small, tmp_path, packed):
    name, contents, _, _ = small
    for i, path in enumerate(contents):
        rest = {other: content for other, content in contents.items() if other != path}
        source = tmp_path / str(i)
        source.mkdir()
        if packed:
            write_tar(source / archive_name(name), rest.items())
        else:
            write_files(source, rest)
        with pytest.raises(UserError, match=path.split("/")[1]):
            layout.read(source, name)


@pytest.mark.parametrize("there", [True, False], ids=["empty folder", "no folder"])
def test_missing_files_give_an_error_with_the_download_address(small, tmp_path, there):
    name, _, _, _ = small
    folder = tmp_path / "nowhere"
    if there:
        folder.mkdir()
    with pytest.raises(UserError, match=rf"has neither {archive_name(name)} nor .*Download https?://"):
        layout.read(folder, name)


@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: whole[: len(whole) // 2],
        lambda whole: whole[: len(whole) // 2] + bytes(64) + whole[len(whole) // 2 + 64 :],
        lambda whole: whole[:64] + b"\xff" * 64 + whole[128:],
        lambda _: b"<html>404</html>" * 100,
        lambda _: b"",
    ],
    ids=["cut short", "zeros", "no deflate stream", "html", "empty"],
)
def test_a_damaged_archive_gives_a_clear_error(small, tmp_path, damage):
    name, contents, _, _ = small
    archive = write_tar(tmp_path / archive_name(name), contents.items())
    archive.write_bytes(damage(archive.read_bytes()))
    with pytest.raises(UserError, match=r"Download it again\.$") as refused:
        layout.read(tmp_path, name)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("member", ["a folder", "a link to nowhere"])
def test_an_archive_with_a_folder_or_link_in_place_of_a_file_gives_a_clear_error(small, tmp_path, member):
    name, contents, _, _ = small
    path = next(iter(contents))
    archive = tmp_path / archive_name(name)
    write_tar(archive, [(other, content) for other, content in contents.items() if other != path])
    with tarfile.open(archive) as whole, tarfile.open(tmp_path / "new", "w:gz", compresslevel=1) as new:
        for each in whole:
            new.addfile(each, whole.extractfile(each))
        odd = tarfile.TarInfo(path)
        odd.type = tarfile.DIRTYPE if member == "a folder" else tarfile.SYMTYPE
        odd.linkname = "" if member == "a folder" else "nowhere"
        new.addfile(odd)
    os.replace(tmp_path / "new", archive)
    with pytest.raises(UserError, match=archive_name(name)):
        layout.read(tmp_path, name)


class Evil:
    """An object that runs a command when `pickle.load` reads it."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_pickle_that_would_run_code_is_refused_and_not_run(small, tmp_path, monkeypatch, protocol):
    name, contents, _, _ = small
    sign = tmp_path / "sign"
    evil = pickle.dumps({"data": Evil(f"touch {sign}")}, protocol)
    pickle.loads(evil)
    assert sign.exists()  # `pickle.load` does run it
    sign.unlink()
    for i, path in enumerate(contents):
        changed = contents | {path: evil}
        make_official(monkeypatch, name, md5_sums(changed))
        with pytest.raises(
            UserError, match=r"refers to (posix|nt|os)\.system, so it is not the official one"
        ):
            layout.read(write_files(tmp_path / str(i), changed), name)
        assert not sign.exists()


@pytest.mark.parametrize(
    ("module", "attribute"),
    [
        ("builtins", "eval"),
        ("__builtin__", "eval"),
        ("numpy", "load"),
        ("numpy", "ndarray.tofile"),
        ("numpy.core.multiarray", "fromfile"),
        ("_codecs", "encode"),
    ],
)
def test_only_objects_that_rebuild_arrays_are_loaded(small, tmp_path, monkeypatch, module, attribute):
    name, contents, _, _ = small
    path = next(iter(contents))
    names = b"".join(
        pickle.SHORT_BINUNICODE + bytes([len(text)]) + text.encode() for text in (module, attribute)
    )
    changed = contents | {path: b"\x80\x04" + names + pickle.STACK_GLOBAL + pickle.STOP}
    make_official(monkeypatch, name, md5_sums(changed))
    with pytest.raises(UserError, match="refers to"):
        layout.read(write_files(tmp_path, changed), name)


@pytest.fixture
def downloads(small, monkeypatch):
    """Make torchvision "download" a replica, and record the requested addresses in the list."""
    name, contents, _, _ = small
    asked = []

    def download(url, root, filename, md5):
        asked.append((url, filename, md5))
        write_tar(Path(root) / filename, contents.items())
        write_files(Path(root), contents)

    monkeypatch.setattr("torchvision.datasets.cifar.download_and_extract_archive", download)
    return name, asked


def test_the_archive_is_downloaded_with_torchvision_only_once(downloads, tmp_path):
    name, asked = downloads
    (tmp_path / "src").mkdir()
    first = fasticcl.convert(name, tmp_path / "src", tmp_path / "shards", download=True, limit=40)
    official = OFFICIAL[name]
    assert asked == [(official.url, official.filename, official.tgz_md5)]
    again = fasticcl.convert(name, tmp_path / "src", tmp_path / "again", download=True, limit=40)
    assert len(asked) == 1
    without = fasticcl.convert(name, tmp_path / "src", tmp_path / "without", limit=40)
    assert first == again == without


@pytest.mark.parametrize(
    "error",
    [
        urllib.error.URLError("no route to host"),
        TimeoutError("timed out"),
        RuntimeError("File not found or corrupted."),
        http.client.BadStatusLine("?"),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("name", NAMES)
def test_a_failed_download_gives_a_clear_error(tmp_path, monkeypatch, name, error):
    def download(*_, **__):
        raise error

    monkeypatch.setattr("torchvision.datasets.cifar.download_and_extract_archive", download)
    with pytest.raises(UserError, match=rf"The download into .* failed .* {OFFICIAL[name].url} manually"):
        fasticcl.convert(name, tmp_path, tmp_path / "shards", download=True)
    assert not (tmp_path / "shards").exists()
