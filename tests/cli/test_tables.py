"""What verbs print last."""

import shlex
from pathlib import Path

import fasticcl
from fasticcl.cli.tables import after_training
from fasticcl.engine.results import Report
from fasticcl.engine.run.folder import RunFolder


def test_another_run_with_another_seed_can_be_started_again_and_again(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = RunFolder.create(fasticcl.configure("demo", name="first", seed=4)).path
    made = []
    for _ in range(3):
        (line,) = [line for line in after_training(Report(run, {}, 1, "test")) if " train -c " in line]
        words = shlex.split(line.split("    ")[-2])
        options = dict(zip(words[2::2], words[3::2], strict=True))
        again = fasticcl.configure(config=options["-c"], name=options["--name"], seed=int(options["--seed"]))
        run = RunFolder.create(again).path
        made.append((run, again.engine.seed))
    assert made == [
        (Path("runs/demo") / name, seed) for name, seed in [("again", 5), ("again-1", 6), ("again-2", 7)]
    ]
