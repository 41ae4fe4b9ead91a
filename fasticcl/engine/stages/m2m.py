"""The stages of M2m: training of the seed network, and training on batches with translated images."""

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from fasticcl.config import Config
from fasticcl.data.batch import StreamBatch, TrainingBatch
from fasticcl.engine.stages.representation import Representation
from fasticcl.engine.stages.stage import Losses, StageName, StageState
from fasticcl.method.network import Network
from fasticcl.method.translation import Logits, draw_noise, draw_replacements, translate
from fasticcl.system.machine import Machine


class SeedStage(Representation):
    """Stage that trains the seed network with cross-entropy, as a run of the method ``ce`` does."""

    name: StageName = "seed"


def seed_config(config: Config) -> Config:
    """Return the configuration of the seed stage: cross-entropy with a linear classifier, uniform batches."""
    cross_entropy = {
        "first_stage": "iccl",
        "interpolative_weight": 0.0,
        "centroid_contrastive": False,
        "mixup_after": (),
        "classifier": "linear",
        "class_loss": "cross_entropy",
        "class_weight_beta": 0.0,
    }
    return config.model_copy(
        update={
            "method": config.method.model_copy(update=cross_entropy),
            "data": config.data.model_copy(update={"resample_start": 1.0}),
        }
    )


class MajorToMinor(Representation):
    """Representation stage whose batches contain translated images in the phase ``translation``.

    The images are translated without compilation, because their number changes from step to step. Each
    of these steps waits for the device to read the classes of its batch. On several ranks, each rank
    translates its share of the global batch, from images of all ranks.

    Args:
        config: configuration of the run.
        num_classes: K.
        machine: device and ranks.
        counts: [K] training images per class. None means equal counts.
    """

    def __init__(
        self, config: Config, num_classes: int, machine: Machine, counts: NDArray[np.integer] | None = None
    ) -> None:
        # The seed network is built first, so its initial weights are those of a run of ``ce``.
        self.seed_stage: SeedStage | None = SeedStage(seed_config(config), num_classes, machine, counts)
        """The stage that trains the seed network, or None if this network is final."""
        self.seed_network: Network = self.seed_stage.network
        super().__init__(config, num_classes, machine, counts)
        self.counts = np.ones(num_classes, np.int64) if counts is None else counts
        mean, std = torch.tensor(config.data.mean), torch.tensor(config.data.std)
        self._mean, self._std = (value[:, None, None].to(machine.device) for value in (mean, std))
        self._translates = False

    def use_seed_network(self, network: Network) -> None:
        """Translate with this network, which does not change any more, and free the seed stage."""
        self.machine.to_device(network)
        self.seed_network = network.eval().requires_grad_(False)
        for parameter in network.parameters():
            parameter.grad = None
        self.seed_stage = None

    def begin_epoch(self, epoch: int) -> None:
        """Set the modes of both networks, the learning rate, the class weights and the phase."""
        super().begin_epoch(epoch)
        self.seed_network.eval()
        self._translates = self.phase(epoch) == "translation"

    def losses(self, batch: TrainingBatch) -> Losses:
        """Translate images, begin a training step and return the losses and the fraction of such images."""
        if not self._translates:
            return super().losses(batch)
        assert isinstance(batch, StreamBatch)
        batch, translated = self.translate(batch)
        return {**super().losses(batch), "translated": translated}

    def translate(self, batch: StreamBatch) -> tuple[StreamBatch, torch.Tensor]:
        """Return the batch with translated images, and their fraction."""
        assert batch.rng is not None
        ranks, size = self.machine.ranks, len(batch.y)
        images, labels = ranks.all_gather(batch.x), ranks.all_gather(batch.y)
        known = labels.cpu().numpy()  # waits for the device, so the copies below find it idle
        drawn = draw_replacements(known, self.counts, self.method.m2m_beta, batch.rng)
        noise = draw_noise((len(drawn.slots), *batch.x.shape[1:]), self.method.m2m_noise, batch.rng)
        mine = drawn.slots // size == ranks.rank
        slots, sources, noise = (
            torch.from_numpy(values[mine]).to(labels.device) for values in (drawn.slots, drawn.sources, noise)
        )
        if not len(slots):
            return batch, torch.zeros((), device=labels.device)
        pixels = (images[sources] * self._std + self._mean + noise).clamp(0, 1)
        pixels = pixels.contiguous(memory_format=torch.channels_last)
        self.network.eval()
        pixels, accepted = translate(
            pixels,
            labels[sources],
            labels[slots],
            self._logits(self.seed_network),
            self._logits(self.network),
            self.method,
        )
        self.network.train()
        slots = slots % size
        results = torch.where(accepted[:, None, None, None], self._normalized(pixels), batch.x[slots])
        x = batch.x.index_put((slots,), results)
        return replace(batch, x=x), accepted.sum() / size

    def _logits(self, network: Network) -> Logits:
        def logits(pixels: torch.Tensor) -> torch.Tensor:
            with self.machine.autocast():  # a context of its own, as in each pass of the representation stage
                return network(self._normalized(pixels)).logits.float()

        return logits

    def _normalized(self, pixels: torch.Tensor) -> torch.Tensor:
        return (pixels - self._mean) / self._std

    def state_dict(self) -> StageState:
        """Return the state of the representation stage and the weights of the seed network."""
        return {**super().state_dict(), "seed": self.seed_network.state_dict()}

    def load_state_dict(self, state: StageState) -> None:
        """Restore the state that `state_dict` returned."""
        super().load_state_dict(state)
        self.use_seed_network(Network.restore(self.method.encoder, state["seed"]))
