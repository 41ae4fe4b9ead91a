"""Preview images of `fasticcl show --samples`, compared with training batches."""

import numpy as np
import pytest
import torch
from PIL import Image

import fasticcl
from fasticcl.data.loader import Loader, draw_stream
from fasticcl.data.plan import Plan
from fasticcl.data.preview import write_samples
from fasticcl.errors import UserError
from fasticcl.resolve import resolve
from fasticcl.shards.reader import Shards


def test_drawn_stream_equals_the_stream_of_the_mixed_batch(photo_shards):
    config = fasticcl.configure("folder", data=photo_shards, set={"data.image_size": 64})
    shards = Shards(photo_shards, "train")
    plan = Plan(shards.index, shards.counts, config.data, batch_size=6, seed=3)
    batch = next(Loader(shards, plan, threads=1).batches("interpolative"))
    drawn = plan.batch("interpolative", 0, 0)
    x_h, x_t = (draw_stream(shards, stream, config.data) for stream in (drawn.agnostic, drawn.aware))
    assert torch.equal(x_h.x, batch.x_h)
    assert torch.equal(x_t.y, batch.y_t)
    lam = batch.lam.reshape(-1, 1, 1, 1)
    assert torch.allclose(lam * x_h.x + (1 - lam) * x_t.x, batch.x_f, atol=2e-5)


def test_preview_shows_the_pixels_of_a_training_batch(digit_shards, tmp_path):
    fasticcl.show(digit_shards, samples=tmp_path / "preview.png", seed=5)
    preview = np.asarray(Image.open(tmp_path / "preview.png"))
    config = fasticcl.configure("demo", data=digit_shards, seed=5)
    shards = Shards(digit_shards, "train")
    plan = Plan(shards.index, shards.counts, config.data, batch_size=8, seed=5)
    batch = next(Loader(shards, plan, threads=1).batches("interpolative"))
    pixels = ((batch.x_f[0].permute(1, 2, 0).numpy() * config.data.std + config.data.mean) * 255).round()
    enlarged = np.kron(pixels.clip(0, 255).astype(np.uint8), np.ones((8, 8, 1), np.uint8))
    windows = np.lib.stride_tricks.sliding_window_view(preview, enlarged.shape)[:, :, 0]
    assert (np.abs(windows[:, 8].astype(int) - enlarged).max(axis=(1, 2, 3)) <= 1).any()


def test_preview_of_cutmix_differs_in_its_mixed_images(digit_shards, tmp_path):
    previews = []
    for mixing in ("mixup", "cutmix"):
        file = tmp_path / f"{mixing}.png"
        fasticcl.show(digit_shards, samples=file, seed=5, set={"data.mixing": mixing})
        previews.append(np.asarray(Image.open(file)))
    third = previews[0].shape[0] // 3
    assert np.array_equal(*[preview[: 2 * third - 8] for preview in previews])
    assert not np.array_equal(*[preview[2 * third + 26 :] for preview in previews])  # below the title


def test_preview_without_mixed_images_is_an_error(digit_shards, tmp_path):
    settings = {"data.mixing": "none", "method.mixup_after": "stage1"}
    with pytest.raises(UserError, match=r"no mixed images to preview\. Use data.mixing=mixup"):
        fasticcl.show(digit_shards, samples=tmp_path / "preview.png", set=settings)
    assert not (tmp_path / "preview.png").exists()


def test_preview_depends_only_on_the_seed(digit_shards, tmp_path):
    for name, seed in (("one", 1), ("again", 1), ("other", 2)):
        fasticcl.show(digit_shards, samples=tmp_path / f"{name}.png", seed=seed)
    one, again, other = ((tmp_path / f"{name}.png").read_bytes() for name in ("one", "again", "other"))
    assert one == again != other


def test_preview_of_a_run_that_resamples_from_the_start_shows_resampled_images(digit_shards, tmp_path):
    files = []
    for start in (0, 1):
        config = resolve("demo", options={"data": {"dir": digit_shards, "resample_start": start}})
        files.append(tmp_path / f"{start}.png")
        write_samples(config, files[-1], pairs=2)
    assert files[0].read_bytes() != files[1].read_bytes()


def test_preview_that_cannot_be_written_gives_an_error_with_its_path(digit_shards, tmp_path):
    with pytest.raises(UserError, match=r"Cannot write .*nowhere/preview\.png: No such file"):
        fasticcl.show(digit_shards, samples=tmp_path / "nowhere" / "preview.png")
