"""What is read from a machine: of packages that do not work, of drivers, of shards."""

import io
import subprocess

import numpy as np
import pytest
from PIL import Image

from fasticcl.doctor import nvidia, probe_runner, software, stored_shards
from fasticcl.doctor.facts import Card
from fasticcl.doctor.test_picture import COLORS, JPEG, colors, difference


def module(folder, name, text):
    """A package of this name, first in the search path."""
    path = folder / name / "__init__.py"
    path.parent.mkdir(parents=True)
    path.write_text(text)


def distribution(folder, name, version, *needs):
    path = folder / f"{name}-{version}.dist-info" / "METADATA"
    path.parent.mkdir()
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    path.write_text("\n".join([*lines, *(f"Requires-Dist: {need}" for need in needs)]) + "\n")


def test_the_built_in_picture_has_the_colours_that_it_is_compared_with():
    with Image.open(io.BytesIO(JPEG)) as image:
        seen = colors(np.asarray(image).tolist())
    assert difference(seen) <= 2
    assert difference([*COLORS[1:], COLORS[0]]) > 100
    assert len(JPEG) < 1000


def test_a_package_that_raises_is_reported_and_the_next_step_is_tried(tmp_path, monkeypatch):
    module(tmp_path, "torch", "raise OSError('libcudart.so.13: cannot open shared object file')")
    module(tmp_path, "torchvision", "print('{\"noise\": 1}', 'and more')\n__version__ = '0.1'")
    monkeypatch.syspath_prepend(tmp_path)
    found = probe_runner.run(("torch", "torchvision"))
    assert found["torch"].error == "OSError: libcudart.so.13: cannot open shared object file"
    assert (found["torch"].found, found["torchvision"].found) == (None, {"version": "0.1"})


def test_a_package_that_ends_the_process_is_named_and_what_came_before_is_kept(tmp_path, monkeypatch):
    module(tmp_path, "torchvision", "__version__ = '0.1'")
    module(tmp_path, "torch", "import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)")
    monkeypatch.syspath_prepend(tmp_path)
    found = probe_runner.run(("torchvision", "torch", "together"))
    assert found["torchvision"].found == {"version": "0.1"}
    assert found["torch"].error == "the process was ended by SIGSEGV"
    assert found["together"].error == "not tried, torch ended the process"


def test_a_package_that_exits_is_reported_with_its_last_words(tmp_path, monkeypatch):
    module(tmp_path, "torch", "import os\nos.write(2, b'one\\nno licence\\n')\nos._exit(7)")
    monkeypatch.syspath_prepend(tmp_path)
    assert probe_runner.run(("torch",))["torch"].error == "the process ended with exit code 7: no licence"


def test_a_package_that_hangs_is_given_up(tmp_path, monkeypatch):
    module(tmp_path, "torchvision", "__version__ = '0.1'")
    module(tmp_path, "torch", "import time\ntime.sleep(600)")
    monkeypatch.syspath_prepend(tmp_path)
    found = probe_runner.run(("torchvision", "torch"), patience=5)
    assert found["torchvision"].found == {"version": "0.1"}
    assert found["torch"].error == "it did not end within 5 s"


def test_a_folder_in_the_current_directory_is_not_taken_for_a_package(tmp_path, monkeypatch):
    module(tmp_path, "torchvision", "__version__ = 'mine'")
    module(tmp_path / "installed", "torchvision", "__version__ = '0.1'")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path / "installed")
    assert probe_runner.run(("torchvision",))["torchvision"].found == {"version": "0.1"}


def test_packages_are_known_by_their_metadata_under_whatever_spelling(tmp_path, monkeypatch):
    distribution(tmp_path, "nvidia_dali_cuda130", "2.4.0")
    distribution(tmp_path, "NVIDIA.DALI", "0.0.1.dev5")
    distribution(tmp_path, "torchvision", "9.9", "numpy", "torch (==9.9.0)", "scipy ; extra == 'scipy'")
    monkeypatch.setattr("sys.path", [str(tmp_path)])
    found = software.read()
    assert found.packages == {
        "nvidia-dali-cuda130": "2.4.0",
        "nvidia-dali": "0.0.1.dev5",
        "torchvision": "9.9",
    }
    assert (found.torch_of_torchvision, found.needed) == ("==9.9.0", {})


def test_of_two_installations_the_one_that_is_imported_counts(tmp_path, monkeypatch):
    for folder, number in (("first", "2.15.0+cpu"), ("second", "2.15.0")):
        (tmp_path / folder).mkdir()
        distribution(tmp_path / folder, "torch", number)
    monkeypatch.setattr("sys.path", [str(tmp_path / "first"), str(tmp_path / "second")])
    assert software.read().packages == {"torch": "2.15.0+cpu"}


