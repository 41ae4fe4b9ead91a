"""What a trained network says of pictures."""

from collections.abc import Iterable, Iterator

import torch

from fasticcl.engine.run.weights import Model
from fasticcl.predict.batches import picture_batches
from fasticcl.predict.inputs import Picture
from fasticcl.predict.predictions import Prediction
from fasticcl.system.machine import Machine
from fasticcl.system.resources import available_cores


def predict(
    model: Model,
    pictures: Iterable[Picture],
    machine: Machine,
    *,
    topk: int,
    batch_size: int,
    threads: int | None,
) -> Iterator[Prediction]:
    """Yield a row for every picture, in their order.

    Args:
        model: the network and what it is.
        pictures: where they are.
        machine: where the network runs.
        topk: classes per picture, at most all.
        batch_size: pictures at a time.
        threads: threads that decode; None: one per core.
    """
    network, classes = machine.to_device(model.network), model.description.classes
    batches = picture_batches(
        pictures,
        model.description.data,
        batch_size=batch_size,
        threads=threads or available_cores(),
        gpu=machine.gpu,
    )
    for batch in batches:
        with torch.inference_mode():
            logits = network(batch.x).logits  # float32 on every machine, as evaluation has it
            best, labels = logits.topk(min(topk, len(classes)), dim=1)
            # After a softmax, however small, torch's threads spin for milliseconds on the cores that decode.
            probabilities = (best - logits.logsumexp(dim=1, keepdim=True)).exp()
        found = zip(batch.names, batch.errors, labels.tolist(), probabilities.tolist(), strict=True)
        for name, error, ranked, values in found:
            if error is None:
                yield Prediction(name, tuple(classes[label] for label in ranked), tuple(values))
            else:
                yield Prediction(name, error=error)
