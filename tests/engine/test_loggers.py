"""Loggers: the numbers of metrics.jsonl, each logged once. A failing logger does not stop training."""

import json
import os
import signal
import sys
import types

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.summary.writer import event_file_writer

import fasticcl
from fasticcl.engine.loggers import Loggers
from fasticcl.errors import Stopped, UserError
from fasticcl.resolve import resolve
from tests.support.small_runs import (
    TIMING,
    TINY_STEPS,
    ConsoleOutput,
    PowerCut,
    metrics,
    record_steps,
    resume,
    train_tiny,
)

EPOCHS = 3  # of the representation stage


@pytest.fixture(autouse=True)
def numbered_from_zero(monkeypatch):
    """Restart the numbering of event files. TensorBoard sorts the numbers as text, so 10 comes before 9."""
    monkeypatch.setattr(event_file_writer, "_global_uid", event_file_writer.AtomicCounter(0))


def expected(run):
    """The (step, value) pairs of metrics.jsonl by name. The last record of a step counts."""
    series = {}
    for record in map(json.loads, (run / "metrics.jsonl").read_text().splitlines()):
        epoch = record["epoch"] - 1 + (EPOCHS if record["stage"] == "rebalancing" else 0)
        for name, value in record.items():
            if "/" in name and value is not None:
                series.setdefault(name, {})[epoch * TINY_STEPS + record["step"]] = value
    return {name: [*values.items()] for name, values in series.items()}


def events(run):
    reader = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    return {
        name: [(event.step, event.value) for event in reader.Scalars(name)]
        for name in reader.Tags()["scalars"]
    }


def assert_same(logged, expected):
    assert logged.keys() == expected.keys()
    for name, series in expected.items():
        assert [step for step, _ in logged[name]] == [step for step, _ in series], name
        if name not in TIMING:  # a resumed process measures times anew
            values = [value for _, value in series]
            assert [value for _, value in logged[name]] == pytest.approx(values, rel=1e-6)


def test_tensorboard_has_every_number_of_metrics_jsonl_once(tiny_shards, tmp_path):
    run = train_tiny(tiny_shards, tmp_path, logger="tensorboard").run
    assert_same(events(run), expected(run))
    assert {"train/loss", "train/cc_it", "val/top1", "optim/lr"} <= events(run).keys()
    assert [step for step, _ in events(run)["val/top1"]] == [3, 6, 9, 12]


def test_tensorboard_gets_the_figures_of_the_report(tiny_shards, tmp_path):
    run = train_tiny(tiny_shards, tmp_path, {"engine.report": True}, logger="tensorboard", epochs=2).run
    found = EventAccumulator(str(run / "tensorboard"), size_guidance={"images": 0}).Reload()
    names = {f"figures/{path.stem}" for path in (run / "figures").glob("*.png")}
    assert set(found.Tags()["images"]) == names
    assert len(names) == 5
    assert found.Scalars("val/top1")
    for name in names:
        (image,) = found.Images(name)
        assert image.width > 900


def test_a_readout_has_a_global_step_of_its_own():
    loggers, seen = Loggers(resolve("demo", method="ncm", options={"optim": {"epochs": 4}}), steps=5), []
    loggers._open["fake"] = types.SimpleNamespace(log=lambda scalars, step: seen.append((step, scalars)))
    loggers.log({"stage": "representation", "epoch": 4, "step": 5, "val/top1": 1.0})
    loggers.log({"stage": "rebalancing", "epoch": 1, "step": 0, "val/top1": 2.0})
    assert seen == [(20, {"val/top1": 1.0}), (21, {"val/top1": 2.0})]
    assert [loggers.global_step("rebalancing", epoch, 0) for epoch in (0, 1)] == [20, 21]


@pytest.mark.parametrize(
    ("stage", "position", "step"),
    [
        (None, (0, 0), 0),
        ("seed", (3, 2), 17),
        ("seed", (4, 0), 20),
        ("representation", (0, 1), 21),
        ("representation", (4, 0), 40),
        ("rebalancing", (1, 2), 47),
    ],
)
def test_global_steps_of_three_stages_follow_each_other(stage, position, step):
    options = {"optim": {"epochs": 4}, "rebalance": {"epochs": 2}}
    loggers = Loggers(resolve("demo", method="m2m", options=options), steps=5)
    assert loggers.global_step(stage, *position) == step


