"""Versions and requirements from the metadata of installed packages."""

from fasticcl.doctor.host import read_software


def write_metadata(folder, name, version, *requirements):
    path = folder / f"{name}-{version}.dist-info" / "METADATA"
    path.parent.mkdir()
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    path.write_text("\n".join([*lines, *(f"Requires-Dist: {text}" for text in requirements)]) + "\n")


def test_package_names_are_normalised(tmp_path, monkeypatch):
    write_metadata(tmp_path, "nvidia_dali_cuda130", "2.4.0")
    write_metadata(tmp_path, "NVIDIA.DALI", "0.0.1.dev5")
    write_metadata(tmp_path, "torchvision", "9.9", "numpy", "torch (==9.9.0)", "scipy ; extra == 'scipy'")
    monkeypatch.setattr("sys.path", [str(tmp_path)])
    software = read_software()
    assert software.packages == {
        "nvidia-dali-cuda130": "2.4.0",
        "nvidia-dali": "0.0.1.dev5",
        "torchvision": "9.9",
    }
    assert (software.torch_required_by_torchvision, software.minimum_versions) == ("==9.9.0", {})


def test_first_of_two_installations_is_reported(tmp_path, monkeypatch):
    for folder, version in (("first", "2.15.0+cpu"), ("second", "2.15.0")):
        (tmp_path / folder).mkdir()
        write_metadata(tmp_path / folder, "torch", version)
    monkeypatch.setattr("sys.path", [str(tmp_path / "first"), str(tmp_path / "second")])
    assert read_software().packages == {"torch": "2.15.0+cpu"}


def test_minimum_versions_are_those_of_the_fasticcl_metadata():
    minimums = read_software().minimum_versions
    packages = ("torch", "torchvision", "nvidia-dali-cuda120")
    assert [minimums[name] for name in packages] == ["2.11", "0.26", "2.4"]
    assert "pytest" not in minimums
