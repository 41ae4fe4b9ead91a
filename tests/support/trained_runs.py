"""A small run on the demo data, its network (loaded without `load_model`) and random weights."""

import numpy as np
import torch
from safetensors.torch import load_file

import fasticcl
from fasticcl.engine.run.weights import Description, pack_weights
from fasticcl.method.network import Network

SIDE = 8
MEAN, STD = [0.306] * 3, [0.377] * 3  # of the preset demo


def train_small(shards, project):
    """Train two epochs of representation learning and two of rebalancing, and return the run folder."""
    settings = {
        "engine.report": False,
        "method.encoder": "resnet8",
        "data.image_size": SIDE,
        "data.crop_padding": 1,
        "method.warmup_epochs": 1,
        "rebalance.epochs": 2,
    }
    fasticcl.train(
        "demo", data=shards, project=project, name="run", epochs=2, batch_size=98, device="cpu", set=settings
    )
    return project / "demo" / "run"


def network_of(run, weights=None):
    """Return the network of a run, with the weights in its ``model.safetensors`` or with other weights."""
    network = Network("resnet8", 10)
    weights = load_file(run / "model.safetensors") if weights is None else weights
    network.load_state_dict({k: v for k, v in weights.items() if not k.startswith("projection.")})
    return network.eval()


def logits_of(network, pixels, mean=MEAN, std=STD):
    """Return the logits of pixels [B, S, S, 3] from 0 to 255, normalised in NumPy."""
    normalised = (np.float64(pixels) / 255 - mean) / std
    with torch.no_grad():
        return network(torch.from_numpy(normalised.transpose(0, 3, 1, 2)).float()).logits.numpy()


def softmax(logits):
    """Return the probabilities in float64."""
    exponentials = np.exp(np.float64(logits) - logits.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def noise_pixels(count, side=SIDE, seed=1):
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def fresh_weights(path, encoder="resnet8", dataset="folder", image_size=SIDE, eval_resize=0, contrast=1.0):
    """Write random weights for three classes into a file and return the network.

    ``contrast`` scales the classifier, because otherwise all classes are about equally probable.
    """
    torch.manual_seed(3)
    network = Network(encoder, 3).eval()
    with torch.no_grad():
        network.classifier.weight.mul_(contrast)
    description = Description(
        dataset=dataset,
        method="ce",
        encoder=encoder,
        classes=["ash", "beech", "größte Eiche"],
        train_counts=[150, 40, 5],
        image_size=image_size,
        eval_resize=eval_resize,
        mean=(0.5, 0.4, 0.3),
        std=(0.3, 0.2, 0.25),
    )
    path.write_bytes(pack_weights(network, description))
    return network
