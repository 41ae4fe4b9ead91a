"""The version of fasticcl and of the packages that it uses."""

from importlib.metadata import PackageNotFoundError, version

__version__ = "0.1.0"


def package_version(name: str) -> str | None:
    """Return the installed version of a distribution package, or None if it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None
