"""Medians, spread and warm-up, with a clock that only moves when it is told to."""

import pytest

from fasticcl.bench.measure import Measurement, Stopwatch, in_turns, rate


class FakeClock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def work_of(clock, seconds, images=8):
    """A work whose n-th batch takes ``seconds[n]``, the last of them for ever."""

    def start():
        for number in range(1000):
            clock.now += seconds[min(number, len(seconds) - 1)]
            yield images

    return start


def test_the_median_and_the_spread_are_those_of_the_runs():
    found = Measurement((5.0, 1.0, 3.0, 100.0), "images/s")
    assert (found.median, found.min, found.max) == (4.0, 1.0, 100.0)
    assert found.to_dict() == {
        "unit": "images/s",
        "median": 4.0,
        "min": 1.0,
        "max": 100.0,
        "runs": [5.0, 1.0, 3.0, 100.0],
    }


@pytest.mark.parametrize("warmup", [0, 1, 3])
def test_batches_of_the_warm_up_are_not_counted(warmup):
    clock = FakeClock()
    slow_at_first = work_of(clock, [50.0] * warmup + [0.5])
    assert rate(slow_at_first, seconds=2, warmup=warmup, clock=clock) == 8 / 0.5


def test_a_warm_up_that_is_too_short_would_show():
    clock = FakeClock()
    assert rate(work_of(clock, [50.0, 0.5]), seconds=60, warmup=0, clock=clock) < 8 / 0.5


def test_a_run_ends_with_the_first_batch_after_its_seconds():
    clock = FakeClock()
    rate(work_of(clock, [0.75]), seconds=2, warmup=1, clock=clock)
    assert clock.now == 0.75 * (1 + 3)


def test_work_that_is_still_on_the_device_is_waited_for_before_and_after_and_never_between():
    clock, begun = FakeClock(), []

    def settle():
        clock.now += 1.0
        begun.append(clock.now)

    # Two seconds of batches and the second that the device needs for what was only handed to it.
    assert rate(work_of(clock, [0.5]), seconds=2, warmup=2, clock=clock, settle=settle) == 4 * 8 / 3
    assert len(begun) == 2


def test_works_take_turns_that_turn_round():
    clock, order = FakeClock(), []

    def named(name):
        def start():
            order.append(name)
            yield from work_of(clock, [1.0])()

        return start

    works = {"a": named("a"), "b": named("b")}
    found = in_turns(works, repeats=3, seconds=1, warmup={"a": 0, "b": 0}, clock=clock)
    assert order == ["a", "b", "b", "a", "a", "b"]
    assert found["a"].runs == (8.0, 8.0, 8.0)


def test_a_stopwatch_charges_the_innermost_part():
    clock = FakeClock()
    watch = Stopwatch("rest", clock=clock)
    clock.now += 1
    with watch.part("outer"):
        clock.now += 2
        with watch.part("inner"):
            clock.now += 4
        clock.now += 8
    clock.now += 16
    assert watch.lap() == {"rest": 17, "outer": 10, "inner": 4}
    clock.now += 1
    assert watch.lap() == {"rest": 1}


def test_a_stopwatch_watches_one_object_and_gives_it_back():
    class Thing:
        def double(self, x):
            clock.now += 3
            return 2 * x

    clock = FakeClock()
    one, other, watch = Thing(), Thing(), Stopwatch("rest", clock=clock)
    with watch.watching(one, "double", "doubling"):
        assert one.double(4) == 8
        other.double(1)
    one.double(1)
    assert watch.lap() == {"rest": 6, "doubling": 3}
    assert "double" not in vars(one)


def test_a_stopwatch_waits_for_the_device_at_every_change():
    clock = FakeClock()
    pending = [0.0]

    def settle():
        clock.now += pending[0]
        pending[0] = 0.0

    watch = Stopwatch("rest", settle, clock)
    with watch.part("launch"):
        pending[0] = 5.0  # handed to the device, which takes so long
    assert watch.lap() == {"launch": 5.0, "rest": 0.0}
