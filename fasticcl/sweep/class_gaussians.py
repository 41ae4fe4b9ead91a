"""Gaussian model of the features of each class, and the accuracy of classifiers on images drawn from it."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import nn

_DRAWN = 20_000
"""Features drawn in total, at least. The standard error of the accuracy is at most 0.35 points."""
_DRAWN_PER_CLASS = 10
_BLOCK = 4096
"""Features drawn at a time: 64 MiB in float64 with 2048 numbers each."""


@dataclass(frozen=True)
class ClassGaussians:
    """Normal distribution of the features of a new image of each class.

    Class k has the mean m_k of its n_k training images. All classes share one covariance Σ, pooled over the
    images of all classes, because a few images do not determine one of their own. The distribution of a new
    image is N(m_k, (1 + 1/n_k)·Σ): the second term is the variance of the mean m_k itself.

    A classifier that has memorised the images of a small class is therefore not rewarded for it: the drawn
    features spread as far as those of the large classes do, and further if n_k is small.
    """

    mean: torch.Tensor
    """[C, d_g] mean of each class with images, float64."""
    factor: torch.Tensor
    """[d_g, d_g] A with A·Aᵀ = Σ, float64."""
    counts: torch.Tensor
    """[C] images n_k of these classes."""
    classes: torch.Tensor
    """[C] the classes with images."""

    @classmethod
    def fit(
        cls, features: Iterable[tuple[torch.Tensor, torch.Tensor]], num_classes: int
    ) -> "ClassGaussians | None":
        """Return the Gaussians of batches of features [B, d_g] and classes [B], on the CPU.

        Return None if there is no covariance, because no class has two images, or if features are not
        finite, because the encoder diverged.
        """
        counts = torch.zeros(num_classes, dtype=torch.float64)
        sums = squares = None
        for x, y in features:
            x = x.double()
            if sums is None or squares is None:
                sums, squares = x.new_zeros(num_classes, x.shape[1]), x.new_zeros(x.shape[1], x.shape[1])
            counts.index_add_(0, y, torch.ones(len(y), dtype=torch.float64))
            sums.index_add_(0, y, x)
            squares += x.T @ x
        classes = counts.nonzero().squeeze(1)
        freedom = counts.sum() - len(classes)
        if sums is None or squares is None or freedom <= 0:
            return None
        counts = counts[classes]
        mean = sums[classes] / counts[:, None]
        covariance = (squares - mean.T @ (counts[:, None] * mean)) / freedom
        if not covariance.isfinite().all():
            return None
        values, vectors = torch.linalg.eigh((covariance + covariance.T) / 2)
        return cls(mean, vectors * values.clamp(min=0).sqrt(), counts, classes)

    def accuracies(self, classifiers: Sequence[nn.Module], device: torch.device) -> list[float]:
        """Return the mean per-class accuracy of each classifier on drawn features, in percent.

        The same features are drawn in every call. Every class has the same number, so this is the fraction of
        correctly classified features.

        Args:
            classifiers: classifiers in evaluation mode.
            device: device of the classifiers.
        """
        correct, total = torch.zeros(len(classifiers), dtype=torch.int64), 0
        with torch.no_grad():
            for features, classes in self._draw():
                x, y = features.to(device), classes.to(device)
                for number, classifier in enumerate(classifiers):
                    correct[number] += (classifier(x).argmax(dim=1) == y).sum().cpu()
                total += len(y)
        return (100 * correct.double() / total).tolist()

    def _draw(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield blocks of features [B, d_g], float32, and their classes [B]."""
        generator = torch.Generator().manual_seed(0)
        per_class = max(_DRAWN_PER_CLASS, -(-_DRAWN // len(self.classes)))
        spread = (1 + 1 / self.counts).sqrt()
        for rows in torch.arange(len(self.classes)).repeat_interleave(per_class).split(_BLOCK):
            noise = torch.randn(len(rows), len(self.factor), generator=generator, dtype=torch.float64)
            features = self.mean[rows] + spread[rows, None] * (noise @ self.factor.T)
            yield features.float(), self.classes[rows]
