"""Classification losses and class weights in float64 NumPy, from their definitions.

The losses return costs [B, K]: the loss of each sample for each class as its label.
"""

import numpy as np


def cross_entropy(logits):
    return np.array([[_minus_log_p(z, y) for y in range(len(z))] for z in logits])


def focal(logits, gamma):
    """Return (1 - p_y)^γ · (-log p_y)."""
    return np.array(
        [[_one_minus_p(z, y) ** gamma * _minus_log_p(z, y) for y in range(len(z))] for z in logits]
    )


def sigmoid_focal(logits, gamma):
    """Return the sum over j of (1 - q_j)^γ · (-log q_j), where q_j is σ(z_j) for j = y, else 1 - σ(z_j)."""

    def cost(z, y):
        signed = np.where(np.arange(len(z)) == y, z, -z)
        return (np.exp(-gamma * np.logaddexp(0, signed)) * np.logaddexp(0, -signed)).sum()

    return np.array([[cost(z, y) for y in range(len(z))] for z in logits])


def ldam(logits, counts, margin, scale):
    """Return CE(s · (z - Δ_y · 1_y)) for logits that are already multiplied by s."""
    deltas = counts**-0.25
    deltas *= margin / deltas.max()
    one_hot = np.eye(len(counts))
    return np.array(
        [
            [_minus_log_p(scale * (z / scale - deltas[y] * one_hot[y]), y) for y in range(len(z))]
            for z in logits
        ]
    )


def logit_adjustment(logits, counts, tau):
    return cross_entropy(logits + tau * np.log(counts / counts.sum()))


def balanced_softmax(logits, counts):
    """Return -log of n_y·e^z_y / Σ_j n_j·e^z_j."""
    shifted = counts * np.exp(logits - logits.max(axis=1, keepdims=True))
    return -np.log(shifted / shifted.sum(axis=1, keepdims=True))


def class_weights(counts, beta):
    """Return the inverse effective numbers of samples, with the sum K."""
    effective = np.array([sum(beta**i for i in range(int(n))) for n in counts])
    return len(counts) / effective / (1 / effective).sum()


def _others(z, y):
    return np.logaddexp.reduce(np.delete(z, y))


def _minus_log_p(z, y):
    return np.logaddexp(0, _others(z, y) - z[y])


def _one_minus_p(z, y):
    return np.exp(_others(z, y) - np.logaddexp.reduce(z))
