"""A preview of the training images: a PNG of both streams and their mix, from the plan and the graph."""

from pathlib import Path

import matplotlib
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from fasticcl.config import Config
from fasticcl.data.batch import Batch, StreamBatch
from fasticcl.data.loader import Loader, draw_stream
from fasticcl.data.plan import Plan
from fasticcl.errors import UserError
from fasticcl.files import replacing
from fasticcl.shards.reader import Shards

_TILE = 128  # smallest side of an image in the preview, in pixels
_TEXT, _MARGIN = 18, 8
_FONT = Path(matplotlib.get_data_path(), "fonts/ttf/DejaVuSans.ttf")  # Pillow's default font has only ASCII
_LETTER = 8.5  # average width of a letter in pixels
_ROWS = ("class-agnostic x_h", "class-aware x_t")
_MIXED = {"mixup": "mixed x_f = λ x_h + (1 - λ) x_t", "cutmix": "mixed x_f: x_h with a box of x_t (CutMix)"}


def write_samples(config: Config, path: Path, pairs: int = 8) -> None:
    """Write a PNG with the first pairs of the interpolative phase, with x_h, x_t, x_f, λ and the classes.

    Args:
        config: images, settings and seed.
        path: the file to write.
        pairs: number of columns, at most the number of training images.

    Raises:
        UserError: the images are not mixed, or the file cannot be written.
    """
    if config.data.mixing == "none":
        raise UserError("With data.mixing=none there are no mixed images to preview. Use data.mixing=mixup.")
    shards = Shards(config.data.dir, "train")
    pairs = min(pairs, len(shards))
    plan = Plan(
        shards.index,
        shards.counts,
        config.data,
        batch_size=pairs,
        seed=config.engine.seed,
        resample_epoch=config.resample_epoch,
    )
    batch = next(iter(Loader(shards, plan, threads=config.engine.workers).batches("interpolative")))
    assert isinstance(batch, Batch), "the interpolative phase has two streams"
    drawn = plan.batch("interpolative", 0, 0)
    assert drawn.aware is not None, "the interpolative phase has two streams"
    x_t = draw_stream(shards, drawn.aware, config.data)
    try:
        with replacing(path) as file:
            _draw(config, shards.manifest.classes, batch, x_t).save(file, "PNG")
    except OSError as error:
        raise UserError(f"Cannot write {path}: {error.strerror}.") from None


def _draw(config: Config, classes: list[str], batch: Batch, aware: StreamBatch) -> Image.Image:
    names_h, names_t = ([classes[label] for label in y.tolist()] for y in (batch.y_h, batch.y_t))
    weights = [f"λ {lam:.2f}" for lam in batch.lam.tolist()]
    titles = (*_ROWS, _MIXED[config.data.mixing])
    rows = zip(titles, (batch.x_h, aware.x, batch.x_f), (names_h, names_t, weights), strict=True)
    scale = max(1, -(-_TILE // config.data.image_size))
    tile = scale * config.data.image_size
    width = _MARGIN + len(weights) * (tile + _MARGIN)
    height = len(titles) * (tile + 2 * _TEXT + _MARGIN) + _MARGIN
    canvas = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(canvas)
    font = ImageFont.truetype(_FONT, 13)
    for number, (title, images, captions) in enumerate(rows):
        top = _MARGIN + number * (tile + 2 * _TEXT + _MARGIN)
        pen.text((_MARGIN, top), title, "black", font)
        for column, (pixels, caption) in enumerate(zip(_pixels(images, config), captions, strict=True)):
            left = _MARGIN + column * (tile + _MARGIN)
            thumbnail = Image.fromarray(pixels).resize((tile, tile), Image.Resampling.NEAREST)
            canvas.paste(thumbnail, (left, top + _TEXT))
            pen.text((left, top + _TEXT + tile), caption[: int(tile / _LETTER)], "black", font)
    return canvas


def _pixels(images: torch.Tensor, config: Config) -> np.ndarray:
    """Return normalised images [B, 3, S, S] as pixels [B, S, S, 3]."""
    mean, std = torch.tensor(config.data.mean), torch.tensor(config.data.std)
    values = (images.permute(0, 2, 3, 1) * std + mean) * 255
    return values.round().clamp(0, 255).to(torch.uint8).numpy()
