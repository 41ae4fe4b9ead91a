"""Log odds of a softmax, from which losses are computed without cancellation."""

import torch
from torch.nn import functional as F


def log_odds_against(logits: torch.Tensor) -> torch.Tensor:
    """Return log((1 - p^k) / p^k), [B, K], where p is the softmax of logits [B, K].

    Then -log p^k is softplus of the result and -log(1 - p^k) is softplus of its negative. Both are accurate
    for all p^k, as are their gradients.
    """
    log_p = F.log_softmax(logits, dim=1)
    # For the predicted class, p^k can round to 1. The other p^k are at most 1/2.
    top = logits.argmax(dim=1, keepdim=True)
    others = logits.scatter(1, top, -torch.inf).logsumexp(dim=1, keepdim=True)
    log_odds = torch.log1p(-log_p.exp().scatter(1, top, 0.0)) - log_p
    return log_odds.scatter(1, top, others - logits.gather(1, top))
