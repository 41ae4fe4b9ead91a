"""Loaders and training steps in plain torch and torchvision, as baselines for `gpu.py`."""

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, WeightedRandomSampler
from torchvision import transforms
from torchvision.datasets import ImageFolder
from torchvision.io import ImageReadMode, decode_jpeg

from fasticcl.data.batch import Batch, StreamBatch

LISTED = 50  # repetitions of each image in an epoch, so the end of an epoch hardly costs time
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
AHEAD = 2  # batches that each DataLoader worker prefetches


class EncodedFolder(Dataset):
    """Encoded bytes and label of each image of an ImageFolder."""

    def __init__(self, listed: ImageFolder) -> None:
        self.samples = listed.samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        path, label = self.samples[index]
        return torch.from_numpy(np.fromfile(path, dtype=np.uint8)), label


def unstacked(samples: list[tuple[torch.Tensor, int]]) -> tuple[list[torch.Tensor], torch.Tensor]:
    images, labels = zip(*samples, strict=True)
    return list(images), torch.tensor(labels)


def two_samplers(
    folder: Path, batch_size: int, workers: int, side: int, device: torch.device, encoded: bool
) -> Iterator[Batch]:
    """Yield batches of two zipped DataLoaders without end: one shuffled, one with balanced classes.

    If ``encoded``, the workers read bytes, and `decode_jpeg` decodes a batch on the device, where each
    image is cropped and resized. Otherwise Pillow and torchvision transforms run in the workers.
    """
    listed = ImageFolder(folder, None if encoded else transform(side))
    listed.samples = listed.samples * LISTED
    targets = np.array([label for _, label in listed.samples])
    weights = 1 / np.bincount(targets)[targets]
    balanced = WeightedRandomSampler(weights.tolist(), len(weights), replacement=True)
    common: dict[str, Any] = {
        "batch_size": batch_size,
        "num_workers": workers,
        "persistent_workers": workers > 0,
        "drop_last": True,
        "pin_memory": device.type == "cuda" and not encoded,
        "timeout": 60 if workers else 0,
        "collate_fn": unstacked if encoded else None,
        "prefetch_factor": AHEAD if workers else None,
    }
    images: Any = EncodedFolder(listed) if encoded else listed
    prepare = decoded if encoded else moved
    loaders = [DataLoader(images, shuffle=True, **common), DataLoader(images, sampler=balanced, **common)]
    while True:
        for (raw_h, y_h), (raw_t, y_t) in zip(*loaders, strict=True):
            x_h, x_t = (prepare(raw, side, device) for raw in (raw_h, raw_t))
            lam = torch.rand(1, device=device).expand(batch_size)
            weight = lam[:, None, None, None]
            x_f = weight * x_h + (1 - weight) * x_t
            yield Batch(x_h, y_h.to(device), x_f, y_t.to(device), lam)


def transform(side: int) -> transforms.Compose:
    return transforms.Compose(
        [
            transforms.RandomResizedCrop(side),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )


def moved(images: torch.Tensor, side: int, device: torch.device) -> torch.Tensor:
    assert images.shape[-1] == side  # cropped by the workers
    return images.to(device, non_blocking=True, memory_format=torch.channels_last)


def decoded(encoded: list[torch.Tensor], side: int, device: torch.device) -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torchvision 0.29 recommends another package
        images = decode_jpeg(encoded, mode=ImageReadMode.RGB, device=device)
    crop = transforms.RandomResizedCrop(side, antialias=True)
    flip = transforms.RandomHorizontalFlip()
    batch = torch.stack([flip(crop(image)) for image in images]).float() / 255
    mean, std = (torch.tensor(each, device=device)[:, None, None] for each in (MEAN, STD))
    return ((batch - mean) / std).contiguous(memory_format=torch.channels_last)


class EagerStep:
    """A plain step of the interpolative phase: float32, eager, with a loop over the samples.

    Args:
        encoder: name of a torchvision network.
        num_classes: K.
        device: device of the model.
        dim, temperature, momentum: d_z, τ and m.
    """

    def __init__(
        self,
        encoder: str,
        num_classes: int,
        device: torch.device,
        dim: int = 128,
        temperature: float = 0.07,
        momentum: float = 0.99,
    ) -> None:
        self.encoder = torchvision.models.get_model(encoder, weights=None)
        last = self.encoder.fc
        assert isinstance(last, torch.nn.Linear)
        width = last.in_features
        self.encoder.fc = torch.nn.Identity()
        self.classifier = torch.nn.Linear(width, num_classes)
        self.projection = torch.nn.Sequential(
            torch.nn.Linear(width, width), torch.nn.ReLU(), torch.nn.Linear(width, dim)
        )
        self.model = torch.nn.ModuleList([self.encoder, self.classifier, self.projection]).to(device).train()
        self.centroids = torch.zeros(num_classes, dim, device=device)
        self.temperature, self.momentum = temperature, momentum
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1e-6, momentum=0.9, weight_decay=5e-4)

    def __call__(self, batch: Batch) -> float:
        """Take a step and return the loss. The host waits for the device, as is common in research code."""
        logits_h, z_h = self._forward(batch.x_h)
        logits_f, z_f = self._forward(batch.x_f)
        similarity = z_f @ self.centroids.clone().T / self.temperature
        loss = F.cross_entropy(logits_h, batch.y_h)
        for logits in (logits_f, similarity):
            parts = [F.cross_entropy(logits, y, reduction="none") for y in (batch.y_h, batch.y_t)]
            loss = loss + (batch.lam * parts[0] + (1 - batch.lam) * parts[1]).mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        with torch.no_grad():
            for z, y in zip(z_h.detach(), batch.y_h.tolist(), strict=True):
                self.centroids[y] = self.momentum * self.centroids[y] + (1 - self.momentum) * z
        return loss.item()

    def _forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features = self.encoder(images)
        return self.classifier(features), F.normalize(self.projection(features), dim=1)


def plain_step(
    encoder: str, num_classes: int, device: torch.device, compiled: bool
) -> Callable[[StreamBatch], None]:
    """Return a step of a torchvision classifier in bfloat16 and channels_last, without a wait for the device.

    It is a bound for the step of any method with this network.
    """
    model = torchvision.models.get_model(encoder, weights=None, num_classes=num_classes)
    model = model.to(device).to(memory_format=torch.channels_last).train()
    forward = torch.compile(model) if compiled else model
    fused = device.type == "cuda"
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6, momentum=0.9, weight_decay=5e-4, fused=fused)

    def step(batch: StreamBatch) -> None:
        with torch.autocast(device.type, torch.bfloat16):
            logits = forward(batch.x)
        F.cross_entropy(logits.float(), batch.y).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step
