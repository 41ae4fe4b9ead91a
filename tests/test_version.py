"""Versions of the package and of other packages."""

from importlib.metadata import version

from fasticcl.version import __version__, package_version


def test_version_of_an_installed_package_is_returned():
    assert package_version("numpy") == version("numpy")
    assert package_version("fasticcl") == __version__


def test_missing_package_has_no_version():
    assert package_version("no-such-package-fasticcl") is None
