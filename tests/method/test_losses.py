"""Values and gradients of equations 4 to 9 and the warm-up loss, compared with float64 references."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from fasticcl.method import losses
from tests.support import oracle

SHAPES = [(1, 2, 1), (1, 7, 4), (3, 2, 8), (16, 10, 32), (5, 100, 128)]  # B, K, D
TEMPERATURES = [0.07, 0.3, 1.0]
LAMBDAS = ["zero", "one", "number", "scalar", "per sample"]
NAMES = [
    "cross_entropy",
    "interpolative_cross_entropy",
    "centroid_contrastive",
    "interpolative_centroid_contrastive",
    "rebalance",
]
BF16 = {"device_type": "cpu", "dtype": torch.bfloat16}


@dataclass
class Inputs:
    """Inputs of the losses of one batch. z, centroids, logits and teacher require gradients."""

    z: torch.Tensor
    centroids: torch.Tensor
    logits: torch.Tensor
    teacher: torch.Tensor
    y_h: torch.Tensor
    y_t: torch.Tensor
    lam: torch.Tensor | float
    tau: float = 0.3
    omega_d: float = 0.5
    tau_d: float = 10.0

    def call(self, name, package, z, centroids, logits, teacher):
        """Call the loss ``name`` of ``package``, which is `losses` for tensors or `oracle` for arrays."""
        arguments = {
            "cross_entropy": (logits, self.y_h),
            "interpolative_cross_entropy": (logits, self.y_h, self.y_t, self.lam),
            "centroid_contrastive": (z, centroids, self.y_h, self.tau),
            "interpolative_centroid_contrastive": (z, centroids, self.y_h, self.y_t, self.lam, self.tau),
            "rebalance": (logits, teacher, self.y_h, self.omega_d, self.tau_d),
        }
        return getattr(package, name)(*arguments[name])

    def loss(self, name):
        return self.call(name, losses, self.z, self.centroids, self.logits, self.teacher)

    def expected(self, name, **replaced):
        leaves = (self.z, self.centroids, self.logits, self.teacher)
        names = ("z", "centroids", "logits", "teacher")
        arrays = {n: t.detach().double().numpy() for n, t in zip(names, leaves, strict=True)}
        return self.call(name, oracle, **{**arrays, **replaced})


def make_inputs(
    size=6, classes=5, dim=4, *, seed=0, scale=3.0, lam="per sample", dtype=torch.float32, **settings
):
    rng = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=rng)

    z = torch.nn.functional.normalize(normal(size, dim), dim=1)
    centroids = 0.8 * torch.nn.functional.normalize(normal(classes, dim), dim=1)
    logits, teacher = scale * normal(size, classes), scale * normal(size, classes)
    leaves = [t.to(dtype).requires_grad_() for t in (z, centroids, logits, teacher)]
    y_h, y_t = torch.randint(classes, (2, size), generator=rng)
    random = torch.rand(size, generator=rng)
    lam = {"zero": 0.0, "one": 1.0, "number": 0.3, "scalar": random[0], "per sample": random}[lam]
    return Inputs(*leaves, y_h, y_t, lam, **settings)


def close(expected):
    # The absolute tolerance covers losses near 0, which are differences of nearly equal float32 numbers.
    return pytest.approx(expected, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("tau", TEMPERATURES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equation_4_is_the_softmax_of_the_centroid_logits(shape, tau):
    inputs = make_inputs(*shape)
    loss = losses.centroid_logits(inputs.z, inputs.centroids, tau).softmax(dim=1)
    expected = oracle.retrieval_probabilities(inputs.z.detach(), inputs.centroids.detach(), tau)
    np.testing.assert_allclose(loss.detach(), expected, rtol=1e-5)


@pytest.mark.parametrize("lam", LAMBDAS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_every_loss_equals_its_equation(name, shape, lam):
    for seed in range(3):
        inputs = make_inputs(*shape, seed=seed, lam=lam)
        loss = inputs.loss(name)
        assert loss.shape == ()
        assert loss.item() == close(inputs.expected(name))


@pytest.mark.parametrize("tau", [0.01, *TEMPERATURES])
@pytest.mark.parametrize("name", ["centroid_contrastive", "interpolative_centroid_contrastive"])
def test_centroid_losses_equal_their_equations_at_every_temperature(name, tau):
    inputs = make_inputs(16, 10, 8, tau=tau)
    assert inputs.loss(name).item() == close(inputs.expected(name))


@pytest.mark.parametrize("omega_d", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("tau_d", [0.5, 1.0, 2.0, 10.0])
def test_equation_9_holds_at_every_weight_and_temperature(omega_d, tau_d):
    inputs = make_inputs(16, 10, omega_d=omega_d, tau_d=tau_d)
    assert inputs.loss("rebalance").item() == close(inputs.expected("rebalance"))


@pytest.mark.parametrize("scale", [1e2, 1e4])
@pytest.mark.parametrize("name", ["cross_entropy", "interpolative_cross_entropy", "rebalance"])
def test_losses_of_large_logits_are_finite_and_correct(name, scale):
    inputs = make_inputs(8, 6, scale=scale, tau_d=1.0)
    loss = inputs.loss(name)
    loss.backward()
    assert loss.item() == close(inputs.expected(name))
    assert inputs.logits.grad.isfinite().all()


@pytest.mark.parametrize("teacher_error", [0.0, 1.0])
def test_divergence_is_zero_only_if_student_and_teacher_agree(teacher_error):
    inputs = make_inputs(omega_d=1.0)
    teacher = inputs.logits + teacher_error * inputs.teacher
    loss = losses.rebalance(inputs.logits, teacher, inputs.y_h, 1.0, 2.0).item()
    assert (abs(loss) < 1e-6) == (teacher_error == 0.0)


@pytest.mark.parametrize("lam", LAMBDAS)
@pytest.mark.parametrize("shape", [(1, 2, 3), (4, 2, 3), (4, 6, 5)], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_gradients_equal_finite_differences_of_the_oracle(name, shape, lam):
    inputs = make_inputs(*shape, seed=3, lam=lam, tau=0.07)
    inputs.loss(name).backward()
    leaf = "z" if "centroid" in name else "logits"
    tensor = getattr(inputs, leaf)
    expected = finite_differences(
        lambda values: inputs.expected(name, **{leaf: values}), tensor.detach().double().numpy()
    )
    np.testing.assert_allclose(tensor.grad, expected, rtol=1e-4, atol=1e-6)


def finite_differences(function, values, step=1e-5):
    gradient = np.zeros_like(values)
    for index in np.ndindex(values.shape):
        moved = np.zeros_like(values)
        moved[index] = step
        gradient[index] = (function(values + moved) - function(values - moved)) / (2 * step)
    return gradient


@pytest.mark.parametrize("name", NAMES)
def test_no_gradient_reaches_the_centroids_or_the_teacher(name):
    inputs = make_inputs()
    inputs.loss(name).backward()
    assert inputs.centroids.grad is None
    assert inputs.teacher.grad is None


def test_no_gradient_reaches_the_centroids_through_the_logits_alone():
    inputs = make_inputs()
    losses.centroid_logits(inputs.z, inputs.centroids, 0.3).sum().backward()
    assert inputs.z.grad is not None
    assert inputs.centroids.grad is None


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_losses_of_bfloat16_inputs_are_computed_in_float32(name, autocast):
    inputs = make_inputs(16, 10, 32, dtype=torch.bfloat16)
    with torch.autocast(**BF16, enabled=autocast):
        loss = inputs.loss(name)
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.item() == close(inputs.expected(name))


def test_centroid_logits_stay_float32_under_autocast():
    inputs = make_inputs(16, 10, 32)
    with torch.autocast(**BF16):
        loss = losses.centroid_logits(inputs.z, inputs.centroids, 0.07)
    assert loss.dtype == torch.float32
    expected = inputs.z.detach().double() @ inputs.centroids.detach().double().T / 0.07
    torch.testing.assert_close(loss.detach().double(), expected, rtol=1e-5, atol=1e-5)
