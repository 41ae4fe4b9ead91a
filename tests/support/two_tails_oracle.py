"""BBN with ResNet-8 in float64: the forward passes of training and evaluation, without modules.

The weights are the tensors of a state dict by name. Batch statistics are those of the given images.
"""

import torch
from torch.nn import functional as F


def weight_of_conventional_tail(epoch, epochs):
    """Return α of an epoch, counted from 1, as in the official code (lib/core/combiner.py)."""
    divisor = 100 * (epochs // 100 + 1) if epochs in (90, 180) else epochs
    return 1 - ((epoch - 1) / divisor) ** 2


def training_logits(state, x_h, x_t, alpha):
    """Return the mixed logits [B, K] for an image of each stream."""
    weights = {name: value.double() for name, value in state.items()}
    f_h = _features(weights, "conventional", x_h.double())
    f_t = _features(weights, "rebalancing", x_t.double())
    classes, bias = weights["classifier.weight"], weights["classifier.bias"]
    half = classes.shape[1] // 2
    return 2 * alpha * f_h @ classes[:, :half].T + 2 * (1 - alpha) * f_t @ classes[:, half:].T + bias


def training_loss(logits, y_h, y_t, alpha):
    """Return the mean of the mixed cross-entropies."""
    log_p = logits - torch.logsumexp(logits, dim=1, keepdim=True)
    rows = torch.arange(len(logits))
    return -(alpha * log_p[rows, y_h] + (1 - alpha) * log_p[rows, y_t]).mean()


def _features(weights, tail, x):
    x = F.relu(
        _normalise(
            weights, "encoder.trunk.stem.1", F.conv2d(x, weights["encoder.trunk.stem.0.weight"], padding=1)
        )
    )
    for name, stride in (("trunk.stage1.0", 1), ("trunk.stage2.1", 2), (tail, 2)):
        x = _block(weights, f"encoder.{name}", x, stride)
    return x.mean(dim=(2, 3))


def _block(weights, name, x, stride):
    out = F.conv2d(x, weights[f"{name}.conv1.weight"], stride=stride, padding=1)
    out = F.relu(_normalise(weights, f"{name}.bn1", out))
    out = _normalise(weights, f"{name}.bn2", F.conv2d(out, weights[f"{name}.conv2.weight"], padding=1))
    shortcut, added = x[:, :, ::stride, ::stride], out.shape[1] - x.shape[1]
    zeros = out.new_zeros(len(out), added // 2, *out.shape[2:])
    return F.relu(out + torch.cat([zeros, shortcut, zeros], dim=1))


def _normalise(weights, name, x):
    mean, variance = x.mean(dim=(0, 2, 3), keepdim=True), x.var(dim=(0, 2, 3), correction=0, keepdim=True)
    scale, shift = (weights[f"{name}.{key}"].view(1, -1, 1, 1) for key in ("weight", "bias"))
    return scale * (x - mean) / (variance + 1e-5).sqrt() + shift
