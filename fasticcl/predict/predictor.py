"""Predict the classes of images with a trained network."""

from collections.abc import Iterable, Iterator

import torch

from fasticcl.engine.run.weights import Model
from fasticcl.predict.batches import image_batches
from fasticcl.predict.inputs import ImageInput
from fasticcl.predict.predictions import Prediction
from fasticcl.system.machine import Machine
from fasticcl.system.precision import float32_convolutions
from fasticcl.system.resources import decoding_threads


def predict(
    model: Model,
    images: Iterable[ImageInput],
    machine: Machine,
    *,
    topk: int,
    batch_size: int,
    threads: int | None,
) -> Iterator[Prediction]:
    """Yield a prediction for every image, in the order of the images, computed in float32 on every device.

    Args:
        model: the network and its description.
        images: the encoded images.
        machine: the device on which the network runs.
        topk: number of classes per image, at most the number of classes of the model.
        batch_size: number of images per batch.
        threads: number of threads that decode, or None for the number of `decoding_threads`.
    """
    network, classes = machine.to_device(model.network), model.description.classes
    batches = image_batches(
        images,
        model.description.data,
        batch_size=batch_size,
        threads=threads or decoding_threads(machine.gpu is not None),
        gpu=machine.gpu,
    )
    for batch in batches:
        with torch.inference_mode(), float32_convolutions():
            logits = network(batch.x).logits
            top_logits, top_labels = logits.topk(min(topk, len(classes)), dim=1)
            # Not softmax: after it, torch's threads spin for milliseconds on the cores that decode.
            probabilities = (top_logits - logits.logsumexp(dim=1, keepdim=True)).exp()
        rows = zip(batch.names, batch.errors, top_labels.tolist(), probabilities.tolist(), strict=True)
        for name, error, labels, values in rows:
            if error is None:
                yield Prediction(name, tuple(classes[label] for label in labels), tuple(values))
            else:
                yield Prediction(name, error=error)
