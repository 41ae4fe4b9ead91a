"""The training step, compared with SGD by hand."""

import torch

from fasticcl.data.batch import StreamBatch
from fasticcl.engine.stages.stage import learn


class LinearRegression:
    """A stage that learns one weight w with the loss (w·x - y)²."""

    def __init__(self, weight, lr):
        self.weight = torch.nn.Parameter(torch.tensor(weight))
        self.optimizer = torch.optim.SGD([self.weight], lr=lr)
        self.gradients_before = []

    def losses(self, batch):
        self.gradients_before.append(self.weight.grad)
        error = (self.weight * batch.x - batch.y).square().mean()
        return {"loss": error, "unused": 100 * self.weight}


def test_steps_follow_the_gradient_of_the_total_loss_alone():
    stage, x, y = LinearRegression(3.0, lr=0.1), torch.tensor([1.0, 2.0]), torch.tensor([1, 0])
    stage.weight.grad = torch.tensor(1e6)  # left by something else
    weight = 3.0
    for _ in range(3):
        losses = learn(stage, StreamBatch(x, y))
        # The mean of (w - 1)² and (2w)², and its derivative 5w - 1.
        expected_loss = ((weight - 1) ** 2 + (2 * weight) ** 2) / 2
        weight -= 0.1 * (5 * weight - 1)
        assert torch.isclose(losses["loss"], torch.tensor(expected_loss))
        assert torch.isclose(stage.weight.detach(), torch.tensor(weight))
    assert stage.gradients_before == [None] * 3
