"""Logits of classifiers in float64 NumPy, from their definitions and stored tensors."""

import numpy as np


def classifier_logits(state, features):
    """Return the logits [B, K] of features [B, d_g] for a state dict of a classifier."""
    state = {name: np.float64(value) for name, value in state.items()}
    features = np.float64(features)
    base = {name.removeprefix("base."): value for name, value in state.items() if name.startswith("base.")}
    if base:
        return state["scale"] * classifier_logits(base, features) + state["offset"]
    if "centroids" in state:
        return memory_logits(state, features)
    if "alpha" in state:
        return _causal_logits(state, features)
    if "mean" in state:  # -½‖f̂ - c_k‖² + ½
        units = _unit(features - state["mean"])
        distances = np.linalg.norm(units[:, None] - state["weight"][None], axis=2)
        return 0.5 - 0.5 * distances**2
    if "bias" in state:
        return features @ state["weight"].T + state["bias"]
    return state["scale"] * (_unit(features) @ _unit(state["weight"]).T)


def memory_logits(state, features):
    """Return the logits of a memory classifier, one sample after another."""
    rows = []
    for v in features:
        scores = np.exp(state["hallucinator.weight"] @ v + state["hallucinator.bias"])
        memory = sum(p * c for p, c in zip(scores / scores.sum(), state["centroids"], strict=True))
        selector = np.tanh(state["selector.weight"] @ v + state["selector.bias"])
        reach = 10 / min(np.linalg.norm(v - c) for c in state["centroids"])
        x = reach * (v + selector * memory)
        norm = np.linalg.norm(x)
        rows.append([16 * norm / (1 + norm) * (w @ x) / np.linalg.norm(w) / norm for w in state["weight"]])
    return np.array(rows)


def _causal_logits(state, features):
    """Return (τ/H) · Σ_h (f̂ - α·cos(f̂, m)·m̂)·w / (‖w‖ + γ), where each head has its part of all vectors."""
    heads, size = state["mean"].shape
    logits = 0
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        f, w, m = _unit(features[:, part]), state["weight"][:, part], state["mean"][head]
        cosines = f @ m / np.linalg.norm(m)
        effect = state["alpha"] * cosines[:, None] * m / np.linalg.norm(m)
        norms = np.linalg.norm(w, axis=1) + state["gamma"]
        logits = logits + (f - effect) @ w.T / norms
    return state["scale"] / heads * logits


def _unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)
