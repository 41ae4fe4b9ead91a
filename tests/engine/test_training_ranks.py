"""Complete runs on several ranks, compared with a single process, and how they end."""

import itertools
import os
import shutil
import signal
import time
from functools import partial
from multiprocessing import connection

import numpy as np
import pytest
import torch

import fasticcl
from fasticcl.cli import terminal
from fasticcl.data.evaluation_loader import evaluation_batches
from fasticcl.data.plan import Plan
from fasticcl.engine.run.writer import RunWriter
from fasticcl.errors import Stopped
from fasticcl.resolve import resolve
from fasticcl.shards.reader import Shards
from tests.support.processes import call_main, on_ranks, start_ranks
from tests.support.recorded_steps import slots, spied
from tests.support.small_runs import (
    FILES,
    TINY,
    TINY_STEPS,
    differences,
    metrics,
    record_steps,
    resume,
    train_demo,
    train_method,
    train_tiny,
)

ALL = 4 * TINY_STEPS


@pytest.fixture
def spy(tmp_path):
    """Return a function that calls `spied` on several ranks and returns the steps of each."""

    def on(world_size, call, *arguments, **options):
        answers = on_ranks(tmp_path / "log", world_size, spied, call, *arguments, **options)
        return [seen for seen, _, _ in answers]

    return on


class Run:
    """A run folder, and for each rank the steps and the report."""

    def __init__(self, folder, answers):
        self.folder = folder
        self.seen, _, self.reports = zip(*answers, strict=True)


@pytest.fixture(scope="module", params=[2, 4])
def several(request, tiny_shards, tmp_path_factory):
    """An uninterrupted run on 2 or 4 ranks."""
    project = tmp_path_factory.mktemp("several")
    answers = on_ranks(project / "log", request.param, spied, train_tiny, tiny_shards, project)
    return Run(project / "demo/run", answers)


two_ranks = pytest.mark.parametrize("several", [2], indirect=True, scope="module")


@pytest.fixture(scope="module")
def one(tiny_shards, tmp_path_factory):
    """The same run in a single process."""
    project = tmp_path_factory.mktemp("one")
    return Run(project / "demo/run", [spied(train_tiny, tiny_shards, project)])


@pytest.fixture(scope="module")
def alone(one):
    """The steps of a single process."""
    return one.seen


def test_ranks_see_the_samples_of_one_process_and_equal_centroids(several, alone):
    seen = several.seen
    assert len(slots(seen)) == ALL
    assert slots(seen) == slots(alone)
    for step in zip(*seen, strict=True):
        assert all(np.array_equal(rank["centroids"], step[0]["centroids"]) for rank in step)
    assert np.abs(seen[0][8]["centroids"]).max() > 0


def run_schedule(spy, schedule, shards, project):
    """Train with different numbers of ranks, each for a number of steps, and return the samples."""
    samples = []
    for number, (world_size, stop) in enumerate(schedule):
        call = partial(resume, project) if number else partial(train_tiny, shards, project)
        samples += slots(spy(world_size, call, stop=stop))
    return samples


def test_resuming_with_another_number_of_ranks_keeps_the_samples(spy, alone, tiny_shards, tmp_path):
    assert run_schedule(spy, [(1, 2), (4, 8), (2, None)], tiny_shards, tmp_path) == slots(alone)


def test_resuming_with_another_number_of_ranks_gives_the_same_bits_again(spy, alone, tiny_shards, tmp_path):
    for project in (tmp_path / "first", tmp_path / "again"):
        assert run_schedule(spy, [(2, 5), (1, 4), (2, None)], tiny_shards, project) == slots(alone)
    assert differences(tmp_path / "first/demo/run", tmp_path / "again/demo/run") == []


@two_ranks
def test_stopped_run_on_two_ranks_ends_bit_identically(several, spy, tiny_shards, tmp_path):
    spy(2, train_tiny, tiny_shards, tmp_path, stop=4)
    for stop in (4, 2, None):
        spy(2, resume, tmp_path, stop=stop)
    assert differences(tmp_path / "demo/run", several.folder) == []


def test_stopped_tuning_on_two_ranks_ends_bit_identically(spy, tiny_shards, tmp_path):
    settings = {"rebalance.encoder": "tuned"}
    spy(2, train_tiny, tiny_shards, tmp_path / "undisturbed", settings)
    spy(2, train_tiny, tiny_shards, tmp_path, settings, stop=ALL - 2)
    spy(2, resume, tmp_path)
    assert differences(tmp_path / "demo/run", tmp_path / "undisturbed/demo/run") == []


