"""The plan: determinism, class frequencies, and the distributions of the augmentations."""

from dataclasses import asdict
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from fasticcl.config import Data
from fasticcl.data.plan import PHASES, Plan, evaluation_stream
from fasticcl.shards.reader import INDEX_DTYPE
from tests.support import oracle

LONG_TAIL = [400, 230, 120, 71, 37, 20, 13, 6, 2, 1]


def make_plan(counts=LONG_TAIL, batch_size=30, seed=7, size=(375, 500), options=None, **data):
    index = np.zeros(sum(counts), dtype=INDEX_DTYPE)
    index["label"] = np.repeat(np.arange(len(counts)), counts)
    index["height"], index["width"] = size
    settings = Data(dataset="test", dir="unused", **data)
    return Plan(index, counts, settings, batch_size=batch_size, seed=seed, **options or {})


def arrays(batch):
    return {
        f"{name}.{field}": value
        for name in ("agnostic", "aware")
        if getattr(batch, name) is not None
        for field, value in asdict(getattr(batch, name)).items()
    } | {name: value for name in ("lam", "boxes") if (value := getattr(batch, name)) is not None}


def same(one, other):
    one, other = arrays(one), arrays(other)
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("phase", PHASES)
def test_batch_depends_only_on_epoch_and_step(phase):
    plan, again = make_plan(color_jitter=(0.4, 0.4, 0.4)), make_plan(color_jitter=(0.4, 0.4, 0.4))
    positions = [(epoch, step) for epoch in (0, 3) for step in (0, 1, 5)]
    first = {position: plan.batch(phase, *position) for position in positions}
    for position in reversed(positions):
        assert same(first[position], again.batch(phase, *position))
    for position in positions[1:]:
        assert not same(first[positions[0]], first[position])


@pytest.mark.parametrize("phase", PHASES)
def test_different_seeds_give_different_batches(phase):
    one, other = arrays(make_plan(seed=1).batch(phase, 0, 0)), arrays(make_plan(seed=2).batch(phase, 0, 0))
    drawn = [name for name in one if name.endswith(("rows", "windows", "flips", "lam"))]
    assert drawn
    assert not any(np.array_equal(one[name], other[name]) for name in drawn)


def test_choices_of_the_method_depend_on_seed_phase_epoch_and_step_only():
    plan = make_plan(color_jitter=(0.4, 0.4, 0.4))
    rank = make_plan(options={"rank": 1, "world_size": 2}, lambda_per="sample", gamma=1.0)
    other, positions = make_plan(seed=8), [(epoch, step) for epoch in (0, 3) for step in (0, 1, 5)]
    draws = []
    for phase, position in product(PHASES, positions):
        plan.batch(phase, *position)
        drawn = plan.method_rng(phase, *position).random(4).tolist()
        assert drawn == rank.method_rng(phase, *position).random(4).tolist()
        draws += [drawn, other.method_rng(phase, *position).random(4).tolist()]
    assert len({value for drawn in draws for value in drawn}) == 4 * len(draws)


def test_phases_and_streams_draw_independently():
    plan = make_plan()
    both = plan.batch("interpolative", 2, 3)
    assert not np.array_equal(both.agnostic.rows, plan.batch("warmup", 2, 3).agnostic.rows)
    assert not np.array_equal(both.aware.rows, plan.batch("rebalance", 2, 3).aware.rows)
    assert not np.array_equal(both.agnostic.windows, both.aware.windows)
    assert not np.array_equal(both.agnostic.flips, both.aware.flips)


def test_disabling_one_draw_does_not_change_the_others():
    plain, jittered = make_plan(), make_plan(color_jitter=(0.4, 0.4, 0.4))
    plain, jittered = (
        arrays(plain.batch("interpolative", 1, 1)),
        arrays(jittered.batch("interpolative", 1, 1)),
    )
    for name in plain:
        assert np.array_equal(plain[name], jittered[name]) == (not name.endswith("colors")), name


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
@pytest.mark.parametrize(("resample_epoch", "mixing"), [(None, "mixup"), (1, "cutmix")])
def test_rank_slices_form_the_global_batch(phase, world_size, resample_epoch, mixing):
    def batch(**options):
        options |= {"resample_epoch": resample_epoch}
        settings = {"lambda_per": "sample", "mixing": mixing}
        return arrays(make_plan(batch_size=24, options=options, **settings).batch(phase, 1, 2))

    whole = batch()
    parts = [batch(rank=rank, world_size=world_size) for rank in range(world_size)]
    for name, value in whole.items():
        assert np.array_equal(np.concatenate([part[name] for part in parts]), value), name


