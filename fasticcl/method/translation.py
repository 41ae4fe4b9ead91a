"""Major-to-minor translation: an image of a large class becomes one of a small class (M2m, Kim et al., 2020).

In a class-balanced batch, an image of class k is replaced with probability 1 - n_k / n_1, where n_1 is the
size of the largest class. Its replacement starts from another image of the batch, of a larger class k₀, and
follows the gradient of

    CE(g(x), k) + λ·f_k₀(x),

where g is a network trained before with cross-entropy (the seed network), and f is the network in training,
whose logit of the class k₀ decreases. Both networks are in evaluation mode. The result is accepted with
probability 1 - β^(n_k₀ - n_k), if g assigns it the class k with a probability of at least γ. Otherwise, the
batch keeps its own image.

The official code (alinlab/M2m, train.py and utils.py) differs from the paper or from this module in these
points:

- Its noise has an L2 norm of at most 0.5 for each channel of the whole batch instead of each image, because
  it passes ``dim=1`` to ``renorm``, and its components are uniform. Here, the noise of each image has this
  norm and a random direction.
- It translates images first and then draws whether they are accepted by β. Here, this is drawn first, and
  images that would be rejected are not translated. The accepted images are the same.
- It averages the objective over the images before it normalises the gradient of each, which only matters for
  gradients close to 0. Here, the objective is summed.
- The logit f_k₀ of its LDAM variant is the cosine without the scale s, which this package includes.
- It takes the first class as the largest one.

Pixels are between 0 and 1, and networks are functions of pixels.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from fasticcl.config import Method

Logits = Callable[[torch.Tensor], torch.Tensor]
"""A network in evaluation mode: pixels [B, 3, H, W] to logits [B, K]."""
_SMALLEST_NORM = 1e-10  # of a gradient, as in the official code


class Replacements(NamedTuple):
    """Images of a batch that are replaced, if their translation succeeds."""

    slots: NDArray[np.int64]
    """[S] positions of the replaced images, sorted. Their class is the target k."""
    sources: NDArray[np.int64]
    """[S] positions of the images that are translated. Their class is k₀."""


def acceptance(source: NDArray[np.integer], target: NDArray[np.integer], beta: float) -> NDArray[np.float64]:
    """Return 1 - β^max(n_k₀ - n_k, 0), with which images are chosen and accepted.

    Args:
        source: n_k₀.
        target: n_k.
        beta: β.
    """
    return 1 - beta ** np.maximum(source - target, 0).astype(np.float64)


def draw_replacements(
    labels: NDArray[np.integer], counts: NDArray[np.integer], beta: float, rng: np.random.Generator
) -> Replacements:
    """Draw the images of a batch to replace and the images to translate.

    An image to translate is drawn with a probability proportional to its acceptance. Pairs that are rejected
    by β, and images without one of a larger class in the batch, are not returned.

    Args:
        labels: [B] classes of the batch.
        counts: [K] training images per class.
        beta: β.
        rng: the generator. It draws three numbers for each image of the batch.
    """
    is_replaced, choice, coin = rng.random((3, len(labels)))
    sizes = counts[labels]
    slots = np.flatnonzero(is_replaced < 1 - sizes / counts.max())
    accepted = acceptance(sizes, sizes[slots, None], beta)  # [S, B]
    cumulative = accepted.cumsum(axis=1)
    # Without a larger class in the batch, this is an image that is never accepted.
    sources = (cumulative > choice[slots, None] * cumulative[:, -1:]).argmax(axis=1)
    kept = coin[slots] < accepted[np.arange(len(slots)), sources]
    return Replacements(slots[kept], sources[kept])


def draw_noise(shape: tuple[int, ...], norm: float, rng: np.random.Generator) -> NDArray[np.float32]:
    """Return noise [S, C, H, W] with a random direction and this L2 norm for each image."""
    noise = rng.standard_normal(shape, dtype=np.float32)
    return np.float32(norm) * noise / np.sqrt(np.square(noise).sum(axis=(1, 2, 3), keepdims=True))


def translate(
    pixels: torch.Tensor,
    source: torch.Tensor,
    target: torch.Tensor,
    seed_network: Logits,
    network: Logits,
    settings: Method,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Translate images from their class to another one.

    Args:
        pixels: [S, 3, H, W] images with noise, between 0 and 1.
        source: [S] their classes k₀.
        target: [S] the classes k.
        seed_network: g.
        network: f.
        settings: the section ``method``.

    Returns:
        The translated images [S, 3, H, W], and whether g is confident of their class k, [S].
    """
    for _ in range(settings.m2m_steps):
        pixels = pixels.detach().requires_grad_()
        cost = F.cross_entropy(seed_network(pixels), target, reduction="sum")
        cost = cost + settings.m2m_lambda * network(pixels).gather(1, source[:, None]).sum()
        (gradient,) = torch.autograd.grad(cost, pixels)
        norm = torch.linalg.vector_norm(gradient, dim=(1, 2, 3), keepdim=True)
        step = settings.m2m_step_size * gradient / norm.clamp(min=_SMALLEST_NORM)
        pixels = (pixels.detach() - step).clamp(0, 1)
    with torch.no_grad():
        probabilities = seed_network(pixels).softmax(dim=1).gather(1, target[:, None])[:, 0]
    return pixels, probabilities >= settings.m2m_confidence


class TranslationCost(NamedTuple):
    """Expected cost of the translation in a batch."""

    chosen: float
    """Fraction of the images to be replaced, before the rejection by β."""
    translated: float
    """Fraction of the images that are translated."""
    relative: float
    """Computation of a training step with translation, relative to one with cross-entropy."""


def translation_cost(
    counts: NDArray[np.integer], drawn: NDArray[np.float64], settings: Method
) -> TranslationCost:
    """Return the expected cost of the translation in a large batch.

    A backward pass to the weights and the input costs two forward passes, and one to the input costs one.

    Args:
        counts: [K] training images per class.
        drawn: [K] probabilities of the classes in a batch.
        settings: the section ``method``.
    """
    sizes, index = np.unique(counts, return_inverse=True)  # classes of equal size behave alike
    share = np.bincount(index.ravel(), weights=drawn)
    chosen = share * (1 - sizes / sizes.max())
    accepted = acceptance(sizes, sizes[:, None], settings.m2m_beta)  # [target, source]
    total = accepted @ share
    kept = np.divide(accepted**2 @ share, total, out=np.zeros_like(total), where=total > 0)
    translated = float(chosen @ kept)
    passes = settings.m2m_steps * 2 * 2 + 1  # two networks forward and backward, and g once more
    return TranslationCost(float(chosen.sum()), translated, 1 + translated * passes / 3)
