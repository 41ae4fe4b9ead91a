"""What doctor says of one thing."""

from dataclasses import asdict, dataclass
from typing import Literal

Status = Literal["ok", "warning", "error"]


@dataclass(frozen=True)
class Finding:
    """One line of ``fasticcl doctor``."""

    name: str
    """What was looked at."""
    status: Status
    """error: training does not work like this; warning: it does, less well."""
    found: str
    """What was found, with versions."""
    advice: str = ""
    """What to do; empty where all is well."""

    def to_dict(self) -> dict[str, str]:
        """Return it for JSON."""
        return asdict(self)
