"""A stand-in for ``fasticcl train``: writes the files of a run at once. Its behaviour depends on its name."""

import itertools
import json
import os
import signal
import sys
import time
import tomllib
from pathlib import Path


def main(words):
    options = dict(itertools.pairwise(words))
    project, name = Path(options["--project"]), options["--name"]
    resumed = "--resume" in words
    if resumed:
        folder = project / words[1] / name
    else:
        text = Path(options["-c"]).read_text()
        folder = project / tomllib.loads(text)["data"]["dataset"] / name
        folder.mkdir(parents=True)
        (folder / "config.toml").write_text(text)
    threads = os.environ.get("OMP_NUM_THREADS")
    started = {
        "pid": os.getpid(),
        "words": words,
        "threads": threads,
        "gpu": os.environ.get("CUDA_VISIBLE_DEVICES"),
    }
    (folder / "started.json").write_text(json.dumps(started))
    behave(name.partition("-")[0], folder, resumed)
    config = tomllib.loads((folder / "config.toml").read_text())
    stages = {"representation": config["optim"]["epochs"], "rebalancing": config["rebalance"]["epochs"]}
    metrics = {"val/top1": 87.5, "val/many": 90.0, "val/medium": 80.0, "val/few": 70.0}
    records = [
        {"stage": stage, "phase": "warmup", "epoch": epoch + 1, **metrics}
        for stage, epochs in stages.items()
        for epoch in range(epochs)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    (folder / "model.safetensors").touch()


def behave(kind, folder, resumed):
    if kind == "diverges" and not resumed:
        sys.stdout.write("epoch 1\nerror: The loss is not finite.\nmore\n")
        sys.exit(1)
    if kind == "crashes":
        raise RuntimeError("broken\nin two lines")
    if kind == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "meets":
        while len([*folder.parent.glob("meets-*/started.json")]) < 2:
            time.sleep(0.01)
    if kind in ("slow", "saves") and not resumed:

        def save(*_):
            if kind == "saves":
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
                (folder / "saving").touch()
                time.sleep(0.5)
            (folder / "saved").touch()
            sys.exit(143)

        signal.signal(signal.SIGTERM, save)
        (folder / "ready").touch()
        time.sleep(60)
    if kind == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        (folder / "ready").touch()
        time.sleep(60)


if __name__ == "__main__":
    main(sys.argv[1:])
