"""Sizes of the batches behind a figure."""

from dataclasses import asdict, dataclass
from typing import Any

from fasticcl.plural import counted


@dataclass(frozen=True)
class Sizes:
    """The sizes on which a throughput depends."""

    batch_size: int
    """Pairs or images in a batch, or images in a conversion."""
    pairs: bool = False
    """True if the batch consists of pairs, of which both images are counted."""
    image_size: int | None = None
    """Side of the images that the network gets, in pixels. None if none are prepared."""
    encoder: str | None = None
    """None if no network is involved."""

    def describe(self) -> str:
        """Return the sizes in a few words, for example ``224 px, 256 pairs, resnet50``."""
        batch = counted(self.batch_size, "pair" if self.pairs else "image")
        side = "" if self.image_size is None else f"{self.image_size} px"
        return ", ".join(filter(None, (side, batch, self.encoder)))

    def to_dict(self) -> dict[str, Any]:
        """Return the sizes that apply, for JSON."""
        return {name: value for name, value in asdict(self).items() if value is not None}