PHASES = {"warmup": None, "interpolative": 3, "frozen": 9, "tuned": 9}


@pytest.mark.parametrize("phase", PHASES)
def test_first_steps_of_a_phase_have_the_losses_of_one_process(spy, tiny_shards, tmp_path, phase):
    """They agree closely with synchronised batch norm, and roughly without."""
    taken = PHASES[phase]
    losses, centroids = {}, {}
    sizes = (2, 4) if phase == "interpolative" else (2,)
    for world_size, sync in [(1, True), *((size, True) for size in sizes), (2, False)]:
        settings = {"engine.sync_bn": sync, "method.uniform_weight": 1.0, "rebalance.encoder": "frozen"}
        settings |= {"rebalance.encoder": phase} if phase == "tuned" else {}
        settings |= {"method.class_weight_beta": 0.9} if phase == "interpolative" else {}
        project = tmp_path / f"{sync}-{world_size}"
        if taken:
            before = tmp_path / f"{sync}"  # the steps before are those of one process
            if not before.exists():
                train_and_stop(before, tiny_shards, settings, taken)
            shutil.copytree(before / "demo", project / "copy/demo")
            seen = spy(world_size, resume, project / "copy", stop=3)
        else:
            seen = spy(world_size, train_tiny, tiny_shards, project, settings, stop=3)
        steps = [*zip(*seen, strict=True)][:3]
        losses[world_size, sync] = [float(np.mean([rank["loss"] for rank in step])) for step in steps]
        centroids[world_size, sync] = seen[0][2]["centroids"]
    for world_size in sizes:
        assert losses[world_size, True] == pytest.approx(losses[1, True], rel=1e-4)
        assert np.allclose(centroids[world_size, True], centroids[1, True], atol=1e-4)
    assert losses[2, False] == pytest.approx(losses[1, True], rel=0.05)
    if phase != "frozen":  # which does not update batch statistics
        assert losses[2, False] != pytest.approx(losses[1, True], rel=1e-3)


