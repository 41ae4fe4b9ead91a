"""Run histories that were not read from a run folder, and changed records of runs."""

import json

import fasticcl
from fasticcl.report.run_history import RunHistory
from fasticcl.resolve import resolve, validate


def run_history(project, name, top1, few=50.0, set=(), **options):
    """Return the history of one epoch with the given accuracies. The options are those of `configure`.

    Settings in ``set`` may be without effect.
    """
    settings = {"rebalance.epochs": 0, **dict(set)}
    values = fasticcl.configure("demo", **{"data": project, "epochs": 1, **options}).model_dump()
    for path, value in settings.items():
        section, _, key = path.partition(".")
        values[section][key] = value
    record = {
        "stage": "representation",
        "phase": "warmup",
        "epoch": 1,
        "val/top1": top1,
        "val/many": None,
        "val/medium": 1.0,
        "val/few": few,
    }
    return RunHistory(project / name, validate(values), [record])


def change_config(run, **sections):
    """Change settings in the ``config.toml`` of a run. Each section is a dictionary."""
    values = resolve(file=run / "config.toml").model_dump()
    changed = {name: values[name] | section for name, section in sections.items()}
    (run / "config.toml").write_text(validate(values | changed).to_toml())


def with_readout(run, name, **settings):
    """Change a run with rebalancing into one with a readout, which has one record and no losses."""
    change_config(run, rebalance={"readout": name, **settings})
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    last = records[-1]
    kept = [record for record in records if record["stage"] == "representation"]
    readout = {key: value for key, value in last.items() if key.startswith(("val/", "data/"))}
    readout = {"stage": "rebalancing", "phase": "readout", "epoch": 1, "step": 0, "optim/lr": 0.0, **readout}
    (run / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in [*kept, readout]))
