"""Centroid updates (equation 1) with and without normalisation, compared with float64 references."""

import io
from itertools import chain

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from fasticcl.method.centroids import CentroidBank
from fasticcl.method.losses import centroid_contrastive
from tests.support import oracle

CLASSES, DIM = 4, 3
BATCHES = st.lists(st.lists(st.integers(0, CLASSES - 1), min_size=1, max_size=12), min_size=1, max_size=5)
MOMENTA = st.sampled_from([0.0, 0.1, 0.5, 0.9, 0.99, 0.999]) | st.floats(0, 0.999)
fixed = settings(derandomize=True, deadline=None, max_examples=40)


def embeddings(y, seed=0):
    """Return one random unit vector per entry of ``y``."""
    rng = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(len(y), DIM, generator=rng), dim=1)


def bank_after(batches, **arguments):
    """Return a bank updated with batches of (z, y)."""
    bank = CentroidBank(CLASSES, DIM, **arguments)
    for z, y in batches:
        bank.update(z, torch.as_tensor(y))
    return bank


def with_embeddings(batches):
    return [(embeddings(y, seed), y) for seed, y in enumerate(batches)]


def one_at_a_time(batches, m):
    centroids = np.zeros((CLASSES, DIM))
    for z, y in batches:
        centroids = oracle.centroid_ema(centroids, z, y, m)
    return centroids


@fixed
@given(BATCHES, MOMENTA)
def test_batch_update_equals_equation_1_applied_sample_by_sample(batches, m):
    batches = with_embeddings(batches)
    value = bank_after(batches, momentum=m).value
    # The centroids are proportional to 1 - m, so the tolerance is too.
    np.testing.assert_allclose(value, one_at_a_time(batches, m), rtol=1e-5, atol=3e-6 * (1 - m))


@fixed
@given(BATCHES)
def test_centroids_do_not_depend_on_the_division_into_batches(batches):
    batches = with_embeddings(batches)
    whole = [(torch.cat([z for z, _ in batches]), [*chain(*(y for _, y in batches))])]
    for norm in ("none", "bias_corrected"):
        in_parts, at_once = (bank_after(b, momentum=0.9, norm=norm).value for b in (batches, whole))
        torch.testing.assert_close(in_parts, at_once)


def test_last_sample_of_a_class_has_the_largest_weight():
    y = [2, 0, 2, 2]
    z = embeddings(y)
    value = bank_after([(z, y)], momentum=0.9).value
    torch.testing.assert_close(value[2], 0.1 * (0.81 * z[0] + 0.9 * z[2] + z[3]))


@pytest.mark.parametrize("norm", ["none", "l2", "bias_corrected"])
def test_centroids_start_at_zero(norm):
    assert torch.equal(CentroidBank(CLASSES, DIM, norm=norm).value, torch.zeros(CLASSES, DIM))


@pytest.mark.parametrize("norm", ["none", "bias_corrected"])
def test_classes_outside_the_batch_keep_their_centroids_exactly(norm):
    bank = bank_after(with_embeddings([[0, 1, 1, 3]]), norm=norm)
    before = bank.value.clone()
    bank.update(embeddings([1, 1, 2]), torch.tensor([1, 1, 2]))
    changed = (bank.value != before).any(dim=1)
    assert changed.tolist() == [False, True, True, False]


@fixed
@given(BATCHES, MOMENTA)
def test_l2_gives_unit_vectors_for_seen_classes_and_zeros_for_unseen(batches, m):
    seen = torch.tensor([any(k in y for y in batches) for k in range(CLASSES)])
    norms = bank_after(with_embeddings(batches), momentum=m, norm="l2").value.norm(dim=1)
    torch.testing.assert_close(norms, seen.float())


@fixed
@given(BATCHES, MOMENTA)
def test_l2_normalises_after_every_update_and_not_only_when_read(batches, m):
    batches, expected = with_embeddings(batches), np.zeros((CLASSES, DIM))
    for z, y in batches:
        expected = oracle.centroid_ema(expected, z, y, m)
        norms = np.linalg.norm(expected, axis=1, keepdims=True)
        expected = np.divide(expected, norms, where=norms > 0, out=np.zeros_like(expected))
    np.testing.assert_allclose(bank_after(batches, momentum=m, norm="l2").value, expected, atol=1e-4)


@fixed
@given(BATCHES, MOMENTA)
def test_bias_correction_divides_by_one_minus_momentum_to_the_count(batches, m):
    batches = with_embeddings(batches)
    counts = np.bincount([*chain(*(y for _, y in batches))], minlength=CLASSES)
    expected = one_at_a_time(batches, m)
    for k in np.flatnonzero(counts):
        expected[k] /= 1 - m ** counts[k]
    value = bank_after(batches, momentum=m, norm="bias_corrected").value
    np.testing.assert_allclose(value, expected, atol=2e-4)  # 1 - m^n is imprecise in float32 for m near 1


