"""Device, sizes and scratch folder of the checks. Imports only the standard library."""

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Setup:
    """Input of every check."""

    device: str
    """``cpu`` or ``gpu``."""
    small: bool
    """If True, sizes are tiny and figures are meaningless."""
    folder: Path
    """Scratch folder, shared by all checks of a run."""
    decode_regions: bool = True
    """The setting ``data.decode_regions`` of all checks."""

    @property
    def gpu(self) -> int | None:
        """Device number for DALI, or None on the CPU."""
        return 0 if self.device == "gpu" else None

    @property
    def patience(self) -> float:
        """Factor of all time limits, which are chosen for a GPU machine."""
        return 1.0 if self.device == "gpu" else 10.0

    @property
    def assignments(self) -> list[str]:
        """Settings of every workload, as in ``--set``."""
        return [] if self.decode_regions else ["data.decode_regions=false"]

    def arguments(self) -> list[str]:
        """Return the command line from which `parse` restores this object."""
        flags = {"--small": self.small, "--whole-images": not self.decode_regions}
        given = [name for name, value in flags.items() if value]
        return ["--device", self.device, "--folder", str(self.folder), *given]

    @classmethod
    def from_options(cls, options: Namespace) -> "Setup":
        """Return the setup of a parsed command line."""
        return cls(options.device, options.small, options.folder, not options.whole_images)


def add_options(parser: ArgumentParser) -> None:
    """Add the options of `Setup.arguments` to a parser."""
    parser.add_argument("--device", choices=("gpu", "cpu"), default="gpu")
    parser.add_argument("--small", action="store_true", help="use tiny sizes")
    parser.add_argument("--whole-images", action="store_true", help="decode no regions of images")
    parser.add_argument("--folder", type=Path, required=True)


def parse(arguments: Sequence[str]) -> Setup:
    """Return the setup of a command line."""
    parser = ArgumentParser()
    add_options(parser)
    return Setup.from_options(parser.parse_args(arguments))
