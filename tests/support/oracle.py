"""Equations 1 to 9 of the ICCL paper in float64 NumPy, without optimisations.

Classes count from 0. The paper sums the losses over the samples. Here, as in the package, they are means.
λ is a number or one number per sample.
"""

import numpy as np


def centroid_ema(centroids, z, y, m):
    """Equation 1: the centroids after the samples have updated them one after another."""
    centroids = _f64(centroids).copy()
    for z_i, y_i in zip(_f64(z), _classes(y), strict=True):
        centroids[y_i] = m * centroids[y_i] + (1 - m) * z_i
    return centroids


def class_probabilities(counts, gamma):
    """Equation 2: p(k), the probability that the class-aware sampler draws class k."""
    weights = np.array([(1 / n_k) ** gamma for n_k in _f64(counts)])
    return weights / weights.sum()


def interpolate(x_h, x_t, lam):
    """Equation 3: x^f, image by image."""
    lam = _per_sample(lam, len(x_h))
    pairs = zip(lam, _f64(x_h), _f64(x_t), strict=True)
    return np.array([lam_i * h_i + (1 - lam_i) * t_i for lam_i, h_i, t_i in pairs])


def retrieval_probabilities(z, centroids, tau):
    """Equation 4: p(c^k | x_i^f), one row per embedding, one column per centroid."""
    return np.exp([_log_softmax(_similarities(z_i, centroids, tau)) for z_i in _f64(z)])


def interpolative_centroid_contrastive(z, centroids, y_h, y_t, lam, tau):
    """Equation 5: L_cc^it."""
    logits = [_similarities(z_i, centroids, tau) for z_i in _f64(z)]
    return interpolative_cross_entropy(logits, y_h, y_t, lam)


def centroid_contrastive(z, centroids, y, tau):
    """L_cc of the warm-up (section 4.3): the negative logarithm of equation 4 for a plain image."""
    return cross_entropy([_similarities(z_i, centroids, tau) for z_i in _f64(z)], y)


def cross_entropy(logits, y):
    """Equation 6: L_ce."""
    return np.mean([-_log_softmax(o_i)[y_i] for o_i, y_i in zip(_f64(logits), _classes(y), strict=True)])


def interpolative_cross_entropy(logits, y_h, y_t, lam):
    """Equation 7: L_ce^it."""
    logits = _f64(logits)
    terms = []
    for o_i, h_i, t_i, lam_i in zip(
        logits, _classes(y_h), _classes(y_t), _per_sample(lam, len(logits)), strict=True
    ):
        log_p = _log_softmax(o_i)
        terms.append(-lam_i * log_p[h_i] - (1 - lam_i) * log_p[t_i])
    return np.mean(terms)


def total(ce, ce_it, cc_it, omega_u, omega_it):
    """Equation 8: L_total from the three losses."""
    return omega_u * ce + omega_it * (ce_it + cc_it)


def rebalance(student, teacher, y, omega_d, tau_d):
    """Equation 9: L_cb, where L_KL(p, q) = Σ p·log(p / q), p the teacher's and q the student's prediction."""
    terms = []
    for s_i, t_i, y_i in zip(_f64(student), _f64(teacher), _classes(y), strict=True):
        log_p, log_q = _log_softmax(t_i / tau_d), _log_softmax(s_i / tau_d)
        kl = sum(np.exp(a) * (a - b) for a, b in zip(log_p, log_q, strict=True))
        terms.append((1 - omega_d) * -_log_softmax(s_i)[y_i] + omega_d * tau_d**2 * kl)
    return np.mean(terms)


def _similarities(z_i, centroids, tau):
    return np.array([np.dot(z_i, c_k) / tau for c_k in _f64(centroids)])


def _log_softmax(o):
    # exp(o_k) / Σ_j exp(o_j) with both multiplied by exp(-max), which keeps float64 from overflowing.
    shifted = o - o.max()
    return shifted - np.log(np.exp(shifted).sum())


def _per_sample(lam, size):
    return np.broadcast_to(_f64(lam), size)


def _classes(y):
    return [int(y_i) for y_i in y]


def _f64(values):
    return np.asarray(values, dtype=np.float64)
