"""Log odds of a softmax against a float64 reference without cancellation."""

import numpy as np
import pytest
import torch

from fasticcl.method.log_odds import log_odds_against

LOGITS = [[200.0, -100, 3, 0], [1e4, 0, 0, -1e4], [0, 0, 0, 0], [30, -30, 29.99, -1], [17, 0, 0, 0]]


def reference(logits):
    z = np.asarray(logits, dtype=np.float32).astype(np.float64)
    return np.array([[np.logaddexp.reduce(np.delete(row, k)) - row[k] for k in range(len(row))] for row in z])


@pytest.mark.parametrize("row", LOGITS, ids=str)
def test_float32_is_accurate_to_its_rounding(row):
    result = log_odds_against(torch.tensor([row], dtype=torch.float32)).double().numpy()
    # 17 against three zeros: 1 - p is 1.2e-7, which 1 - exp(log p) in float32 has with an error of 50 %.
    np.testing.assert_allclose(result, reference([row]), rtol=3e-7, atol=2e-7)


def test_the_probability_follows_from_the_log_odds():
    logits = torch.randn(5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 3
    torch.testing.assert_close(torch.sigmoid(-log_odds_against(logits)), logits.softmax(dim=1))


def test_gradients_equal_finite_differences_also_for_equal_logits():
    logits = torch.tensor([[35.0, 1, 2], [2, 2, -3], [0, 0, 0]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(log_odds_against, logits)