def train_and_stop(project, shards, settings, steps):
    """Train a run that is stopped after a number of steps."""
    with pytest.MonkeyPatch.context() as patched:
        record_steps(patched, lambda count: count == steps and os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(Stopped):
            train_tiny(shards, project, settings)


OPTIONS = [
    {"method.uniform_weight": 0, "method.interpolative_cross_entropy": False},
    {"method.uniform_weight": 0},
    {"method.uniform_weight": 0, "method.centroid_contrastive": False},
    {"method.uniform_weight": 1, "method.interpolative_cross_entropy": False},
    {"method.bn_mode": "split"},
    {"method.bn_mode": "concat", "engine.sync_bn": True},
    {"rebalance.encoder": "tuned", "engine.sync_bn": True, "rebalance.distillation_weight": 0},
]


def losses_of_every_option(shards, project):
    """Train with each of the options and return the losses of the steps."""
    losses = []
    for number, settings in enumerate(OPTIONS):
        print(settings)  # noqa: T201  the failure shows the output
        seen, *_ = spied(train_tiny, shards, project, settings, epochs=2, name=f"run{number}")
        losses.append([step["loss"] for step in seen])
    return losses


def test_every_option_trains_on_two_ranks(tiny_shards, tmp_path):
    """This includes losses that leave parameters without a gradient."""
    losses = on_ranks(tmp_path / "log", 2, losses_of_every_option, tiny_shards, tmp_path)
    assert np.shape(losses) == (2, len(OPTIONS), 3 * TINY_STEPS)
    assert np.isfinite(losses).all()


METHODS = {
    "ldam-drw": {},
    "mixup": {"method.class_weight_beta": 0.9},
    "manifold-mixup": {},
    "bbn": {},
    "m2m": {"method.m2m_confidence": 0.05, "method.m2m_beta": 0.3, "method.m2m_steps": 2},  # accepts images
    "ce-drs": {},
    "cmo": {"data.lambda_per": "sample"},
    "mislas": {},
    "ncm": {},
    "oltr": {},
    "tde": {},
}
"""Methods whose step involves all samples of a batch or draws, with additional settings."""


def train_recorded(shards, project, method):
    """Train a run and return the recorded steps and the final tensors on this rank."""
    tensors, finish = {}, RunWriter.finish

    def recorded(self, network, description):
        tensors.update({name: value.clone().numpy() for name, value in network.state_dict().items()})
        finish(self, network, description)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(RunWriter, "finish", recorded)
        settings = {"engine.sync_bn": True} | METHODS[method]
        steps, *_ = spied(train_method, shards, project, method, settings)
    return steps, tensors


def train_methods(shards, project):
    return {method: train_recorded(shards, project, method) for method in METHODS}


@pytest.fixture(scope="module")
def results(tiny_shards, tmp_path_factory):
    """The results of both ranks and, last, those of a single process."""
    project = tmp_path_factory.mktemp("ranks")
    ranks = on_ranks(project / "log", 2, train_methods, tiny_shards, project / "two")
    return [*ranks, train_methods(tiny_shards, project / "one")]


@pytest.mark.parametrize("method", METHODS)
def test_two_ranks_have_the_samples_losses_and_weights_of_one_process(results, method):
    (one, weights), (two, other_weights), (alone, expected) = (each[method] for each in results)
    assert slots([one, two]) == slots([alone])
    losses = [np.mean([rank["loss"] for rank in step]) for step in zip(one, two, strict=True)]
    assert losses == pytest.approx([step["loss"] for step in alone], rel=1e-4)
    assert weights.keys() == expected.keys()
    for name, value in expected.items():
        assert np.array_equal(weights[name], other_weights[name]), name
        assert np.allclose(weights[name], value, atol=1e-4), name


@pytest.mark.parametrize("world_size", [1, 2, 3, 7])
@pytest.mark.parametrize("batch_size", [4, 30, 64])
def test_ranks_evaluate_each_image_once(tiny_shards, world_size, batch_size):
    shards, data = Shards(tiny_shards, "test"), resolve("demo").data
    parts = [
        list(evaluation_batches(shards, data, batch_size=batch_size, rank=rank, world_size=world_size))
        for rank in range(world_size)
    ]
    images = [image for part in parts for batch in part for image in batch.x]
    whole = next(iter(evaluation_batches(shards, data, batch_size=len(shards)))).x
    assert len(images) == len(shards)
    ours = sorted(image.numpy().tobytes() for image in images)
    assert ours == sorted(image.numpy().tobytes() for image in whole)


@two_ranks
def test_accuracies_of_two_ranks_equal_those_of_one_process(several):
    """30 images in batches of 20, of which the second rank has 10."""
    assert several.reports[0].rows == fasticcl.evaluate(several.folder).rows


@two_ranks
def test_steps_and_epochs_have_one_record_each_on_two_ranks(several, one):
    places = [
        [(r["stage"], r["epoch"], r["step"], "val/top1" in r) for r in metrics(run.folder)]
        for run in (several, one)
    ]
    assert places[0] == places[1]
    assert {path.name for path in several.folder.iterdir()} == FILES


@two_ranks
def test_logged_loss_is_the_mean_over_the_ranks(several):
    means = [np.mean([rank["loss"] for rank in step]) for step in zip(*several.seen, strict=True)]
    lines = [record for record in metrics(several.folder) if "val/top1" not in record]
    for epoch in range(4):
        ours = [record["train/loss"] for record in lines[3 * epoch : 3 * epoch + 3]]
        expected = np.cumsum(means[3 * epoch : 3 * epoch + 3]) / [1, 2, 3]
        assert ours == pytest.approx(expected, rel=1e-5)


def test_ranks_save_no_more_often_than_one_process(tiny_shards, tmp_path):
    settings = TINY | {"engine.save_every": "4", "rebalance.epochs": 0}
    answers = on_ranks(
        tmp_path / "log", 2, spied, train_demo, tiny_shards, tmp_path, settings, epochs=2, batch_size=4
    )
    for _, saves, _ in answers:
        within = [(epoch, step) for _, epoch, step in saves if step]
        assert len(within) >= 2
        for (epoch, step), (other, later) in itertools.pairwise(within):
            assert other > epoch or later - step >= 3


def call_main_without_delay(*words):
    """Run a command in a child, whose ranks other than rank 0 do not wait for torchrun to end them."""
    terminal._DELAY_OF_OTHER_RANKS = 0
    call_main(*words)


def test_indivisible_batch_size_gives_one_line_and_exit_code_2(tiny_shards, tmp_path):
    words = [*command(tiny_shards, tmp_path), "--batch-size", 21]
    children = start_ranks(tmp_path / "log", 2, call_main_without_delay, *words)
    assert [child.exit_code() for child in children] == [2, 2]
    sentence = "error: A global batch of 21 cannot be divided among 2 ranks. Use --batch-size 20.\n"
    assert children[0].printed() == sentence
    assert not (tmp_path / "demo").exists()


def test_mode_for_one_rank_is_refused_on_several(tiny_shards, tmp_path):
    words = [*command(tiny_shards, tmp_path), "--set", "engine.compile=step"]
    children = start_ranks(tmp_path / "log", 2, call_main_without_delay, *words)
    assert [child.exit_code() for child in children] == [2, 2]
    assert children[0].printed() == (
        "error: engine.compile=step supports only one rank. Use --set engine.compile=auto.\n"
    )
    assert not (tmp_path / "demo").exists()


def corrupt(folder, row):
    """Change a byte of a training image."""
    index = np.load(folder / "train/index.npy")
    shard, offset = int(index[row]["shard"]), int(index[row]["offset"])
    path = folder / f"train/shard-{shard:06d}.tar"
    content = bytearray(path.read_bytes())
    content[offset + 30] ^= 1
    path.write_bytes(content)


def test_bad_images_are_counted_over_all_ranks(tiny_shards, tmp_path):
    """Only the second rank reads the corrupt image in the first epoch."""
    shards, config = shutil.copytree(tiny_shards, tmp_path / "shards"), resolve("demo")
    index = Shards(shards, "train")
    plan = Plan(index.index, index.counts, config.data, batch_size=20, seed=config.engine.seed)
    corrupt(shards, plan.agnostic_rows("warmup", 0, 1)[15])
    settings = {"engine.prefetch": 1}
    train_tiny(shards, tmp_path / "one", settings)
    on_ranks(tmp_path / "log", 2, train_tiny, shards, tmp_path, settings)
    counts = [
        [record["data/bad_samples"] for record in metrics(each / "demo/run") if "val/top1" in record]
        for each in (tmp_path / "one", tmp_path)
    ]
    assert counts == [[1, 1, 1, 1]] * 2


def test_too_many_bad_images_stop_all_ranks(tiny_shards, tmp_path):
    shards = shutil.copytree(tiny_shards, tmp_path / "shards")
    for row in (0, 1, 15, 16, 30, 31, 40, 41):
        corrupt(shards, row)
    words = ["--epochs", 3, "--set", "data.max_bad_samples=7"]
    children = start_ranks(tmp_path / "log", 2, call_main, *command(shards, tmp_path), *words)
    connection.wait([child.process.sentinel for child in children], 60)  # torchrun would end the others
    ended = [child.process.exitcode for child in children if not child.kill()]
    assert set(ended) == {1}
    sentence = "8 images cannot be read, more than data.max_bad_samples (7): train/shard-000000.tar:512 "
    assert any(f"error: {sentence}" in child.printed() for child in children)


def command(shards, project):
    small = ["--batch-size", 20, "--device", "cpu", "--name", "run", "--set", "method.encoder=resnet8"]
    return ["train", "demo", "--data", shards, "--project", project, *small]


@pytest.mark.parametrize("rank", [0, 1])
def test_signal_to_any_rank_stops_all_and_rank_0_reports_it(tiny_shards, tmp_path, rank):
    words = [*command(tiny_shards, tmp_path), "--epochs", 300]
    children = start_ranks(tmp_path / "log", 2, call_main, *words)
    while "epoch   1/300" not in children[0].printed():
        assert all(child.process.is_alive() for child in children)
        time.sleep(0.01)
    children[rank].signal(signal.SIGTERM)
    assert [child.exit_code() for child in children] == [143, 143]
    assert children[0].printed().splitlines()[-2:] == [
        "stopped by SIGTERM. The state is saved. Continue with:",
        f"  fasticcl train demo --project {tmp_path} --name run --nproc 2 --resume",
    ]
    assert "Continue with" not in children[1].printed()
    assert torch.load(tmp_path / "demo/run/last.pt", weights_only=True)["epoch"] >= 1
