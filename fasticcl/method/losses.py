"""The losses of sections 3.3 to 3.6, computed in float32 and averaged over the batch.

Shapes: B samples, K classes, D embedding size. λ is a number, a scalar tensor or a tensor [B].
"""

import torch
from torch.nn import functional as F

from fasticcl.method.label_smoothing import smoothed_cross_entropy

Lambda = torch.Tensor | float


def cross_entropy(logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Return L_ce of equation 6 for logits [B, K] and classes y [B]."""
    return F.cross_entropy(logits.float(), y)


def interpolative_cross_entropy(
    logits: torch.Tensor, y_h: torch.Tensor, y_t: torch.Tensor, lam: Lambda
) -> torch.Tensor:
    """Return L_ce^it of equation 7 for the logits [B, K] of interpolative images.

    Args:
        logits: [B, K].
        y_h: [B] classes of the class-agnostic images.
        y_t: [B] classes of the class-aware images.
        lam: λ, the weight of the class-agnostic image.
    """
    return interpolated(-F.log_softmax(logits.float(), dim=1), y_h, y_t, lam)


def interpolated(costs: torch.Tensor, y_h: torch.Tensor, y_t: torch.Tensor, lam: Lambda) -> torch.Tensor:
    """Return the mean of λ·l(y_h) + (1 - λ)·l(y_t), where costs [B, K] are l for each class as the label."""
    cost_h = costs.gather(1, y_h[:, None]).squeeze(1)
    cost_t = costs.gather(1, y_t[:, None]).squeeze(1)
    return (lam * cost_h + (1 - lam) * cost_t).mean()


def centroid_logits(z: torch.Tensor, centroids: torch.Tensor, temperature: float) -> torch.Tensor:
    """Return z·c^k / τ, [B, K]: the logits of the retrieval probability of equation 4."""
    with torch.autocast(z.device.type, enabled=False):
        return z.float() @ centroids.detach().float().T / temperature


def centroid_contrastive(
    z: torch.Tensor, centroids: torch.Tensor, y: torch.Tensor, temperature: float
) -> torch.Tensor:
    """Return L_cc of the warm-up (section 4.3) for z [B, D], centroids [K, D] and classes y [B]."""
    return cross_entropy(centroid_logits(z, centroids, temperature), y)


def interpolative_centroid_contrastive(
    z: torch.Tensor,
    centroids: torch.Tensor,
    y_h: torch.Tensor,
    y_t: torch.Tensor,
    lam: Lambda,
    temperature: float,
) -> torch.Tensor:
    """Return L_cc^it of equation 5, in which the embedding of a mixed image retrieves both class centroids.

    Args:
        z: [B, D] embeddings of interpolative images.
        centroids: [K, D]. They receive no gradient.
        y_h: [B] classes of the class-agnostic images.
        y_t: [B] classes of the class-aware images.
        lam: λ, the weight of the class-agnostic image.
        temperature: τ.
    """
    return interpolative_cross_entropy(centroid_logits(z, centroids, temperature), y_h, y_t, lam)


def rebalance(
    student: torch.Tensor,
    teacher: torch.Tensor,
    y: torch.Tensor,
    weight: float,
    temperature: float,
    smoothing: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return L_cb of equation 9: (1 - ω_d)·L_ce + ω_d·τ_d²·KL(teacher ‖ student), softened by τ_d.

    Args:
        student: [B, K] logits o^S of the trained classifier.
        teacher: [B, K] logits o^T of the classifier of the representation stage. They receive no gradient.
        y: [B] classes.
        weight: ω_d.
        temperature: τ_d.
        smoothing: [K] factors ε_k of label-aware smoothing, which then replaces L_ce, or None.
    """
    target = F.log_softmax(teacher.detach().float() / temperature, dim=1)
    predicted = F.log_softmax(student.float() / temperature, dim=1)
    divergence = F.kl_div(predicted, target, reduction="batchmean", log_target=True)
    ce = cross_entropy(student, y) if smoothing is None else smoothed_cross_entropy(student, y, smoothing)
    return (1 - weight) * ce + weight * temperature**2 * divergence