def test_what_fasticcl_needs_is_read_from_its_own_metadata():
    needed = software.read().needed
    assert [needed[name] for name in ("torch", "torchvision", "nvidia-dali-cuda120")] == [
        "2.11",
        "0.26",
        "2.4",
    ]
    assert "pytest" not in needed


def smi(monkeypatch, answer):
    def run(command, **_):
        assert command[0] == "nvidia-smi"
        if isinstance(answer, Exception):
            raise answer
        return subprocess.CompletedProcess(command, 0, stdout=answer)

    monkeypatch.setattr(subprocess, "run", run)


def test_driver_and_cards_are_those_of_nvidia_smi(monkeypatch):
    smi(monkeypatch, "525.60, NVIDIA A100-SXM4-40GB, 40960\n525.60, NVIDIA GB10, [N/A]\n")
    found = nvidia.read()
    assert found.driver == "525.60"  # and not 525.6
    assert found.cards == (Card("NVIDIA A100-SXM4-40GB", 40960), Card("NVIDIA GB10", 0))
    assert found.trouble == ""


@pytest.mark.parametrize(
    ("answer", "trouble"),
    [
        (FileNotFoundError(), ""),
        ("No devices were found\n", ""),
        (
            subprocess.CalledProcessError(18, "nvidia-smi", output="Failed to initialize NVML\nNVML: 580\n"),
            "Failed to initialize NVML",
        ),
        (subprocess.TimeoutExpired("nvidia-smi", 10), "Command 'nvidia-smi' timed out after 10 seconds"),
    ],
    ids=["missing", "no card", "refuses", "hangs"],
)
def test_an_nvidia_smi_that_names_no_card_is_told_apart(monkeypatch, answer, trouble):
    smi(monkeypatch, answer)
    found = nvidia.read()
    assert (found.cards, found.trouble) == ((), trouble)


def test_cards_on_the_bus_are_counted_without_other_vendors_and_without_sound(tmp_path):
    for place, vendor, kind in (
        ("a", "0x10de", "0x030200"),
        ("b", "0x10de", "0x030000"),
        ("c", "0x10de", "0x040300"),
        ("d", "0x8086", "0x030000"),
    ):
        (tmp_path / place).mkdir()
        (tmp_path / place / "vendor").write_text(f"{vendor}\n")
        (tmp_path / place / "class").write_text(f"{kind}\n")
    assert nvidia._on_bus(tmp_path) == 2
    assert nvidia._on_bus(tmp_path / "nowhere") == 0


@pytest.mark.parametrize("kind", ["x86_64 Kernel Module", "Open Kernel Module for x86_64"])
def test_the_kernel_names_the_driver_where_nvidia_smi_is_missing(tmp_path, kind):
    path = tmp_path / "version"
    path.write_text(f"NVRM version: NVIDIA UNIX {kind}  580.65.06  Release Build\nGCC version: gcc 13.2\n")
    assert nvidia._kernel_module(path) == "580.65.06"
    assert nvidia._kernel_module(tmp_path / "none") == ""


def test_sound_shards_are_sampled_and_read(digit_shards):
    found = stored_shards.read(digit_shards)
    assert (found.problem, found.dataset) == ("", "demo")
    assert (found.images, found.shards) == (392 + 359, 4 + 4)
    assert found.sampled == 400
    index = np.load(digit_shards / "train" / "index.npy")
    assert (found.reading.images, found.reading.bytes) == (392, index["size"].sum())


@pytest.fixture
def copied(photo_shards, tmp_path):
    subprocess.run(["cp", "-r", photo_shards, tmp_path / "shards"], check=True)
    return tmp_path / "shards"


def test_an_image_that_changed_is_found_and_named(copied):
    index = np.load(copied / "val" / "index.npy")
    path = copied / "val" / "shard-000000.tar"
    content = bytearray(path.read_bytes())
    content[int(index["offset"][0]) + 100] ^= 1
    path.write_bytes(content)
    found = stored_shards.read(copied)
    assert found.problem.startswith("changed since the conversion: val/shard-000000.tar:")
    assert found.reading is None


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("manifest.json", b"{}", "manifest.json is damaged"),
        ("train/index.npy", b"", "index.npy is missing or damaged"),
        ("train/shard-000001.tar", b"short", "shard-000001.tar is missing or was changed"),
    ],
)
def test_what_does_not_fit_the_manifest_is_named(copied, name, content, problem):
    (copied / name).write_bytes(content)
    assert problem in stored_shards.read(copied).problem


def test_a_folder_without_shards_is_named(tmp_path):
    assert (
        stored_shards.read(tmp_path / "nowhere").problem == f"There are no shards in {tmp_path / 'nowhere'}."
    )