@given(
    size=st.one_of(st.integers(1, 300), st.sampled_from([1, 2, 4, 8, 256, 257, 1021, 1024])),
    seed=st.integers(0, 999),
)
@settings(max_examples=150, deadline=None)
def test_class_agnostic_stream_has_every_image_once_per_epoch(size, seed):
    plan = make_plan([size], batch_size=1, seed=seed)
    rows = np.concatenate([plan.agnostic_rows("warmup", 4, step) for step in range(plan.steps_per_epoch)])
    assert sorted(rows) == list(range(size))


@given(size=st.integers(1, 500), batch_size=st.integers(1, 64))
@settings(max_examples=60, deadline=None)
def test_incomplete_last_batch_is_dropped_and_no_image_repeats(size, batch_size):
    batch_size = min(batch_size, size)
    plan = make_plan([size], batch_size=batch_size)
    rows = np.concatenate([plan.agnostic_rows("warmup", 0, step) for step in range(plan.steps_per_epoch)])
    assert len(set(rows)) == len(rows) == size - size % batch_size


@pytest.mark.parametrize("gamma", [-1.0, 0.0, 0.5, 1.0])
@pytest.mark.parametrize("phase", ["interpolative", "rebalance"])
def test_million_class_aware_draws_follow_equation_2(gamma, phase):
    counts = [count * 100 for count in LONG_TAIL]
    plan = make_plan(counts, batch_size=50_000, gamma=gamma)
    plan = Plan(plan.index, counts, plan.data, batch_size=50_000, seed=11, rebalance_gamma=gamma)
    rows = np.concatenate([plan.aware_rows(phase, 0, step) for step in range(20)])
    drawn = np.bincount(plan.index["label"][rows], minlength=len(counts)) / len(rows)
    expected = oracle.class_probabilities(counts, gamma)
    error = np.sqrt(expected * (1 - expected) / len(rows))
    assert len(rows) == 10**6
    assert (np.abs(drawn - expected) < 4 * error).all()


def test_images_of_a_class_are_drawn_uniformly_with_replacement():
    plan = make_plan([6, 3, 1], batch_size=10, gamma=0.0)
    rows = np.concatenate([plan.aware_rows("interpolative", 0, step) for step in range(6000)])
    for first, count in ((0, 6), (6, 3)):
        seen = np.bincount(rows, minlength=10)[first : first + count]
        assert stats.chisquare(seen).pvalue > 1e-4


def test_class_agnostic_stream_has_the_class_counts_of_the_data():
    plan = make_plan(batch_size=sum(LONG_TAIL))
    rows = plan.agnostic_rows("interpolative", 5, 0)
    assert np.bincount(plan.index["label"][rows]).tolist() == LONG_TAIL