@pytest.mark.parametrize("last", [2, TINY_STEPS, 5])
def test_a_stopped_run_continues_the_same_series(tiny_shards, tmp_path, monkeypatch, last):
    with monkeypatch.context() as patch:
        record_steps(patch, lambda count: count == last and os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(Stopped):
            train_tiny(tiny_shards, tmp_path, logger="tensorboard")
    run = resume(tmp_path).run
    assert_same(events(run), expected(run))
    assert [step for step, _ in events(run)["train/loss"]] == [*range(1, 4 * TINY_STEPS + 1)]


def test_a_resumed_killed_run_logs_repeated_steps_once(tiny_shards, tmp_path, monkeypatch):
    def cut(count):
        if count == 6:  # step 5 is logged; the last checkpoint is from step 4
            raise PowerCut

    with monkeypatch.context() as patch:
        record_steps(patch, cut)
        with pytest.raises(PowerCut):
            train_tiny(tiny_shards, tmp_path, logger="tensorboard")
    run = resume(tmp_path).run
    assert [step for step, _ in events(run)["train/loss"]] == [*range(1, 4 * TINY_STEPS + 1)]
    assert_same(events(run), expected(run))


class FakeWandb(types.ModuleType):
    """Records the calls to W&B by run. Like W&B it drops steps before the last one.

    A resumed run starts after its last step, and its earlier steps cannot be changed.
    """

    def __init__(self, fails=()):
        super().__init__("wandb")
        self.started, self.logged, self.finished, self.fails, self.asked = [], {}, 0, fails, 0

    def init(self, **options):
        if "init" in self.fails:
            raise ConnectionError("api.wandb.ai cannot be reached")
        self.started.append(options)
        self.step = max(self.logged.get(options["id"], {}), default=-1) + 1
        return self

    def log(self, scalars, step):
        self.asked += 1
        if "log" in self.fails:
            raise RuntimeError("quota")
        series = self.logged.setdefault(self.started[-1]["id"], {})
        if step >= self.step:
            self.step = step
            series[step] = series.get(step, {}) | scalars

    def series(self, id):
        found = {}
        for step, scalars in self.logged[id].items():
            for name, value in scalars.items():
                found.setdefault(name, []).append((step, value))
        return found

    def finish(self):
        self.finished += 1


@pytest.fixture
def wandb(monkeypatch):
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    module = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", module)
    return module


def test_wandb_gets_the_numbers_and_the_configuration(tiny_shards, tmp_path, wandb, monkeypatch):
    monkeypatch.setenv("WANDB_PROJECT", "tails")
    run = train_tiny(tiny_shards, tmp_path, logger=["wandb"]).run
    (options,) = wandb.started
    assert wandb.series(options["id"]) == expected(run)
    assert (options["project"], options["name"], options["resume"]) == ("tails", "demo-run", "allow")
    assert options["config"]["optim"]["batch_size"] == 20
    json.dumps(options["config"])
    assert wandb.finished == 1


@pytest.mark.parametrize("last", [TINY_STEPS, 4])
def test_a_resumed_run_continues_its_wandb_run(tiny_shards, tmp_path, wandb, monkeypatch, last):
    """This includes a run that was stopped between the last step of an epoch and its evaluation."""
    with monkeypatch.context() as patch:
        record_steps(patch, lambda count: count == last and os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(Stopped):
            train_tiny(tiny_shards, tmp_path, logger="wandb")
    run = resume(tmp_path).run
    train_tiny(tiny_shards, tmp_path, logger="wandb", name="other", epochs=2)
    first, again, other = (options["id"] for options in wandb.started)
    assert first == again != other
    assert_same(wandb.series(first), expected(run))
    assert wandb.finished == 3


@pytest.mark.parametrize("fails", ["init", "log"])
def test_a_failing_logger_gives_one_warning_and_training_continues(tiny_shards, tmp_path, wandb, fails):
    wandb.fails = (fails,)
    output = ConsoleOutput()
    failing = train_tiny(tiny_shards, tmp_path, logger="wandb", name="failing", console=output.console).run
    assert len(output.warnings()) == 1
    assert "wandb failed and is disabled for this run" in output.warnings()[0]
    assert wandb.asked == (fails == "log")
    assert metrics(failing) == metrics(train_tiny(tiny_shards, tmp_path, name="alone").run)


@pytest.mark.parametrize(("name", "module"), [("wandb", "wandb"), ("tensorboard", "torch.utils.tensorboard")])
def test_a_missing_package_is_an_error_before_anything_is_written(
    tiny_shards, tmp_path, monkeypatch, name, module
):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=rf"pip install 'fasticcl\[{name}\]'"):
        train_tiny(tiny_shards, tmp_path, logger=name)
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ("tensorboard", ("tensorboard",)),
        ("tensorboard, wandb", ("tensorboard", "wandb")),
        (["wandb", "tensorboard,wandb"], ("wandb", "tensorboard")),
        ("none", ()),
        ("", ()),
    ],
    ids=str,
)
def test_loggers_are_named_one_by_one_or_with_commas(given, names, tmp_path):
    config = fasticcl.configure("demo", logger=given)
    assert config.engine.logger == names
    (tmp_path / "config.toml").write_text(config.to_toml())
    assert resolve(file=tmp_path / "config.toml") == config


def test_an_unknown_logger_is_refused():
    with pytest.raises(UserError, match=r"engine\.logger: .*tensorboard.*wandb.*neptune"):
        fasticcl.configure("demo", logger="neptune")
