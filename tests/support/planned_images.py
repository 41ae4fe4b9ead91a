"""Plans on stored images, and the images that Pillow and torchvision produce from them."""

import io

import torch
from PIL import Image
from torchvision.transforms import functional as F

from fasticcl.config import Data
from fasticcl.data.plan import Plan
from fasticcl.shards.reader import Shards

PHOTOS = {"dataset": "folder", "dir": "unused", "image_size": 96, "eval_resize": 112}
SMALL = {
    "dataset": "folder",
    "dir": "unused",
    "image_size": 32,
    "crop": "pad",
    "crop_padding": 4,
    "eval_resize": 0,
}


def expected_image(shards, stream, i, data, offset=(0, 0)):
    """Return image i of a planned stream, transformed by Pillow and torchvision, in [0, 1]."""
    image = Image.open(io.BytesIO(shards.read(stream.rows[i : i + 1])[0].tobytes())).convert("RGB")
    top, left, height, width = (int(value) for value in stream.windows[i])
    image = F.crop(image, top, left, height, width)
    image = F.resize(image, [int(side) for side in stream.sizes[i]])
    top, left = (int(cut + shift) for cut, shift in zip(stream.cuts[i], offset, strict=True))
    image = F.crop(image, top, left, data.image_size, data.image_size)  # pads with black beyond the edge
    if any(data.color_jitter):
        brightness, contrast, saturation = (float(factor) for factor in stream.colors[i])
        image = F.adjust_brightness(image, brightness)
        image = F.adjust_contrast(image, contrast)
        image = F.adjust_saturation(image, saturation)
    if stream.flips[i]:
        image = F.hflip(image)
    return F.to_tensor(image)


def with_boxes(images, others, boxes):
    """Return arrays [B, H, W, ...] with the boxes [B, 4] of other arrays, by a loop over the pixels."""
    pasted = images.clone()
    for image, other, (top, left, height, width) in zip(pasted, others, boxes.tolist(), strict=True):
        for y in range(top, top + height):
            for x in range(left, left + width):
                image[y, x] = other[y, x]
    return pasted


def denormalise(images, data):
    mean, std = (torch.tensor(values)[:, None, None] for values in (data.mean, data.std))
    return images * std + mean


def open_plan(folder, batch_size=8, resample_epoch=None, **settings):
    shards = Shards(folder, "train")
    data = Data(**settings)
    options = {"batch_size": batch_size, "seed": 3, "resample_epoch": resample_epoch}
    return shards, data, Plan(shards.index, shards.counts, data, **options)