@pytest.mark.parametrize(
    ("phase", "gamma"), [("warmup", -1.0), ("warmup", 0.0), ("interpolative", 0.0), ("interpolative", 1.0)]
)
def test_million_resampled_draws_follow_equation_2(phase, gamma):
    counts = [count * 100 for count in LONG_TAIL]
    options = {"resample_epoch": 3}
    plan = make_plan(counts, batch_size=45_000, options=options, gamma=0.3, resample_gamma=gamma)
    assert plan.steps_per_epoch == 2
    rows = np.concatenate([plan.agnostic_rows(phase, 3 + i // 2, i % 2) for i in range(22)])
    drawn = np.bincount(plan.index["label"][rows], minlength=len(counts)) / len(rows)
    expected = oracle.class_probabilities(counts, gamma)
    error = np.sqrt(expected * (1 - expected) / len(rows))
    assert (np.abs(drawn - expected) < 4 * error).all()
    assert len(np.unique(rows)) < len(rows)  # with replacement
    within = rows[rows < counts[0]]  # images of the largest class, in 20 groups of equal size
    assert stats.chisquare(np.bincount(within // (counts[0] // 20))).pvalue > 1e-4


@pytest.mark.parametrize("phase", PHASES)
def test_resampling_changes_only_the_class_agnostic_stream_from_its_epoch_on(phase):
    plain, resampled = make_plan(), make_plan(options={"resample_epoch": 2})
    assert plain.steps_per_epoch == resampled.steps_per_epoch
    for epoch in range(5):
        for step in (0, 11, 29):
            one, other = plain.batch(phase, epoch, step), resampled.batch(phase, epoch, step)
            if epoch < 2 or phase == "rebalance":
                assert same(one, other)
                continue
            one, other = arrays(one), arrays(other)
            changed = {name for name in one if not np.array_equal(one[name], other[name])}
            assert changed == {"agnostic.rows", "agnostic.labels"}


@pytest.mark.parametrize("phase", PHASES)
def test_resampling_can_be_limited_to_one_phase(phase):
    options = {"resample_epoch": 2, "resample_phase": "translation"}
    expected = make_plan(options={"resample_epoch": 2}) if phase == "translation" else make_plan()
    plan = make_plan(options=options)
    assert all(same(plan.batch(phase, epoch, 3), expected.batch(phase, epoch, 3)) for epoch in range(4))


def test_resampled_draws_are_independent_of_the_other_draws():
    plan = make_plan([1000, 1000], batch_size=1000, options={"resample_epoch": 0})
    first = plan.batch("interpolative", 1, 0)
    others = [
        first.aware,
        plan.batch("warmup", 1, 0).agnostic,
        plan.batch("interpolative", 2, 0).agnostic,
        plan.batch("interpolative", 1, 1).agnostic,
        make_plan([1000, 1000], batch_size=1000, seed=8, options={"resample_epoch": 0})
        .batch("interpolative", 1, 0)
        .agnostic,
    ]
    for other in others:
        # 1000 pairs of equally probable classes agree 500 times, with standard deviation 16.
        assert abs((first.agnostic.labels == other.labels).sum() - 500) < 80


@given(
    counts=st.lists(st.integers(1, 40), min_size=1, max_size=8),
    held=st.data(),
    gamma=st.floats(-3, 3),
    epoch=st.integers(0, 50),
    world_size=st.sampled_from([1, 2]),
)
@settings(max_examples=40, deadline=None)
def test_resampled_batches_are_reproducible_and_without_holdout_rows(counts, held, gamma, epoch, world_size):
    first = np.cumsum(counts) - counts
    last = first + [held.draw(st.integers(0, count - 1)) for count in counts]  # one image of a class remains
    holdout_rows = np.concatenate([np.arange(*ends) for ends in zip(first, last, strict=True)])
    options = {"resample_epoch": epoch, "holdout_rows": holdout_rows}
    size = sum(counts) - len(holdout_rows)
    batch_size = max(1, size // 2 // world_size) * world_size
    if batch_size > size:
        return
    settings = {"batch_size": batch_size, "resample_gamma": gamma}
    plan = make_plan(counts, options=options, **settings)
    assert plan.steps_per_epoch == size // batch_size
    rows = plan.agnostic_rows("warmup", epoch, plan.steps_per_epoch - 1)
    assert len(rows) == batch_size
    assert not np.isin(rows, holdout_rows).any()
    parts = [
        make_plan(counts, options=options | {"rank": rank, "world_size": world_size}, **settings)
        .batch("warmup", epoch, plan.steps_per_epoch - 1)
        .agnostic.rows
        for rank in range(world_size)
    ]
    assert np.concatenate(parts).tolist() == rows.tolist()
    with pytest.raises(ValueError, match="outside an epoch"):
        plan.agnostic_rows("warmup", epoch, plan.steps_per_epoch)


@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 1.0), (0.2, 1.0), (2.0, 2.0)])
def test_lambda_follows_its_beta_distribution(alpha, beta):
    plan = make_plan(alpha=alpha, beta=beta, lambda_per="sample", batch_size=500)
    lam = np.concatenate([plan.batch("interpolative", epoch, 0).lam for epoch in range(20)])
    assert stats.kstest(lam, stats.beta(alpha, beta).cdf).pvalue > 1e-4


def test_lambda_per_batch_is_one_value_per_batch():
    plan = make_plan()
    lam = np.array([plan.batch("interpolative", 0, step).lam for step in range(20)])
    assert (lam == lam[:, :1]).all()
    assert len(np.unique(lam[:, 0])) == 20


RECORDED_LAMBDA = [0.02279086038, 0.24800455570, 0.86814981699, 0.59494382143]


def test_boxes_have_a_generator_of_their_own_in_every_step(monkeypatch):
    drawn = []

    def first_number(rng, lam, _):
        drawn.append(rng.random())
        return np.zeros((len(lam), 4), dtype=np.int32)

    monkeypatch.setattr("fasticcl.data.plan.cutmix_boxes", first_number)
    for rank in range(2):
        plan = make_plan(mixing="cutmix", options={"rank": rank, "world_size": 2})
        for epoch, step in product(range(3), range(4)):
            plan.batch("interpolative", epoch, step)
    assert drawn[:12] == drawn[12:]
    assert len(set(drawn)) == 12


@pytest.mark.parametrize("mixing", ["mixup", "none", "cutmix"])
def test_draws_of_earlier_versions_do_not_change(mixing):
    """Recorded before there was CutMix: fasticcl at commit 1b35a16."""
    for lambda_per, expected in (("batch", RECORDED_LAMBDA[:1] * 4), ("sample", RECORDED_LAMBDA)):
        settings = {"lambda_per": lambda_per, "mixing": mixing, "color_jitter": (0.4, 0.4, 0.4)}
        batch = make_plan(batch_size=8, **settings).batch("interpolative", 1, 2)
        assert batch.agnostic.rows.tolist() == [543, 694, 36, 647, 472, 237, 660, 48]
        assert batch.aware.rows.tolist() == [65, 539, 894, 899, 514, 777, 898, 345]
        assert batch.agnostic.windows[0].tolist() == [9, 234, 286, 229]
        assert batch.aware.colors[0] == pytest.approx([0.7238869071, 1.1097189188, 1.2871341705])
        assert (batch.boxes is None) == (mixing != "cutmix")
        if mixing != "cutmix":
            assert batch.lam[:4] == pytest.approx(expected)


@pytest.mark.parametrize("lambda_per", ["batch", "sample"])
def test_cutmix_changes_only_lambda_and_adds_boxes(lambda_per):
    settings = {"lambda_per": lambda_per, "image_size": 32, "eval_resize": 0}
    for step in range(10):
        mixup, cutmix = (
            make_plan(mixing=mixing, **settings).batch("interpolative", 0, step)
            for mixing in ("mixup", "cutmix")
        )
        for name, value in arrays(mixup).items():
            assert name == "lam" or np.array_equal(value, arrays(cutmix)[name])
        boxes = cutmix.boxes.astype(float)
        assert cutmix.lam.dtype == np.float32
        assert np.array_equal(cutmix.lam, (1 - boxes[:, 2] * boxes[:, 3] / 32**2).astype(np.float32))
        # The box has the side of the drawn λ, unless it reaches beyond the image.
        sides = np.floor(32 * np.sqrt(1 - mixup.lam)) // 2 * 2
        whole = (boxes[:, :2] > 0).all(1) & (boxes[:, :2] + boxes[:, 2:] < 32).all(1) & (sides > 0)
        assert (boxes[whole, 2:] == sides[whole, None]).all()
        assert len(np.unique(boxes, axis=0)) == 1 or lambda_per == "sample"
        assert len(np.unique(boxes, axis=0)) > 5 or lambda_per == "batch"


@pytest.mark.parametrize("mixing", ["mixup", "cutmix"])
@pytest.mark.parametrize("lambda_per", ["batch", "sample"])
def test_each_lambda_is_kept_with_the_mixing_probability(mixing, lambda_per):
    settings = {"mixing": mixing, "lambda_per": lambda_per, "batch_size": 100, "alpha": 0.5}
    plans = [make_plan(mixing_probability=p, **settings) for p in (1.0, 0.3, 0.0)]
    steps = [(epoch, 0) for epoch in range(10 if lambda_per == "sample" else 150)]
    always, sometimes, never = (
        np.stack([plan.batch("interpolative", *step).lam for step in steps]) for plan in plans
    )
    assert (never == 1).all()
    kept = sometimes != 1
    assert np.array_equal(sometimes[kept], always[kept])
    drawn = kept if lambda_per == "sample" else kept[:, 0]
    assert lambda_per == "sample" or (kept == kept[:, :1]).all()
    drawn = drawn[(always if lambda_per == "sample" else always[:, 0]) != 1]
    assert abs(drawn.mean() - 0.3) < 4 * np.sqrt(0.21 / drawn.size)
    # The decision does not depend on λ.
    lam = (always if lambda_per == "sample" else always[:, 0]).ravel()
    lam = lam[lam != 1]
    assert abs(np.corrcoef(drawn.ravel(), lam)[0, 1]) < 4 / np.sqrt(lam.size)


@pytest.mark.parametrize("lambda_per", ["batch", "sample"])
def test_boxes_of_unmixed_images_are_empty(lambda_per):
    plan = make_plan(mixing="cutmix", mixing_probability=0.4, lambda_per=lambda_per)
    batches = [plan.batch("interpolative", 0, step) for step in range(20)]
    lam, boxes = (np.concatenate([getattr(b, name) for b in batches]) for name in ("lam", "boxes"))
    unmixed = lam == 1
    assert 0.2 < unmixed.mean() < 0.9
    assert (boxes[unmixed] == [224, 224, 0, 0]).all()
    assert (boxes[~unmixed, 2:] > 0).all()


def test_purposes_are_not_keys_of_substitutes(monkeypatch):
    """The keys of substitutes are 5 + 8 · row."""
    keys, philox = set(), np.random.Philox

    def record(*, counter, key):
        keys.add(key[1])
        return philox(counter=counter, key=key)

    plan = make_plan(mixing="cutmix", options={"resample_epoch": 1})
    monkeypatch.setattr(np.random, "Philox", record)
    for phase in PHASES:
        for epoch in (0, 1):
            plan.batch(phase, epoch, 0)
            plan.method_rng(phase, epoch, 0)
    assert len(keys) == 9
    assert not [key for key in keys if key % 8 == 5]


def test_pad_crops_shift_uniformly():
    plan = make_plan(
        [3000], batch_size=3000, crop="pad", crop_padding=4, image_size=32, eval_resize=0, size=(32, 32)
    )
    cuts = np.concatenate([plan.batch("warmup", epoch, 0).agnostic.cuts for epoch in range(3)])
    for axis in (0, 1):
        values, seen = np.unique(cuts[:, axis], return_counts=True)
        assert values.tolist() == list(range(-4, 5))
        assert stats.chisquare(seen).pvalue > 1e-4


@pytest.mark.parametrize("flip", [0.0, 0.5, 1.0])
def test_flips_have_the_configured_probability(flip):
    plan = make_plan([4000], batch_size=4000, flip=flip)
    assert abs(plan.batch("warmup", 0, 0).agnostic.flips.mean() - flip) < 4 * np.sqrt(0.25 / 4000)


def test_colour_factors_cover_their_range():
    plan = make_plan([4000], batch_size=4000, color_jitter=(0.4, 0.1, 1.5))
    colors = plan.batch("warmup", 0, 0).agnostic.colors
    for column, (low, high) in enumerate([(0.6, 1.4), (0.9, 1.1), (0.0, 2.5)]):
        assert stats.kstest(colors[:, column], stats.uniform(low, high - low).cdf).pvalue > 1e-4


@given(height=st.integers(1, 2000), width=st.integers(1, 2000))
@settings(max_examples=100, deadline=None)
def test_evaluation_resizes_the_whole_image_and_cuts_the_centre(height, width):
    plan = make_plan([1], batch_size=1, size=(height, width))
    stream = evaluation_stream(plan.index, np.array([0]), plan.data)
    assert stream.windows.tolist() == [[0, 0, height, width]]
    assert stream.sizes.min() == 256
    assert (
        np.abs(stream.sizes[0] * (min(height, width) / 256) - (height, width)).max()
        <= min(height, width) / 256
    )
    assert np.abs(2 * stream.cuts[0] + 224 - stream.sizes[0]).max() <= 1


@pytest.mark.parametrize("step", [-1, 30])
def test_step_outside_the_epoch_is_rejected(step):
    plan = make_plan()
    assert plan.steps_per_epoch == 30
    with pytest.raises(ValueError, match="outside an epoch of 30 steps"):
        plan.batch("warmup", 0, step)


def test_impossible_plans_are_rejected():
    with pytest.raises(ValueError, match="larger than the 5 training images"):
        make_plan([5], batch_size=6)
    with pytest.raises(ValueError, match="divided among 4 ranks"):
        make_plan(batch_size=30, options={"world_size": 4})
    with pytest.raises(ValueError, match="at least one training image"):
        make_plan([5, 0], batch_size=2)