@pytest.mark.parametrize("batches", [[[1]], [[1, 1]], [[1], [1]], [[1, 0, 1], [1]]], ids=str)
def test_bias_corrected_centroid_of_a_constant_embedding_is_that_embedding(batches):
    constant = torch.tensor([0.6, 0.0, -0.8])
    bank = bank_after([(constant.repeat(len(y), 1), y) for y in batches], norm="bias_corrected")
    torch.testing.assert_close(bank.value[1], constant, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("norm", ["none", "l2", "bias_corrected"])
def test_loss_computed_before_an_update_uses_the_old_centroids(norm):
    y = torch.tensor([0, 1, 1, 3])
    gradients = []
    for updated in (False, True):
        bank = bank_after(with_embeddings([[0, 1, 2, 3]]), momentum=0.5, norm=norm)
        z = embeddings(y, seed=9).requires_grad_()
        loss = centroid_contrastive(z, bank.value, y, 0.3)
        if updated:
            bank.update(z, y)
        loss.backward()
        gradients.append(z.grad)
    assert gradients[0].abs().max() > 0
    assert torch.equal(*gradients)


def test_update_records_no_gradient_and_centroids_stay_float32():
    bank = CentroidBank(CLASSES, DIM)
    bank.update(embeddings([0, 1]).bfloat16().requires_grad_(), torch.tensor([0, 1]))
    assert not bank.value.requires_grad
    assert bank.value.dtype == torch.float32


class FloatSums(TorchDispatchMode):
    """Record matrix products and the operators that add floats in no fixed order on a GPU."""

    ATOMIC = ("index_add", "scatter_add", "scatter_reduce", "index_reduce", "index_put", "put", "bincount")

    def __init__(self):
        super().__init__()
        self.atomic, self.products = [], []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        floats = [each for each in args if isinstance(each, torch.Tensor) and each.is_floating_point()]
        if floats and name.strip("_").startswith(self.ATOMIC):
            self.atomic.append(name)
        if name in ("mm", "addmm", "bmm"):
            self.products.append({each.dtype for each in floats})
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("norm", ["none", "l2", "bias_corrected"])
def test_update_adds_embeddings_in_a_fixed_order_and_in_float64(norm):
    """On a GPU, atomic additions differ between ranks, and autocast and TF32 round float32 products."""
    bank = CentroidBank(CLASSES, DIM, norm=norm)
    z, y = embeddings([0, 1, 1, 3]), torch.tensor([0, 1, 1, 3])
    with FloatSums() as sums, torch.autocast("cpu", torch.bfloat16):
        bank.update(z, y)
        assert (sums.atomic, sums.products) == ([], [{torch.float64}])
        torch.zeros(CLASSES, DIM).index_add_(0, y, z)  # the mode sees such an operator
        torch.zeros(CLASSES, DIM).scatter_add_(0, y[:, None].expand(-1, DIM), z)
    assert sums.atomic == ["index_add_", "scatter_add_"]


@pytest.mark.parametrize("norm", ["none", "l2", "bias_corrected"])
def test_update_is_traced_as_one_graph_and_gives_the_same_bits(norm):
    compiled, eager = (CentroidBank(CLASSES, DIM, norm=norm) for _ in range(2))
    update = torch.compile(compiled.update, backend="aot_eager", fullgraph=True)
    for z, y in with_embeddings([[0, 1, 1, 3], [3, 3, 2, 3]]):
        update(z, torch.tensor(y))
        eager.update(z, torch.tensor(y))
    assert torch.equal(compiled.value, eager.value)
    assert torch.equal(compiled.counts, eager.counts)


@pytest.mark.parametrize("momentum", [-0.1, 1.0, 1.5, float("nan")])
def test_a_momentum_outside_0_to_1_is_refused(momentum):
    with pytest.raises(ValueError, match="momentum"):
        CentroidBank(CLASSES, DIM, momentum=momentum)


def test_unknown_norm_is_rejected():
    with pytest.raises(ValueError, match=r"norm .* 'L2'"):
        CentroidBank(CLASSES, DIM, norm="L2")


@pytest.mark.parametrize("norm", ["none", "l2", "bias_corrected"])
def test_restored_bank_continues_like_the_original(norm):
    first, second = (
        bank_after(with_embeddings([[0, 1, 1, 3]]), norm=norm),
        CentroidBank(CLASSES, DIM, norm=norm),
    )
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(second.value, first.value)
    for bank in (first, second):
        bank.update(embeddings([1, 2], seed=5), torch.tensor([1, 2]))
    assert torch.equal(second.value, first.value)
